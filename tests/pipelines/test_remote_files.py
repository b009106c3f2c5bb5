"""Remote files: the failure table; what is fetched, shared, pinned, removed and kept."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from http_store import Answer, HttpStore, Request, etag_of, serving, skip_unless_local

from pipelines.remote import disk, loop, record, store
from pipelines.remote.connect import RETRY, Retry, store_of
from pipelines.remote.errors import RemoteError
from pipelines.remote.file import (
    RemoteFile,
    RemoteOptions,
    open_all,
    open_remote,
    piece_checksums,
)
from pipelines.remote.sparse import PIECE, Identity, runs
from pipelines.system import cache

pytest.importorskip("obstore", reason="remote files need obstore: pip install 'unmix[remote]'")
FAST = Retry(attempts=3, first_wait=0.002, longest_wait=0.01, silence=5.0, total=9.0)
SIZE = 11 * PIECE + 777
DATA = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)


def span(*ranges: tuple[int, int]) -> np.ndarray:
    return np.array(ranges, np.int64).reshape(-1, 2)


EVERYTHING = span((0, SIZE))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[HttpStore]:
    skip_unless_local(tmp_path)
    with serving({"a.beton": DATA.tobytes()}) as server:
        yield server


@pytest.fixture
def options(tmp_path: Path) -> RemoteOptions:
    return RemoteOptions(tmp_path / "cache", connections=4, retry=FAST)


@pytest.fixture
def file(web: HttpStore, options: RemoteOptions) -> Iterator[RemoteFile]:
    opened = open_remote(f"{web.url}/a.beton", options)
    web.requests.clear()
    yield opened
    opened.close()


def read(file: RemoteFile, begin: int = 0, end: int = SIZE) -> None:
    """Hold a range, and compare its bytes."""
    with file.held(span((begin, end))):
        here = np.memmap(file.path, np.uint8, "r")
        assert len(here) == SIZE
        np.testing.assert_array_equal(here[begin:end], DATA[begin:end])


@pytest.mark.parametrize("kind", ["500", "503", "429", "reset", "truncate"])
def test_what_passes_is_retried_and_what_stays_is_named(
    web: HttpStore, file: RemoteFile, kind: str
) -> None:
    web.fault(kind)
    read(file, 0, 3 * PIECE)
    web.fault(kind, times=99)
    with pytest.raises(
        RemoteError, match=rf"{web.url}/a.beton: the request failed after"
    ) as caught:
        read(file, 3 * PIECE, SIZE)
    assert "--resume" not in str(caught.value)  # whoever reads may be no run
    assert ("--fetch-connections" in str(caught.value)) == (kind in ("503", "429"))
    web.heal()
    read(file)


def test_a_store_may_restart(web: HttpStore, options: RemoteOptions) -> None:
    """It is the time that ends the attempts, not their number: 30 are no reason to stop."""
    quick = replace(RETRY, first_wait=0.001, longest_wait=0.002)
    file = open_remote(f"{web.url}/a.beton", replace(options, retry=quick))
    web.fault("503", times=30)
    read(file, 0, PIECE)
    file.close()
    assert quick.attempts * RETRY.longest_wait > RETRY.total


def test_a_host_that_does_not_answer_is_named(web: HttpStore, options: RemoteOptions) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(
        RemoteError, match=rf"no connection \(127\.0\.0\.1:{port}, 4 tries in .* s\)"
    ):
        open_remote(f"http://127.0.0.1:{port}/a.beton", options)


def test_a_reply_that_does_not_come_is_asked_for_again(
    web: HttpStore, options: RemoteOptions
) -> None:
    retry = replace(FAST, attempts=1, silence=0.3)
    file = open_remote(f"{web.url}/a.beton", replace(options, retry=retry))
    web.fault("hang")
    read(file, 0, PIECE)
    web.fault("hang", times=99)
    with pytest.raises(RemoteError, match="the request failed"):
        read(file, PIECE, SIZE)
    file.close()


def test_a_broken_reply_is_resumed_in_the_middle(web: HttpStore, file: RemoteFile) -> None:
    web.fault("truncate")
    read(file, 0, 8 * PIECE)
    assert [request.range for request in web.requests] == [(0, 8 * PIECE), (4 * PIECE, 8 * PIECE)]
    assert all("if-match" in request.headers for request in web.requests)


REFUSED = {
    "short range": "the server sent other bytes than asked for",
    "other range": "the server sent other bytes than asked for",
    "whole": r"does not serve ranges .*python -m http.server does not",
    "403": r"access denied \(403\).*a signed URL",
    "401": r"access denied \(401\).*a signed URL",
    "404": r"no such object \(404\).*spelling",
    "412": r"the object has changed since it was opened \(412",
    "new etag": r'the object has changed since it was opened .*"another" now',
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_pass_is_refused_at_once(web: HttpStore, file: RemoteFile, kind: str) -> None:
    web.fault(kind, times=99)
    with pytest.raises(RemoteError, match=REFUSED[kind]) as caught:
        read(file, 0, PIECE)
    assert len(web.requests) == 1 and f"{web.url}/a.beton" in str(caught.value)
    assert "Debug" not in str(caught.value)
    web.heal()
    read(file)


def test_a_reply_that_is_longer_than_its_range_is_refused(web: HttpStore, file: RemoteFile) -> None:
    """Its length may contradict its Content-Range: nothing after the range counts as a piece."""

    def longer(request: Request) -> Answer:
        assert request.range is not None
        begin, end = request.range
        headers = {"ETag": etag_of(DATA.tobytes())}
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{SIZE}"
        return Answer(206, bytes(end - begin + PIECE), headers)

    web.routes.append(longer)
    for pieces in (1, 5):
        with pytest.raises(RemoteError, match=r"sent other bytes than asked for \(more bytes"):
            read(file, 0, pieces * PIECE)
    assert file._file.record.state[5:].tolist() == [0] * 7


def test_bytes_of_two_versions_are_never_mixed(
    web: HttpStore, file: RemoteFile, options: RemoteOptions
) -> None:
    read(file, 0, PIECE)
    web.objects["a.beton"] = DATA[::-1].tobytes()
    with pytest.raises(RemoteError, match="has changed since"):
        read(file, PIECE, 2 * PIECE)
    with pytest.raises(RemoteError, match="has changed since"):
        pickle.loads(pickle.dumps(file))
    new = open_remote(f"{web.url}/a.beton", options)
    assert new.path != file.path and new.missing() >= SIZE
    with new.held(EVERYTHING):
        np.testing.assert_array_equal(np.memmap(new.path, np.uint8, "r"), DATA[::-1])
    new.close()
    read(file, 0, PIECE)
    web.objects["b.beton"] = DATA.tobytes()
    other = open_remote(f"{web.url}/b.beton", options)
    other.close()
    file.close()
    open_remote(f"{web.url}/a.beton", options).close()  # the old version is of no use any more
    assert {path.parent.parent for path in options.cache_dir.glob("*/*/meta.json")} == {
        file.path.parent.parent
    }
    assert not file.path.exists() and new.path.exists() and other.path.exists()


def test_checksums_find_wrong_bytes(web: HttpStore, options: RemoteOptions, tmp_path: Path) -> None:
    local = tmp_path / "a.beton"
    local.write_bytes(DATA.tobytes())
    file = open_remote(f"{web.url}/a.beton", options, piece_checksums(local))
    web.fault("bad bytes")
    read(file, 0, 2 * PIECE)
    web.fault("bad bytes", times=99)
    with pytest.raises(RemoteError, match=r"bytes 524,288 to 786,432 have another checksum"):
        read(file, 2 * PIECE, 3 * PIECE)
    web.heal()
    read(file)
    file.close()
    with pytest.raises(RemoteError, match="12 pieces, and 3 checksums"):
        open_remote(f"{web.url}/a.beton", options, [1, 2, 3])


def test_a_full_disk_leaves_what_is_there_right(
    web: HttpStore, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(file, 0, PIECE)

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(RemoteError, match=r"the disk of .* is full.*--cache-size"):
            read(file, 0, 2 * PIECE)
        read(file, 0, PIECE)
    read(file)


def test_a_full_disk_has_room_for_the_record(file: RemoteFile) -> None:
    """A page of a map that finds no block ends the process by SIGBUS."""
    stat = (file.path.parent / "present").stat()
    assert stat.st_blocks * 512 >= stat.st_size > record.HEADER


def test_a_disk_that_fails_is_named(
    web: HttpStore, file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", broken)
        with pytest.raises(RemoteError, match=r"a\.beton: its copy in .*\(Input/output error\)"):
            read(file, 0, PIECE)
    read(file)


def test_what_is_here_outlasts_a_reboot_although_nobody_closes_the_file(
    web: HttpStore, options: RemoteOptions
) -> None:
    file = open_remote(f"{web.url}/a.beton", options)
    read(file, 0, 2 * PIECE)
    kept = file._file.record
    assert not kept.durable.any()
    del file
    gc.collect()
    assert kept.durable.tolist() == [1, 1, *[0] * 10]


def test_a_thread_that_the_loop_waits_for_never_waits_for_the_loop(
    file: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may be collected as garbage in any thread, also in one that syncs."""
    seen: list[bool] = []
    monkeypatch.setattr(loop, "SYNC_EVERY", 0.0)
    monkeypatch.setattr(file._transfer, "sync", lambda: seen.append(file._loop.is_its_thread()))
    until = time.monotonic() + 20
    while not seen and time.monotonic() < until:
        time.sleep(0.01)
    assert seen and all(seen) and not file._loop.is_its_thread()


def test_an_error_ahead_is_raised_once_and_the_next_call_works(
    web: HttpStore, file: RemoteFile
) -> None:
    web.fault("403")
    file.will_need(span((0, 1)))
    with file._scope.changed:
        file._scope.changed.wait_for(lambda: file._scope.error is not None, 20)
    with pytest.raises(RemoteError, match="403"):
        file.will_need(span((PIECE, PIECE + 1)))
    read(file)


def test_requests_are_joined_and_each_piece_is_fetched_once(
    web: HttpStore, file: RemoteFile
) -> None:
    pieces = [(10, 20), (15, PIECE + 1), (5 * PIECE - 1, 5 * PIECE), (9 * PIECE, 9 * PIECE)]
    file.will_need(span(*pieces))
    read(file, 10, PIECE + 1)
    read(file, 5 * PIECE - 1, 5 * PIECE)
    read(file, 10, 20)
    want = [(0, 2 * PIECE), (4 * PIECE, 5 * PIECE)]
    assert sorted(web.fetched()) == want
    counters = file.counters
    assert (counters.requests, counters.bytes_fetched) == (2, 3 * PIECE)
    assert counters.bytes_held == PIECE - 9 + 1 + 10
    read(file)
    want += [(2 * PIECE, 4 * PIECE), (5 * PIECE, SIZE)]
    assert sorted(web.fetched()) == sorted(want) and file.missing() == 0


def test_no_request_is_longer_than_8_mib_and_no_more_run_than_allowed(
    options: RemoteOptions,
) -> None:
    size = 40 << 20
    with serving({"big": bytes(size)}, latency=0.005) as web:
        file = open_remote(f"{web.url}/big", replace(options, connections=2))
        file.ensure(span((0, size)))
        asked = sorted(web.fetched())[1:]
        assert asked == [(at, at + (8 << 20)) for at in range(0, size, 8 << 20)]
        assert web.busiest <= 2
        file.close()


def test_what_a_step_waits_for_overtakes_what_is_ahead(
    web: HttpStore, options: RemoteOptions
) -> None:
    file = open_remote(f"{web.url}/a.beton", replace(options, connections=1))

    def until_a_step_waits(request: Request) -> None:
        until = time.monotonic() + 20
        while not file._transfer.wanted and time.monotonic() < until:
            if web.closing.wait(0.002):
                return

    web.routes.append(until_a_step_waits)
    for piece in range(0, 10, 2):
        file.will_need(span((piece * PIECE, piece * PIECE + 1)))
    read(file, SIZE - 1, SIZE)
    assert (11 * PIECE, SIZE) in web.fetched()[:4]
    file.close()


def test_four_processes_fetch_each_piece_once(
    web: HttpStore, file: RemoteFile, options: RemoteOptions
) -> None:
    program = """
        import pickle, sys
        import numpy as np
        file = pickle.loads(bytes.fromhex(sys.argv[1]))
        for seed in range(3):
            rng = np.random.default_rng(seed)  # the same of all, so that they meet
            begin = rng.integers(0, file.size - 1, 12)
            ranges = np.stack((begin, np.minimum(begin + 300_000, file.size)), axis=1)
            file.will_need(ranges)
            with file.held(ranges):
                here = np.memmap(file.path, np.uint8, "r")
                print([int(here[a:b].astype(np.int64).sum()) for a, b in ranges.tolist()])
        file.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), pickle.dumps(file).hex()]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate(timeout=120)[0] for process in started}
    assert [process.returncode for process in started] == [0] * 4
    want = []
    for seed in range(3):
        begin = np.random.default_rng(seed).integers(0, SIZE - 1, 12)
        want += [[int(DATA[a : a + 300_000].astype(np.int64).sum()) for a in begin]]
    assert said == {"".join(f"{line}\n" for line in want)}
    fetched = [range_ for range_ in web.fetched() if range_ != (0, 1)]  # the openings
    covered = np.zeros(SIZE, np.uint8)
    for begin, end in fetched:
        covered[begin:end] += 1
    assert covered.max() == 1
    read(file)


def test_a_pinned_piece_outlives_eviction(web: HttpStore, options: RemoteOptions) -> None:
    small = replace(options, cache_size=3 * PIECE)
    file = open_remote(f"{web.url}/a.beton", small)
    with file.held(span((0, 2 * PIECE))):
        here = np.memmap(file.path, np.uint8, "r")
        for at in range(2 * PIECE, SIZE, PIECE):
            read(file, at, min(at + PIECE, SIZE))
        np.testing.assert_array_equal(here[: 2 * PIECE], DATA[: 2 * PIECE])
        assert file.path.stat().st_blocks * 512 <= 3 * PIECE
    for at in range(2 * PIECE, SIZE, PIECE):
        read(file, at, min(at + PIECE, SIZE))
    assert not here[: 2 * PIECE].any()  # a hole, seen by a map from before
    read(file)  # more than the cache may take: it is exceeded, and nothing waits for ever
    assert file._transfer.room.exceeded > 0
    read(file, 0, 1)
    file.close()


def test_eviction_takes_the_least_recently_used_of_all_files(
    web: HttpStore, options: RemoteOptions
) -> None:
    web.objects["b.beton"] = DATA.tobytes()
    small = replace(options, cache_size=6 * PIECE)
    urls = [f"{web.url}/a.beton", f"{web.url}/b.beton"]
    first, second = open_all(urls, small)
    for piece in (0, 1, 2):
        read(first, piece * PIECE, (piece + 1) * PIECE)
    for piece in (0, 1, 2):
        read(second, piece * PIECE, (piece + 1) * PIECE)
    read(first, 0, PIECE)  # used again
    read(second, 3 * PIECE, 4 * PIECE)
    state = [np.flatnonzero(f._file.record.state[:4]).tolist() for f in (first, second)]
    assert state == [[0, 2], [0, 1, 2, 3]]
    first.close()
    second.close()


def test_what_is_ahead_never_removes_what_is_ahead(web: HttpStore, options: RemoteOptions) -> None:
    file = open_remote(f"{web.url}/a.beton", replace(options, cache_size=4 * PIECE))
    for piece in range(8):
        file.will_need(span((piece * PIECE, piece * PIECE + 1)))
    for piece in range(8):
        read(file, piece * PIECE, (piece + 1) * PIECE)
    covered = np.zeros(SIZE, np.uint8)
    for begin, end in web.fetched()[1:]:
        covered[begin:end] += 1
    assert covered.max() == 1
    file.close()


@pytest.mark.parametrize("evicting", [False, True])
def test_after_a_reboot_only_what_was_synced_counts(
    web: HttpStore, options: RemoteOptions, evicting: bool
) -> None:
    options = replace(options, cache_size=8 * PIECE if evicting else None)
    file = open_remote(f"{web.url}/a.beton", options)
    if evicting:
        for at in range(0, SIZE, PIECE):
            read(file, at, min(at + PIECE, SIZE))
    read(file, 0, 2 * PIECE)
    file._transfer.sync()
    read(file, 2 * PIECE, 4 * PIECE)
    file._transfer._unsaved = False  # without a sync, as a killed process
    file._end()
    with file.path.open("r+b") as data:  # what a power cut may leave of bytes that were not synced
        data.seek(2 * PIECE)
        data.write(bytes(2 * PIECE))
    with (file.path.parent / "present").open("r+b") as present:
        present.write(b"another boot".ljust(64, b"\0"))
    web.requests.clear()
    again = open_remote(f"{web.url}/a.beton", options)
    read(again, 0, 4 * PIECE)
    begin = 0 if evicting else 2 * PIECE
    assert web.fetched()[1:] == [(begin, 4 * PIECE)]
    assert again._file.record.boot == record.boot_id()
    again.close()


def test_a_killed_fetch_is_repeated(web: HttpStore, options: RemoteOptions) -> None:
    options = replace(options, cache_size=4 * PIECE)
    file = open_remote(f"{web.url}/a.beton", options)
    file._file.reserve((0, 4))  # as a process leaves it that is killed in a GET
    read(file, 8 * PIECE, 9 * PIECE)
    assert np.count_nonzero(file._file.record.state) <= 4
    read(file, 0, 2 * PIECE)
    file.close()


def test_files_that_a_power_cut_left_short_are_filled_again(
    web: HttpStore, options: RemoteOptions
) -> None:
    file = open_remote(f"{web.url}/a.beton", options)
    read(file)
    file.close()
    for name, size in ((file.path.name, PIECE), ("present", 0), ("present", 100)):
        os.truncate(file.path.parent / name, size)
        again = open_remote(f"{web.url}/a.beton", options)
        read(again)
        again.close()


def test_an_object_may_have_any_name(web: HttpStore, options: RemoteOptions) -> None:
    for name in ("present", "meta.json", "x" * 200 + ".beton"):
        web.objects[f"a/{name}"] = DATA.tobytes()
        file = open_remote(f"{web.url}/a/{name}", options)
        read(file)
        assert file.path.suffix == Path(name).suffix
        file.close()


def test_opening_again_fetches_nothing(web: HttpStore, options: RemoteOptions) -> None:
    file = open_remote(f"{web.url}/a.beton", options)
    read(file)
    file.close()
    with pytest.raises(RemoteError, match="closed"):
        file.will_need(EVERYTHING)
    web.requests.clear()
    again = open_remote(f"{web.url}/a.beton", options)
    read(again)
    copy = pickle.loads(pickle.dumps(again))
    read(copy)
    assert web.fetched() == [(0, 1), (0, 1)]
    again.close()
    read(copy)
    copy.close()


def test_places_that_are_none(
    web: HttpStore, options: RemoteOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{web.url}/a.beton"
    with monkeypatch.context() as patch:
        patch.setattr(disk, "_file_system", lambda folder: 0x6969)
        with pytest.raises(RemoteError, match=r"no place .*\(NFS\).*--cache-dir"):
            open_remote(url, options)

    def unsupported(*args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "punch", unsupported)
        with pytest.raises(RemoteError, match=r"no place .*not supported.*--cache-dir"):
            open_remote(url, options)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "free_bytes", lambda folder: PIECE)
        with pytest.raises(RemoteError, match=r"2.9 MB are still to be fetched.* 262.1 kB left"):
            open_remote(url, options)
        open_remote(url, replace(options, cache_size=PIECE)).close()
    options.cache_dir.rename(options.cache_dir.with_name("other"))
    options.cache_dir.write_text("a file")
    with pytest.raises(RemoteError, match=r"cannot be written \(.*--cache-dir"):
        open_remote(url, options)


def test_a_fork_is_refused(file: RemoteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RemoteError, match="fork"):
            read(file)
        with pytest.raises(RemoteError, match="forked"):
            store.open_object(file.title)


def test_ctrl_c_does_not_wait_for_the_store(web: HttpStore, tmp_path: Path) -> None:
    program = f"""
        import numpy as np
        from pathlib import Path
        from pipelines.remote.connect import Retry
        from pipelines.remote.file import RemoteOptions, open_remote
        options = RemoteOptions(Path({str(tmp_path)!r}), retry=Retry(silence=600.0))
        file = open_remote("{web.url}/a.beton", options)
        print("open", flush=True)
        file.ensure(np.array([[0, file.size]]))
    """
    web.fault("hang", times=99, after=1)
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"open\n"
        while not any(request.status == 0 for request in web.requests):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == -signal.SIGINT  # the hang lasts longer
        assert process.stderr.read().rstrip().endswith(b"KeyboardInterrupt")


def test_pieces_of_ranges(file: RemoteFile) -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        begin = rng.integers(0, SIZE - 1, 5)
        ranges = np.stack((begin, np.minimum(begin + rng.integers(0, 3 * PIECE, 5), SIZE)), 1)
        want = sorted(
            {
                at // PIECE
                for a, b in ranges.tolist()
                for at in {*range(a, b, PIECE), b - 1}
                if b > a
            }
        )
        assert file._file.pieces_of(ranges).tolist() == want
    assert runs(np.array([3]), 2) == [(3, 4)] and runs(np.array([], np.int64)) == []
    assert re.fullmatch(r"[0-9a-f]{32}", file.path.parent.name) and file.path.name == "a.beton"


def test_the_cache_lists_copies_and_removes_those_that_nobody_has_open(
    web: HttpStore, options: RemoteOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMIX_CACHE", str(options.cache_dir))
    monkeypatch.setenv("UNMIX_CACHE_LIMIT", "0.001")  # GB; a copy is over it, and none of its
    file = open_remote(f"{web.url}/a.beton", options)
    read(file)
    cache.make_room(1000)
    (entry,) = cache.entries()
    assert entry.path == file.path.parent and entry.bytes >= SIZE
    assert cache.empty() == ([], [entry])
    read(file)
    file.close()
    locked, rmtree = list[bool](), shutil.rmtree

    def remove(folder: Path, ignore_errors: bool) -> None:
        handle = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            locked.append(False)
        os.close(handle)
        rmtree(folder, ignore_errors)
        locked.append(not locked)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", remove)
        gone, used = cache.empty()
    assert [entry.path for entry in gone] == [file.path.parent] and not used
    assert locked == [True]
    again = open_remote(f"{web.url}/a.beton", options)
    read(again)
    again.close()


def test_servers_of_one_url_have_a_copy_each(
    tmp_path: Path, options: RemoteOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of another server's object is no older version of this one's."""
    skip_unless_local(tmp_path)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    folders, objects = [], [DATA.tobytes(), DATA.tobytes(), DATA[::-1].tobytes()]
    for data in objects:
        with serving({"bucket/a.beton": data}) as web:
            monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
            store_of.cache_clear()
            file = open_remote("s3://bucket/a.beton", options)
            file.ensure(span((0, 9)))
            assert file.bytes[:9].tobytes() == data[:9] and len(web.fetched()) == 2
            folders.append(file.path.parent)
            file.close()
    store_of.cache_clear()
    assert len(set(folders)) == 3 and all(folder.is_dir() for folder in folders)
    usual, other = (Identity("s3://b/a", "v", 1, PIECE, at).folder for at in ("", "http://x"))
    assert usual == "a6b6c6d8e087e8f50075f7425809a802" != other  # where former versions kept it
