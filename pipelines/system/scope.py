"""Waits and requests that belong to one loop, and end with it.

    scope = Scope()
    future = pool.submit(scope.run, decode, rows)  # what it asks remote files for is the scope's
    scope.close()  # its waits raise Interrupted; requests that no other scope shares are dropped

The scope is ambient (a context variable), like the cancel scopes of trio and anyio: what lies
between a loop and a file, which need not be remote, passes nothing on.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
POLL_SECONDS = 0.1
"""Seconds between two looks whether a loop is asked to stop."""


class Interrupted(BaseException):
    """A wait was given up: its loop has ended, or was asked to stop.

    It is no ``Exception``, like trio's ``Cancelled``: nothing may take it for a damaged image.
    """


class Scope:
    """What one loop has asked for: its waits, its requests ahead, and their error."""

    def __init__(
        self, interrupted: Callable[[], bool] | None = None, patience: float = 0.0
    ) -> None:
        """Open a scope; it does not end with the scope in which it is opened.

        ``result`` gives a wait up that has lasted ``patience`` seconds when ``interrupted`` says
        so. By default both are those of the surrounding scope.
        """
        around = _current.get()
        if interrupted is None and around is not None:
            interrupted, patience = around.interrupted, around.patience
        self.interrupted: Callable[[], bool] | None = interrupted
        self.patience: float = patience
        self.changes = 0
        """How often something has come or failed."""
        self.error: Exception | None = None
        """Of a request that failed, until a wait raises it."""
        self.closed = False
        self.changed = threading.Condition()
        """Notified when something has come or failed, and when it is closed."""
        self._drops: set[Callable[[Scope], None]] = set()

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in this scope, in any thread, and return its result.

        Raises:
            Interrupted: the scope is closed.
        """
        if self.closed:
            raise Interrupted
        token = _current.set(self)
        try:
            return function(*args, **kwargs)
        finally:
            _current.reset(token)

    def result(self, work: Future[T]) -> T:
        """Wait for work that runs in this scope, and return its result.

        Raises:
            Interrupted: the loop is asked to stop, and the work does not end.
        """
        until = time.monotonic() + self.patience
        while self.interrupted is not None and not wait([work], POLL_SECONDS).done:
            if time.monotonic() >= until and self.interrupted():
                raise Interrupted
        return work.result()

    def raise_error(self) -> None:
        """Raise the error of an earlier request, once."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    def notify(self, error: Exception | None = None) -> None:
        """Wake the waits: something has come, or failed."""
        with self.changed:
            self.error = error or self.error
            self.changes += 1
            self.changed.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Wait until ``changes`` is not ``seen``, or the scope is closed; not longer than that.

        Nothing is looked at under the lock: garbage collection there may close another scope,
        which waits for the thread that notifies this one.
        """
        with self.changed:
            if self.changes == seen and not self.closed:
                self.changed.wait(seconds)

    def at_close(self, drop: Callable[[Scope], None]) -> None:
        """Have ``drop(scope)`` called when it is closed; the same function once."""
        with self.changed:
            self._drops.add(drop)

    def close(self) -> None:
        """End all waits and drop all requests; no later one is made."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
            drops = tuple(self._drops)
        with contextlib.ExitStack() as stack:  # which calls each, also after one that raises
            for drop in drops:
                stack.callback(drop, self)


_current: ContextVar[Scope | None] = ContextVar("unmix_scope", default=None)


def current_scope() -> Scope | None:
    """Return the scope in which the caller runs, if there is one."""
    return _current.get()


def in_scope(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function for other threads that calls this one in the present scope."""
    scope = _current.get()
    return function if scope is None else partial(scope.run, function)


def scoped_map(
    function: Callable[[S], T], items: Iterable[S], workers: int, name: str = ""
) -> Iterator[T]:
    """Yield ``function(item)`` of each item, in order, computed by threads in a scope of its own.

    Raises:
        Interrupted: the loop is asked to stop.
    """
    with ThreadPoolExecutor(workers, name) as pool, contextlib.closing(Scope()) as scope:
        work = [pool.submit(scope.run, function, item) for item in items]
        for one in work:
            yield scope.result(one)


@contextlib.contextmanager
def interruptible(interrupted: Callable[[], bool], patience: float = 0.0) -> Iterator[None]:
    """Let loops that begin in the block stop waiting when ``interrupted`` says so.

    A wait for one batch that has not lasted ``patience`` seconds goes on.
    """
    with contextlib.closing(Scope(interrupted, patience)) as scope:
        token = _current.set(scope)
        try:
            yield
        finally:
            _current.reset(token)
