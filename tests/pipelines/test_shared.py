"""Arrays shared by the processes of a machine: made once, locked, made again after a kill."""

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.system import shared as module
from pipelines.system.cache import entries, make_room, remove
from pipelines.system.shared import shared

NUMBERS = np.arange(5000, dtype=np.uint32)


def fill(out: np.ndarray) -> None:
    out[:] = NUMBERS


def refuse(out: np.ndarray) -> None:
    raise AssertionError("it is made already")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path))
    yield tmp_path / "tables"


def make(key: str = "a", how: module.Fill = fill) -> np.ndarray:
    return shared("kind", key, len(NUMBERS), NUMBERS.dtype, how)


@contextlib.contextmanager
def running(code: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs code with ``make(fill)``, and prints a line when it is ready."""
    start = """
        import sys, time
        import numpy as np
        from pipelines.system.shared import shared
        def make(fill):
            return shared("kind", "a", 5000, np.dtype(np.uint32), fill)
    """
    text = textwrap.dedent(start) + textwrap.dedent(code)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", text], text=True, **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_the_first_makes_it_and_others_map_it(cache: Path) -> None:
    first, second = make(), make(how=refuse)
    np.testing.assert_array_equal(first, NUMBERS)
    np.testing.assert_array_equal(second, NUMBERS)
    assert len(list(cache.iterdir())) == 1
    first[0] = 7
    assert second[0] == 0  # a change is one's own
    with running("assert (make(None) == np.arange(5000)).all()\nprint('ready', flush=True)"):
        pass


def test_a_mapped_file_is_kept_and_others_of_its_kind_go(cache: Path) -> None:
    holds = """
        held = make(lambda out: None)
        print("ready", flush=True)
        sys.stdin.read()
    """
    with running(holds):
        make("one")
        assert {path.name.split("-")[1] for path in cache.iterdir()} == {"a", "one"}
    make("two")
    assert {path.name.split("-")[1] for path in cache.iterdir()} == {"two"}


def test_the_cache_lists_it_and_removes_it_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = make()
    (entry,) = entries()
    assert entry.bytes >= array.nbytes and not remove(entry.path)
    np.testing.assert_array_equal(array, NUMBERS)
    monkeypatch.setenv("UNMIX_CACHE_LIMIT", str(1.2 * entry.bytes / 1e9))
    make_room(entry.bytes)
    assert entry.path.exists()  # a process uses it
    del array
    make_room(entry.bytes)
    assert entries() == []


def test_a_killed_maker_is_replaced(cache: Path) -> None:
    """Whoever waited for it makes the array, over what it has left."""
    makes_half = """
        def fill(out):
            out[:] = 7
            print("ready", flush=True)
            time.sleep(60)
        make(fill)
    """
    found: list[np.ndarray] = []
    waiting = [threading.Thread(target=lambda: found.append(make())) for _ in range(3)]
    with running(makes_half):
        for thread in waiting:
            thread.start()
        waiting[0].join(0.1)
        assert not found and all(thread.is_alive() for thread in waiting)
    for thread in waiting:
        thread.join(30)
    assert len(found) == 3
    for array in found:
        np.testing.assert_array_equal(array, NUMBERS)
    assert [path.name[0] for path in cache.iterdir()] == ["k"]  # and no temporary file


def test_several_that_ask_at_once_make_it_once() -> None:
    made: list[int] = []

    def count(out: np.ndarray) -> None:
        made.append(1)
        fill(out)

    threads = [threading.Thread(target=make, args=("a", count)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert made == [1]


def test_what_the_maker_raises_is_raised_and_leaves_nothing(cache: Path) -> None:
    def damaged(out: np.ndarray) -> None:
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        make(how=damaged)
    assert list(cache.iterdir()) == []
    np.testing.assert_array_equal(make(), NUMBERS)


def test_files_of_an_earlier_boot_are_not_read(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have been written in part only when the machine stopped."""
    make()
    with monkeypatch.context() as patch:
        patch.setattr(module, "boot", lambda: "other")
        np.testing.assert_array_equal(make(how=lambda out: out.fill(3)), np.full(5000, 3))
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("why", ["no folder", "limit", "damaged"])
def test_without_room_each_makes_its_own_and_says_so(
    why: str,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if why == "no folder":
        cache.write_text("a file in its place")
    elif why == "limit":
        monkeypatch.setenv("UNMIX_CACHE_LIMIT", "0.000001")
    else:
        make()
        os.truncate(next(cache.iterdir()), 100)
    array = make()
    np.testing.assert_array_equal(array, NUMBERS)
    assert "each makes its own copy" in caplog.text
    assert {"limit": "UNMIX_CACHE_LIMIT", "damaged": "100 bytes"}.get(why, "") in caplog.text
