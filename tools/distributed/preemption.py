"""SIGTERM, SIGINT, SIGUSR1, SIGHUP: finish the step, agree with the others, save, stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from types import FrameType

from accelerate import Accelerator
from torch.distributed import Store

from tools.distributed.coordination import shared_store
from tools.distributed.lost_contact import SHARE, LostContact, leave, timeout_that_aborts
from tools.distributed.watchdog import NOTES_A_MINUTE, PATIENCE, Watchdog

POLL_SECONDS = 0.1
ECHO_SECONDS = 2.0
"""A launcher forwards a signal that its processes got already; only later signals are new ones."""
PROMPT_SECONDS = 1.0
"""A step whose images have not come by so long after a signal is not waited for."""
SILENT_SECONDS = 3.0
"""A wait for one batch that is shorter goes on: a score that makes progress is finished."""
ANSWER_SECONDS = 20.0
"""A process that has not agreed to stop by then is lost; schedulers often kill after 25 or 30."""


STANDARD_OUTPUTS = (1, 2)


class LostProcess(RuntimeError):
    """The launcher or another process of the run no longer answers."""


def discard_output(descriptors: Iterable[int]) -> None:
    """Let further output to the file descriptors go nowhere."""
    for number in descriptors:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


class StopSignal:
    """Turns a signal to any process into the same last step for all of them.

    The processes agree through the launcher's TCPStore, on the host only. The process that gets the
    signal writes a request to the store. A thread in each process sees it and promises to finish
    the process's current step. The largest promised step is the last one. No process waits before
    it has kept its own promise, so none blocks a collective of another one. A second signal ends a
    process at once.

    SIGHUP means that the terminal is gone (closed, or its ssh connection was lost). Output to it
    would fail, so it is discarded from then on. Under ``nohup`` the signal stays ignored.

    The same thread runs the ``Watchdog``, with ``patience`` seconds. If PyTorch would abort the
    process after waiting ``timeout`` seconds for another one, as under NCCL, the thread ends it
    before (``LostContact``).
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

    def __init__(
        self,
        accelerator: Accelerator,
        step: int,
        run: str,
        patience: float = PATIENCE,
        timeout: float | None = None,
    ) -> None:
        self.received: str | None = None
        self._ranks = range(accelerator.num_processes)
        self._rank = accelerator.process_index
        self._key = f"{run}@{step}"
        self._patience = patience
        self._aborts_after = None if timeout is None else timeout_that_aborts(timeout)
        self._since = 0.0
        self._finished = step
        self._last: int | None = None
        self._promised = self._store_lost = False
        self._lock = threading.Lock()
        self._agreed, self._closed = threading.Event(), threading.Event()

    def __enter__(self) -> StopSignal:
        in_main = threading.current_thread() is threading.main_thread()
        signals = list(self.SIGNALS) if in_main else []  # Python allows handlers nowhere else
        if in_main and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup
            signals.remove(signal.SIGHUP)
        self._terminals = [number for number in STANDARD_OUTPUTS if os.isatty(number)]
        self._before = {number: signal.signal(number, self._receive) for number in signals}
        if len(self._ranks) > 1:
            store = shared_store(self._key)
            self._listener = threading.Thread(
                target=self._listen, args=(store,), name="unmix-stop", daemon=True
            )
            self._listener.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()
        self._closed.set()
        if len(self._ranks) > 1:
            self._listener.join(timeout=10)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            discard_output(self._terminals)
            self._terminals = []
        if self.received is None or not self._since:
            self.received, self._since = signal.Signals(number).name, time.monotonic()
        elif time.monotonic() - self._since > ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def after(self, step: int) -> bool:
        """Whether to stop after ``step`` finished steps; the answer is the same in all processes.

        Raises:
            LostProcess: the launcher is gone, or another process did not agree in time.
        """
        if len(self._ranks) == 1:
            return self.received is not None
        if self._store_lost:
            raise LostProcess(f"the launcher or the first process, after step {step:,}")
        with self._lock:
            self._finished = step
            if not self._promised:
                return False
        self._agreed.wait()
        if self._last is None:
            raise LostProcess(
                f"after {self.received} not all processes agreed to stop at step {step:,}"
            )
        return step >= self._last

    def is_waiting(self) -> bool:
        """Whether a signal to a run of one process waits for a step that does not begin.

        Several processes cannot stop in the middle of a step, because others may be in it.
        """
        waited = time.monotonic() - self._since
        return len(self._ranks) == 1 and self.received is not None and waited > PROMPT_SECONDS

    def _listen(self, store: Store) -> None:
        """Answer a request to stop; runs in a separate thread."""
        watchdog = Watchdog(store, self._rank, self._ranks, self._patience)
        contact = None
        if self._aborts_after is not None:
            period = self._patience / NOTES_A_MINUTE
            contact = LostContact(store, self._ranks, self._aborts_after, period)
        try:
            while not store.check(["request"]) and not self._closed.wait(POLL_SECONDS):
                if self.received:
                    store.set("request", self.received)
                watchdog.beat(self._finished)
                if contact is not None:
                    contact.beat(self._finished)
            with self._lock:
                self._promised = True
                store.set(str(self._rank), str(self._finished + 1))
            if self._closed.is_set():  # the run has just ended: there is nothing to stop
                return
            self.received = self.received or store.get("request").decode() + " to another process"
            self._last = self._largest_promise(store)
        except RuntimeError:  # the store ended with the process that hosts it
            self._store_lost = True
        finally:
            self._agreed.set()
        if self._store_lost and self._aborts_after is not None:
            self._leave_unless_closed(SHARE * self._aborts_after)

    def _leave_unless_closed(self, seconds: float) -> None:
        """End this process if the main thread does not notice by then that the store is gone."""
        if not self._closed.wait(seconds):
            leave("the launcher or the first process")

    def _largest_promise(self, store: Store) -> int | None:
        until = time.monotonic() + ANSWER_SECONDS
        promised = [str(rank) for rank in self._ranks]
        while not store.check(promised):
            if time.monotonic() > until or self._closed.wait(POLL_SECONDS):
                return None
        return max(int(store.get(rank)) for rank in promised)
