"""From the process's adder to the store's statistics: one row for this process and each ten seconds.

    counting.adder --take--> the bucket of the store's time --write--> Store.record_statistics

A server's hub writes with a thread of its own; where there is no hub (a web process, a Celery worker), the first thing
counted starts a thread that does, and it ends with the process. What the process has not written when it is killed is
lost: up to ten seconds of counts, never a message.

**If the store is away**, buckets stay in memory, at most MOST_PENDING; then the oldest is added to the next one. A
bucket is written as a whole, in place of what was written of it before: written twice, it counts once.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from .complaints import complain
from .core.statistics import BUCKET_SECONDS, NONE, Bucket, Event, Figures, Gauge, aligned
from .counting import adder
from .stores import current_store
from .stores.base import Store

logger = logging.getLogger(__name__)

MOST_PENDING = 60
LATE_SECONDS = 0.5  # after the end of a bucket, so that what ends it is in it
EXIT_SECONDS = 2.0  # how long the end of a process waits for its last bucket
COMPLAIN_SECONDS = 60.0

also_written: list[Callable[[Store], None]] = []  # called whenever the store has taken statistics: it is there


class Ledger:
    """What this process has counted and the store does not have yet. Thread-safe."""

    def __init__(self) -> None:
        self.process = uuid.uuid4().hex
        self.listeners: list[Callable[[Figures], None]] = []
        self._lock, self._writing = threading.RLock(), threading.Lock()
        self._buckets: dict[datetime, Figures] = {}
        self._changed: set[datetime] = set()
        self._touched: set[datetime] = set()  # those that the store has in part, or may have: see _batch
        self._is_in_doubt = False  # the last attempt got no answer
        self._clock_offset = timedelta(0)
        self._earliest = datetime.min.replace(tzinfo=UTC)  # what is before it has been written for good
        self._complained_at = -COMPLAIN_SECONDS
        self._gauges: dict[int, Mapping[Gauge, int]] = {}

    def now(self) -> datetime:
        """The store's time, as far as it is known without asking."""
        return datetime.now(UTC) + self._clock_offset

    def gather(self) -> None:
        """Take what was counted, for the bucket in which it began, and tell those who listen. Never waits."""
        with self._lock:
            taken = adder.take()
            if taken is None:
                return
            figures, seconds = taken
            start = max(aligned(self.now() - timedelta(seconds=seconds)), self._earliest)
            self._buckets.setdefault(start, Figures()).add(figures)
            self._changed.add(start)
            figures.counts[Event.BUCKET_MERGED][NONE] += self._merge_oldest()  # for the listeners alone
            self._tell(figures)

    def _tell(self, figures: Figures) -> None:
        for listener in self.listeners:
            try:
                listener(figures)
            except Exception as error:  # a file of theirs that cannot be written, say
                complain(logger, "metrics of this process not updated", "metrics_failed", error)

    def note_gauges(self, hub: int, now: Mapping[Gauge, int]) -> None:
        """What a hub of this process has at the moment."""
        self._gauges[hub] = now
        with self._lock:
            self._tell(Figures())

    def gauge(self, gauge: Gauge) -> int:
        """What this process has at the moment, within BUCKET_SECONDS."""
        return sum(now[gauge] for now in list(self._gauges.values()))

    def _merge_oldest(self) -> int:
        """How many had to be added to others. What the store has, or may have, stays: it would be there twice."""
        merged = 0
        while len(untouched := self._buckets.keys() - self._touched) > MOST_PENDING:
            first, second = sorted(untouched)[:2]
            self._buckets[second].add(self._buckets.pop(first))
            self._buckets[second].counts[Event.BUCKET_MERGED][NONE] += 1
            self._changed.discard(first)
            self._changed.add(second)
            merged += 1
        return merged

    def write(self) -> None:
        """Have the store record what was counted until now. Blocks; raises what the store raises, and keeps it then."""
        with self._writing:
            store = current_store()
            try:
                self._clock_offset = store.now() - datetime.now(UTC)
            finally:
                self.gather()
            while batch := self._batch():
                store.record_statistics(self.process, [Bucket(*item) for item in batch.items()])
                self._settle(batch)
            for write in also_written:
                write(store)

    def _batch(self) -> dict[datetime, Figures]:
        """What is to be written next. After a failure, only what that attempt may have written: the others stay such
        as can be added to each other."""
        with self._lock:
            wanted = (self._touched & self._changed if self._is_in_doubt else set()) or set(self._changed)
            self._touched |= wanted
            self._is_in_doubt = bool(wanted)
            return {start: self._copy(start) for start in sorted(wanted)}

    def _copy(self, start: datetime) -> Figures:
        copy = Figures()
        copy.add(self._buckets[start])
        return copy

    def _settle(self, written: dict[datetime, Figures]) -> None:
        """Forget what is over and written. The bucket that goes on is written again, as a whole, when there is more."""
        current = aligned(self.now())
        with self._lock:
            self._earliest = max(self._earliest, current)
            self._changed -= {start for start, figures in written.items() if self._buckets.get(start) == figures}
            for start in [start for start in self._buckets if start < current and start not in self._changed]:
                del self._buckets[start]
            self._touched &= self._buckets.keys()
            self._is_in_doubt = False

    def try_to_write(self) -> None:
        """``write``; an error reaches the log, now and then, and nobody else."""
        try:
            self.write()
        except Exception as error:
            if time.monotonic() - self._complained_at >= COMPLAIN_SECONDS:
                self._complained_at = time.monotonic()
                complain(logger, "statistics not written yet", "statistics_failed", error)

    @property
    def has_unwritten(self) -> bool:
        return bool(self._changed) or not adder.is_empty


ledger = Ledger()


def seconds_to_next(now: datetime) -> float:
    """How long until the bucket of this moment is over, and a little more: not all processes write at once."""
    passed = (now - aligned(now)).total_seconds()
    return BUCKET_SECONDS - passed + LATE_SECONDS * random.uniform(0.2, 1)


# --- where no hub writes -------------------------------------------------------------------------------------------


class Thread:
    """Writes as long as there is something to write and nobody else does. Daemon: a hung database must not hold the
    process at its end. ``close`` writes what is left."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._has_something = False
        self._thread: threading.Thread | None = None
        self.hubs = 0  # that write

    def wake(self) -> None:
        """Something was counted. Called within the adder's lock: it never waits for long, and never fails."""
        if self.hubs:
            return
        with self._changed:
            self._has_something = True
            if self._thread is None:
                self._start()
            self._changed.notify()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="netra-statistics", daemon=True)
        try:
            _register_exit()
            thread.start()
        except RuntimeError:  # the interpreter is shutting down
            logger.debug("statistics not written at shutdown", extra={"action": "statistics_dropped"})
        else:
            self._thread = thread

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            goes_on = self._wait()
            self._write()

    def _wait(self) -> bool:
        """Until a bucket is over in which something happened, or it is the end: then False."""
        with self._changed:
            while not self._has_something and not ledger.has_unwritten and self._is_mine:
                self._changed.wait()
            deadline = time.monotonic() + seconds_to_next(ledger.now())
            while self._is_mine and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            self._has_something = False
            return self._is_mine

    @property
    def _is_mine(self) -> bool:
        """Whether the calling thread is the one that writes, and nobody has closed it."""
        return self._thread is threading.current_thread()

    def _write(self) -> None:
        """A connection is not worth keeping for ten seconds."""
        if not ledger.has_unwritten:
            return
        store = current_store()
        store.in_own_thread(ledger.try_to_write)
        store.leave_thread()

    def close(self, timeout_seconds: float) -> None:
        """Write what was counted until now, for about this time at most. What is counted later starts anew."""
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is None:
            thread = threading.Thread(target=self._write, name="netra-statistics", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # Python starts no more
                ledger.try_to_write()
                thread = None
        if thread is not None:
            thread.join(timeout_seconds)


def _register_exit() -> None:
    """Raises RuntimeError when the interpreter is shutting down."""
    global _is_registered
    if not _is_registered:
        getattr(threading, "_register_atexit", atexit.register)(close)
        _is_registered = True


def close(timeout_seconds: float = EXIT_SECONDS) -> None:
    """At the end of the process: write what was counted. Never raises, never waits for longer than about this."""
    _thread.close(timeout_seconds)


_is_registered = False
_thread = Thread()
adder.on_first = _thread.wake


def hub_begins() -> None:
    """A hub of this process writes from now on, every BUCKET_SECONDS."""
    _thread.hubs += 1


def hub_ends() -> None:
    _thread.hubs -= 1


def _begin_anew() -> None:
    """In a forked process: threads and hubs are the parent's, and so is what was counted."""
    global ledger, _thread, _is_registered
    listeners = ledger.listeners
    ledger, _thread, _is_registered = Ledger(), Thread(), False
    ledger.listeners = listeners
    adder.on_first = _thread.wake


os.register_at_fork(after_in_child=_begin_anew)
