"""SIGTERM, SIGINT and SIGUSR1: finish the step, agree with the other processes, save, stop."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from accelerate import Accelerator
from torch.distributed import PrefixStore, TCPStore

POLL_SECONDS = 0.1


class StopSignal:
    """Turns a signal to any process into the same last step for all of them.

    Several processes agree through the launcher's TCPStore, on the host alone: whoever gets the
    signal leaves a note; a thread in each process sees it and promises the step its process is
    in; the largest promise is the last step. No process waits before its own promise is kept, so
    none holds up a collective that another one is in. A second signal ends a process at once.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self, accelerator: Accelerator, step: int, run: str) -> None:
        self.received: str | None = None
        self._ranks = range(accelerator.num_processes)
        self._rank = accelerator.process_index
        self._key = f"unmix-stop/{run}@{step}"
        self._finished = step
        self._last: int | None = None
        self._promised = False
        self._lock = threading.Lock()
        self._agreed, self._over = threading.Event(), threading.Event()

    def __enter__(self) -> StopSignal:
        in_main = threading.current_thread() is threading.main_thread()
        signals = self.SIGNALS if in_main else ()  # Python allows handlers nowhere else
        self._before = {number: signal.signal(number, self._receive) for number in signals}
        if len(self._ranks) > 1:
            self._listener = threading.Thread(target=self._listen, name="unmix-stop", daemon=True)
            self._listener.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()
        self._over.set()
        if len(self._ranks) > 1:
            self._listener.join(timeout=10)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self._restore()

    def after(self, step: int) -> bool:
        """Whether to stop now that ``step`` steps are finished, the same answer everywhere."""
        if len(self._ranks) == 1:
            return self.received is not None
        with self._lock:
            self._finished = step
            if not self._promised:
                return False
        self._agreed.wait()
        return self._last is not None and step >= self._last

    def _listen(self) -> None:
        """Answer a request to stop; runs in a thread with a connection of its own."""
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = PrefixStore(self._key, TCPStore(*where, is_master=False, wait_for_workers=False))
        try:
            while not store.check(["request"]):
                if self.received:
                    store.set("request", self.received)
                elif self._over.wait(POLL_SECONDS):
                    return
        except RuntimeError:  # the store ended with the first process
            return
        self.received = self.received or store.get("request").decode() + " to another process"
        with self._lock:
            self._promised = True
            store.set(str(self._rank), str(self._finished + 1))
        try:
            self._last = max(int(store.get(str(rank))) for rank in self._ranks)
        finally:
            self._agreed.set()
