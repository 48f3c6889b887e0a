"""Counts what this process does, in memory and at once; ``statistics`` takes it from here to the store.

For every path that messages take: nothing in here waits, fails, or asks anybody.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from .core.message import Priority
from .core.statistics import NONE, Event, Figures, Timing
from .exceptions import MessageTooLarge, QueueFull, RateLimited, StoreUnavailable


class Adder:
    """Adds up figures until somebody takes them. Thread-safe; a signal handler may count, too, hence the RLock.

    ``on_first`` is called with the first thing counted after each ``take``, by whoever counts it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._figures = Figures()
        self._since: float | None = None
        self.on_first: Callable[[], None] = lambda: None

    def count(self, event: Event, priorities: Iterable[int]) -> None:
        """It happened once for each of these messages, given by their priorities."""
        with self._lock:
            counts = self._figures.counts[event]
            for priority in priorities:
                counts[priority] += 1
            if self._since is None:
                self._begin()

    def add(self, event: Event, priority: int = NONE, number: int = 1) -> None:
        with self._lock:
            self._figures.counts[event][priority] += number
            if self._since is None:
                self._begin()

    def observe(self, timing: Timing, seconds: Sequence[float]) -> None:
        with self._lock:
            self._figures.timings[timing].observe_all(seconds)
            if self._since is None:
                self._begin()

    def add_figures(self, figures: Figures) -> None:
        with self._lock:
            self._figures.add(figures)
            if self._since is None:
                self._begin()

    def _begin(self) -> None:
        self._since = time.monotonic()
        self.on_first()

    def take(self) -> tuple[Figures, float] | None:
        """What was counted since the last call, and for how many seconds; None: nothing."""
        with self._lock:
            if self._since is None:
                return None
            figures, since = self._figures, self._since
            self._figures, self._since = Figures(), None
            return figures, time.monotonic() - since

    @property
    def is_empty(self) -> bool:
        return self._since is None

    def begin_anew(self) -> None:
        """In a forked process: what was counted before is the parent's, and the lock may have been in its hands."""
        self._lock, self._figures, self._since = threading.RLock(), Figures(), None


adder = Adder()
os.register_at_fork(after_in_child=adder.begin_anew)

_REJECTED = (
    (QueueFull, Event.REJECTED_FULL),
    (MessageTooLarge, Event.REJECTED_TOO_LARGE),
    (StoreUnavailable, Event.REJECTED_UNAVAILABLE),
    (RateLimited, Event.REJECTED_RATE),
)


class rejections:
    """Count these messages as rejected if their sender is told so: ``with rejections(priority, number): …``."""

    __slots__ = ("_number", "_priority")

    def __init__(self, priority: Priority, number: int = 1) -> None:
        self._priority, self._number = priority, number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *trace: object) -> None:
        for of, event in _REJECTED if error is not None else ():
            if isinstance(error, of):
                adder.add(event, self._priority, self._number)
