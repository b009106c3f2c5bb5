"""Remote files under kill -9, eviction, faulty servers and full disks: no byte is wrong."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from http_store import HttpStore, serving

from pipelines.remote.connect import Retry
from pipelines.remote.errors import RemoteError
from pipelines.remote.file import RemoteOptions, open_remote
from pipelines.remote.sparse import PIECE

PIECES = 96
DATA = np.random.default_rng(0).integers(0, 256, PIECES * PIECE - 1000, np.uint8)
FAST = Retry(attempts=3, first_wait=0.002, longest_wait=0.01, silence=5.0, total=9.0)
READER = """
    import sys
    from pathlib import Path
    import numpy as np
    from pipelines.remote.file import RemoteOptions, open_remote
    url, cache, size, seed, steps = sys.argv[1:]
    want = np.random.default_rng(0).integers(0, 256, {size}, np.uint8)
    options = RemoteOptions(Path(cache), int(size) or None, connections=4)
    file = open_remote(url, options)
    rng = np.random.default_rng(int(seed))
    def rows(step):
        begin = np.random.default_rng([int(seed), step]).integers(0, len(want) - 1, 6)
        return np.stack((begin, np.minimum(begin + 100_000, len(want))), axis=1)
    for step in range(int(steps)):
        file.will_need(rows(step + 1))
        with file.held(rows(step)):
            wrong = sum(not np.array_equal(file.bytes[a:b], want[a:b]) for a, b in rows(step))
        print(wrong, flush=True)
    file.close()
"""


@pytest.fixture
def web() -> Iterator[HttpStore]:
    with serving({"a.beton": DATA.tobytes()}) as server:
        yield server


def reader(web: HttpStore, cache: Path, size: int, seed: int, steps: int) -> subprocess.Popen[str]:
    program = textwrap.dedent(READER.format(size=len(DATA)))
    arguments = [f"{web.url}/a.beton", str(cache), str(size), str(seed), str(steps)]
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("size", [0, 40 * PIECE])
def test_killed_readers_leave_no_wrong_byte(web: HttpStore, tmp_path: Path, size: int) -> None:
    """Four readers of one cache; some reader is killed 24 times, at any moment of its work."""
    rng = np.random.default_rng(size)
    running = [reader(web, tmp_path, size, seed, 10_000) for seed in range(4)]
    rows = kills = 0
    for seed in range(4, 28):
        victim = running[int(rng.integers(4))]
        assert victim.stdout is not None and victim.stdout.readline() == "0\n"
        time.sleep(rng.random() * 0.3)
        assert victim.poll() is None
        victim.kill()
        lines = victim.communicate()[0].split()
        rows += 6 * (1 + len(lines))
        kills += 1
        assert set(lines) <= {"0"}
        running[running.index(victim)] = reader(web, tmp_path, size, seed, 10_000)
    for process in running:
        process.kill()
        assert set(process.communicate()[0].split()) <= {"0"}
    last = reader(web, tmp_path, size, 99, 30)
    assert last.communicate(timeout=120)[0].split() == ["0"] * 30 and last.returncode == 0
    assert kills == 24 and rows > 24 * 6
    file = open_remote(f"{web.url}/a.beton", RemoteOptions(tmp_path, size or None, retry=FAST))
    here = np.flatnonzero(file._file.record.state == 1)
    for piece in here.tolist():
        begin, end = file._file.bytes_of((piece, piece + 1))
        np.testing.assert_array_equal(file.bytes[begin:end], DATA[begin:end])
    if size:
        assert np.count_nonzero(file._file.record.state) <= 40 + 2 * 6 * 4
    file.close()


def test_a_server_that_fails_at_random_gives_right_bytes(web: HttpStore, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    file = open_remote(f"{web.url}/a.beton", RemoteOptions(tmp_path, 24 * PIECE, retry=FAST))
    refused = 0
    for step in range(150):
        kinds = ["500", "503", "429", "reset", "truncate", "403", "whole", "short range", "412"]
        if rng.random() < 0.4:
            web.fault(str(rng.choice(kinds)), int(rng.integers(1, 6)))
        begin = rng.integers(0, len(DATA) - 1, 4)
        ranges = np.stack((begin, np.minimum(begin + 200_000, len(DATA))), axis=1)
        try:
            if step % 2:
                file.will_need(ranges)
            with file.held(ranges):
                for a, b in ranges.tolist():
                    np.testing.assert_array_equal(file.bytes[a:b], DATA[a:b])
        except RemoteError:
            refused += 1
    assert 0 < refused < 150
    file.close()


def test_a_full_disk_of_its_own(web: HttpStore, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        url = f"{web.url}/a.beton"
        with pytest.raises(RemoteError, match=r"25.2 MB are still to be fetched"):
            open_remote(url, RemoteOptions(disk, retry=FAST))
        file = open_remote(url, RemoteOptions(disk, 10**9, retry=FAST))
        with pytest.raises(RemoteError, match=r"the disk of .* is full.*--cache-size"):
            file.ensure(np.array([[0, len(DATA)]]))
        here = np.flatnonzero(file._file.record.state == 1)
        assert len(here) > 8
        for piece in here.tolist():
            begin, end = file._file.bytes_of((piece, piece + 1))
            np.testing.assert_array_equal(file.bytes[begin:end], DATA[begin:end])
        file.close()
        again = open_remote(url, RemoteOptions(disk, 8 * PIECE, retry=FAST))
        for begin in range(0, len(DATA), PIECE):
            ranges = np.array([[begin, min(begin + PIECE, len(DATA))]])
            with again.held(ranges):
                a, b = ranges[0].tolist()
                np.testing.assert_array_equal(again.bytes[a:b], DATA[a:b])
        again.close()
        del file, again
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
