"""Threads of our own. Daemons: a database call that hangs must not keep the process from ending.

Nothing is started at import, and a fork starts with no threads of its parent's: each process makes its own on first
use (Celery's prefork workers, Uvicorn's and Gunicorn's).
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")
Kept = TypeVar("Kept")


class Pool:
    """At most ``size`` threads that carry out what is submitted, first in, first out.

    ``wrap`` surrounds each piece of work in its thread, and ``at_end`` is called by each thread as its last act.
    """

    def __init__(
        self,
        size: int,
        name: str,
        *,
        wrap: Callable[[Callable[[], Any]], Any] = lambda work: work(),
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._size, self._name, self._wrap, self._at_end = size, name, wrap, at_end
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Have ``work`` done; cancelling the future before its turn skips it. Raises RuntimeError when closed."""
        future: Future[Result] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError(f"the {self._name} threads have been closed")
            self._jobs.append((future, work))
            if self._idle < len(self._jobs) and len(self._threads) < self._size:
                self._start()
            self._changed.notify()
        return future

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._carry_out(*job)
                del job  # a finished job's arguments and result are not kept until the next one
        finally:
            self._at_end()

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        with self._changed:
            self._idle += 1
            while not self._jobs and not self._closed:
                self._changed.wait()
            self._idle -= 1
            return self._jobs.popleft() if self._jobs else None

    def _carry_out(self, future: Future[Any], work: Callable[[], Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self._wrap(work)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def close(self, timeout_seconds: float) -> bool:
        """Finish what was submitted, within about this time. Returns whether that worked. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


class PerProcess(Generic[Kept]):
    """One value a process, made on first use, and made anew after a fork."""

    def __init__(self, make: Callable[[], Kept]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._value: Kept | None = None
        os.register_at_fork(after_in_child=self._forget)

    def get(self) -> Kept:
        value = self._value
        if value is not None:
            return value
        with self._lock:
            if self._value is None:
                self._value = self._make()
            return self._value

    def take(self) -> Kept | None:
        """The value if it was made, and forget it."""
        with self._lock:
            value, self._value = self._value, None
            return value

    def _forget(self) -> None:
        self._lock, self._value = threading.Lock(), None
