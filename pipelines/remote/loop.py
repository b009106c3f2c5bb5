"""The thread that fetches for all remote files of a process.

It ends with the main thread, whatever it waits for. Other threads that wait for bytes end with the
scope that asks (``pipelines.system.scope``): an interpreter that exits while a scope is open waits
for them, as long as a store that does not answer is asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Coroutine

from pipelines.remote.locks import Run
from pipelines.remote.sparse import Pieces, runs
from pipelines.remote.transfer import Asked, Transfer
from pipelines.system.scope import Scope

NEEDED, AHEAD = 0, 1
"""Priorities: what a step waits for comes first."""
LONGEST = 8 << 20
"""Bytes of a request, at most."""
SYNC_EVERY = 30.0
"""Seconds between the moments at which what is here is made to outlast a reboot."""
TICK = 0.1
"""Seconds between two looks whether the main thread lives."""
DROP = 2.0
"""Seconds that the end of a scope waits for its requests to end."""
SETTLE = 0.2
"""Seconds for cancelled requests to end, before the interpreter may."""
Item = tuple[int, int, Transfer, Run, Scope]


class Loop:
    """An event loop in a thread, with at most ``connections`` requests at a time."""

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._loop = asyncio.new_event_loop()
        self._queue: asyncio.PriorityQueue[Item] = asyncio.PriorityQueue()
        self._ended = asyncio.Event()
        self._number = 0
        self._transfers: set[Transfer] = set()
        self._running: dict[asyncio.Task[None], tuple[Transfer, Asked]] = {}
        self._syncing: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="unmix-fetch")
        self._thread.start()

    def add(self, transfer: Transfer) -> None:
        """Serve a file, and keep its record durable."""
        self._transfers.add(transfer)

    def submit(self, transfer: Transfer, pieces: Pieces, priority: int, scope: Scope) -> None:
        """Ask for pieces, unless the scope is closed; returns at once."""
        asked = runs(pieces, max(1, LONGEST // transfer.file.identity.piece))

        def put() -> None:
            for run in () if scope.closed else asked:
                self._number += 1
                self._queue.put_nowait((priority, self._number, transfer, run, scope))

        scope.at_close(self.drop)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(put)

    def drop(self, scope: Scope) -> None:
        """Cancel the requests that no other scope shares; what has come stays.

        It waits for their end, but not for ever: garbage collection may call it in a thread that
        has a lock which the loop's thread wants.
        """
        self._wait(self._drop_scope(scope), DROP)

    def remove(self, transfer: Transfer) -> bool:
        """Drop a file's requests; return whether that was the last file, and the thread ended."""
        self._transfers.discard(transfer)
        self._wait(self._drop_file(transfer))
        if self._transfers:
            return False
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        return True

    def is_its_thread(self) -> bool:
        """Whether the caller runs in a thread that the loop waits for: it may not wait for it."""
        return threading.current_thread() is self._thread or threading.get_ident() in self._syncing

    def alive(self) -> bool:
        """Whether it still fetches."""
        return self._thread.is_alive()

    def _wait(self, work: Coroutine[None, None, None], longest: float = math.inf) -> None:
        until = time.monotonic() + longest
        try:
            done = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop has ended
            work.close()
            return
        while self.alive() and not self.is_its_thread() and time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                return done.result(TICK)

    async def _drop_scope(self, scope: Scope) -> None:
        self._unqueue(lambda item: item[4] is scope)
        for _, asked in self._running.values():
            asked.pop(scope, None)
        await _cancel([task for task, (_, asked) in self._running.items() if not asked])

    async def _drop_file(self, transfer: Transfer) -> None:
        self._unqueue(lambda item: item[2] is transfer)
        await _cancel([task for task, (of, _) in self._running.items() if of is transfer])

    def _unqueue(self, is_dropped: Callable[[Item], bool]) -> None:
        items = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        for item in items:
            if not is_dropped(item):
                self._queue.put_nowait(item)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        serving = asyncio.create_task(self._serve())
        saved = time.monotonic()
        while threading.main_thread().is_alive() and not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), TICK)
            if time.monotonic() - saved > SYNC_EVERY:
                found = [asyncio.to_thread(self._sync, t) for t in list(self._transfers)]
                await asyncio.gather(*found)
                saved = time.monotonic()
        cut_short = bool(self._running)
        await _cancel([serving, *self._running])
        if cut_short:  # obstore's threads see that later, and need the interpreter for it
            await asyncio.sleep(SETTLE)

    def _sync(self, transfer: Transfer) -> None:
        self._syncing.add(threading.get_ident())
        try:
            transfer.sync()
        finally:
            self._syncing.discard(threading.get_ident())

    async def _serve(self) -> None:
        """Start the requests, the most urgent first."""
        free = asyncio.Semaphore(self._connections)
        while True:
            await free.acquire()
            priority, _, transfer, run, scope = await self._queue.get()
            asked: Asked = {scope: set()}
            task = asyncio.create_task(transfer.fetch(run, priority == NEEDED, asked))
            self._running[task] = transfer, asked

            def done(task: asyncio.Task[None]) -> None:
                self._running.pop(task)
                free.release()

            task.add_done_callback(done)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
