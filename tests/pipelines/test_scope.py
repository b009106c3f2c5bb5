"""Loops over a remote file: what one asked for ends with it, and another one goes on."""

from __future__ import annotations

import contextlib
import contextvars
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_store import Answer, HttpStore, Request, serving, skip_unless_local

from pipelines.remote.connect import Retry
from pipelines.remote.errors import RemoteError
from pipelines.remote.file import RemoteFile, RemoteOptions, open_remote
from pipelines.remote.sparse import PIECE
from pipelines.system.scope import Interrupted, Scope, current_scope, in_scope, interruptible
from pipelines.system.stored_reader import StoredReader

pytest.importorskip("obstore", reason="remote files need obstore: pip install 'unmix[remote]'")
PIECES = 4
DATA = np.random.default_rng(0).integers(0, 256, PIECES * PIECE, np.uint8)
LONG = 20.0
"""Seconds after which a test fails; nothing takes so long."""


def piece(number: int) -> np.ndarray:
    return np.array([[number * PIECE, (number + 1) * PIECE]], np.int64)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[HttpStore]:
    skip_unless_local(tmp_path)
    with serving({"a.beton": DATA.tobytes()}) as server:
        yield server


@pytest.fixture
def file(web: HttpStore, tmp_path: Path) -> Iterator[RemoteFile]:
    """It waits for the store as long as a run does: no test does."""
    opened = open_remote(f"{web.url}/a.beton", RemoteOptions(tmp_path / "cache", retry=Retry()))
    web.requests.clear()
    yield opened
    opened.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def until(condition: Callable[[], object]) -> None:
    wait = threading.Event()
    for _ in range(round(LONG / 0.01)):
        if condition():
            return
        wait.wait(0.01)
    raise AssertionError("it did not come about")


def idle(file: RemoteFile) -> bool:
    """Whether nothing is asked for, nothing on its way, and nobody waits."""
    state = file._loop._running, file._transfer._on_way, file._transfer.wanted
    return file._loop._queue.empty() and not any(state)


def held(file: RemoteFile, number: int) -> np.ndarray:
    with file.held(piece(number)):
        return file.bytes[number * PIECE : (number + 1) * PIECE].copy()


class Gate:
    """A route that keeps requests waiting until it opens."""

    def __init__(self, web: HttpStore) -> None:
        self.open, self.waiting = threading.Event(), 0
        web.routes.append(self._pass)

    def _pass(self, request: Request) -> Answer | None:
        self.waiting += 1
        self.open.wait(LONG)
        return None


def test_a_loop_that_ends_leaves_no_wait_no_request_and_no_error(
    web: HttpStore, file: RemoteFile, threads: ThreadPoolExecutor
) -> None:
    web.fault("403", path="a.beton")
    first = Scope()
    first.run(file.will_need, piece(0))
    until(lambda: first.error)
    web.fault("hang", times=99)
    second = Scope()
    waits = threads.submit(second.run, held, file, 1)
    second.run(file.will_need, piece(2))
    until(lambda: web.serving == 2)
    for scope in (first, second):
        scope.close()
    with pytest.raises(Interrupted):
        waits.result(LONG)
    with pytest.raises(Interrupted):
        second.run(file.will_need, piece(3))
    assert idle(file)
    until(lambda: not web.serving)  # the connections are closed
    web.heal()
    third = Scope()
    third.run(file.will_need, piece(3))
    for number in range(PIECES):
        assert (third.run(held, file, number) == DATA[slice(*piece(number)[0])]).all()
    third.close()


def test_nothing_is_asked_for_after_the_end(web: HttpStore, file: RemoteFile) -> None:
    scope = Scope()

    def ends_before_it_asks() -> None:
        scope.close()
        file.will_need(piece(0))
        with pytest.raises(Interrupted):
            held(file, 1)

    scope.run(ends_before_it_asks)
    held(file, 2)
    assert web.fetched() == [(2 * PIECE, 3 * PIECE)]


def test_another_loop_over_the_file_goes_on(
    web: HttpStore, file: RemoteFile, threads: ThreadPoolExecutor
) -> None:
    """Also with a piece that both asked for, which is fetched once."""
    gate = Gate(web)
    ends, stays = Scope(), Scope()
    given_up = threads.submit(ends.run, held, file, 0)
    until(lambda: gate.waiting == 1)
    shared = threads.submit(stays.run, held, file, 0)
    own = threads.submit(stays.run, held, file, 1)
    alone = threads.submit(held, file, 2)  # in no loop
    until(lambda: gate.waiting == 3)
    until(lambda: len(file._transfer._on_way[0]) == 2)
    ends.close()
    with pytest.raises(Interrupted):
        given_up.result(LONG)
    assert not any(wait.done() for wait in (shared, own, alone))
    gate.open.set()
    for number, wait in enumerate((shared, own, alone)):
        assert (wait.result(LONG) == DATA[slice(*piece(number)[0])]).all()
    assert sorted(web.fetched()) == [tuple(piece(number)[0]) for number in range(3)]
    stays.close()


def test_a_piece_whose_request_is_being_cancelled_is_asked_for_again(
    web: HttpStore, file: RemoteFile
) -> None:
    gate = Gate(web)
    ends, comes = Scope(), Scope()
    ends.run(file.will_need, piece(0))
    until(lambda: gate.waiting == 1)

    def at_once() -> None:
        comes.run(file.will_need, piece(0))
        ends.close()

    file._loop._loop.call_soon_threadsafe(at_once)
    gate.open.set()
    until(lambda: not file.missing(piece(0)))
    comes.close()


def test_a_wait_for_a_file_that_is_closed_ends_and_writes_nowhere(
    web: HttpStore, file: RemoteFile, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    other = open_remote(f"{web.url}/a.beton", file.options)  # the fetching thread goes on
    gate = Gate(web)
    waiting = threads.submit(held, file, 0)
    until(lambda: gate.waiting == 1)
    file.close()
    with contextlib.ExitStack() as stack:  # files that may get the numbers of the closed ones
        for number in range(9):
            stack.enter_context((tmp_path / str(number)).open("wb"))
        gate.open.set()
        with pytest.raises(RemoteError, match="closed"):
            waiting.result(LONG)
    assert not any((tmp_path / str(number)).stat().st_size for number in range(9))
    other.close()


def test_an_error_reaches_whoever_asked_for_the_piece_and_nobody_else(
    web: HttpStore, file: RemoteFile, threads: ThreadPoolExecutor
) -> None:
    gate = Gate(web)
    web.routes.append(lambda r: Answer(403) if r.range and r.range[0] < PIECE else None)
    ahead, waits, other = Scope(), Scope(), Scope()
    ahead.run(file.will_need, piece(0))
    until(lambda: gate.waiting == 1)
    failing = threads.submit(waits.run, held, file, 0)
    until(lambda: len(file._transfer._on_way[0]) == 2)
    coming = threads.submit(other.run, held, file, 1)
    gate.open.set()
    with pytest.raises(RemoteError, match="403"):
        failing.result(LONG)
    assert (coming.result(LONG) == DATA[PIECE : 2 * PIECE]).all() and other.error is None
    with pytest.raises(RemoteError, match="403"):
        ahead.run(file.will_need, piece(2))
    for scope in (ahead, waits, other):
        scope.close()


def test_a_reader_that_is_closed_early_asks_for_nothing_more(
    web: HttpStore, file: RemoteFile
) -> None:
    gate = Gate(web)
    gate.open.set()
    raw = StoredReader(file, file.size, PIECE // 2)
    reader = io.BufferedReader(raw, 16)
    assert reader.read(9) == DATA[:9].tobytes()
    gate.open.clear()
    raw._scope.run(raw._request, 3 * PIECE)
    until(lambda: gate.waiting == 2)
    reader.close()
    assert idle(file)
    gate.open.set()


def test_a_scope_is_that_of_the_thread_and_of_no_other(threads: ThreadPoolExecutor) -> None:
    scope = Scope()

    def seen_by() -> list[Any]:
        carried: Future[Any] = threads.submit(in_scope(current_scope))
        return [current_scope(), threads.submit(current_scope).result(), carried.result()]

    assert seen_by() == [None] * 3
    assert scope.run(seen_by) == [scope, None, scope]
    assert seen_by() == [None] * 3


def test_a_loop_stops_waiting_when_the_block_around_it_is_asked_to() -> None:
    stopped = threading.Event()
    with interruptible(stopped.is_set):
        scope = Scope()
    done, never = Future[int](), Future[int]()
    done.set_result(3)
    assert scope.result(done) == 3
    stopped.set()
    assert scope.result(done) == 3  # what is here is used
    with pytest.raises(Interrupted):
        scope.result(never)
    assert Scope().interrupted is None and current_scope() is None


def test_a_loop_that_makes_progress_is_finished() -> None:
    with interruptible(lambda: True, patience=LONG):
        scope = Scope()
    slow = Future[int]()
    threading.Timer(0.3, slow.set_result, (3,)).start()
    assert scope.result(slow) == 3
    with interruptible(lambda: True, patience=0.2), pytest.raises(Interrupted):
        Scope().result(Future[int]())


def test_a_scope_is_closed_whatever_else_fails() -> None:
    called = set()

    def fails(name: str) -> None:
        called.add(name)
        raise ValueError(name)

    scope = Scope()
    for name in "ab":
        scope.at_close(lambda _, name=name: fails(name))
    with pytest.raises(ValueError, match=r"^[ab]$"):
        scope.close()
    assert called == {"a", "b"}

    def block() -> Iterator[Scope | None]:
        with interruptible(bool):
            yield current_scope()

    suspended = block()
    around = contextvars.copy_context().run(next, suspended)
    with pytest.raises(ValueError, match="Context"):  # as a collected generator
        suspended.close()
    assert around is not None and around.closed


def test_a_wait_in_which_another_loop_is_collected_goes_on(
    web: HttpStore, file: RemoteFile, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    missing, looks = file._file.missing, list[object]()
    web.fault("hang")
    other = Scope()
    other.run(file.will_need, piece(2))
    until(lambda: web.serving == 1)

    def look(pieces: np.ndarray) -> np.ndarray:
        if threading.current_thread().name.startswith("ThreadPool"):
            looks.append(len(pieces))
            if len(looks) == 2:  # as if the collector ran here
                until(lambda: not len(missing(np.array([0]))))
                other.close()
                looks.append(2 in file._transfer._on_way)
        return missing(pieces)

    monkeypatch.setattr(file._file, "missing", look)
    assert (threads.submit(held, file, 0).result(LONG) == DATA[:PIECE]).all()
    assert looks[2] is False


def test_what_an_ended_loop_asked_for_makes_room_for_the_next(
    web: HttpStore, tmp_path: Path
) -> None:
    small = RemoteOptions(tmp_path / "small", cache_size=2 * PIECE, retry=Retry())
    file = open_remote(f"{web.url}/a.beton", small)
    for numbers in ((0, 1), (2, 3)):
        scope = Scope()
        for number in numbers:
            scope.run(file.will_need, piece(number))
        until(lambda asked=numbers: not any(file.missing(piece(number)) for number in asked))
        scope.close()
    file.close()
