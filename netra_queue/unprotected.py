"""What was sent while the store was away, and nobody kept: when it is back, it learns which queues may have a gap.

Until then it is known to this process alone, and lost with it. What is beyond MOST_QUEUES is counted, and not told.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable

from . import policies, statistics
from .core.message import Draft, Priority
from .stores.base import Store

logger = logging.getLogger(__name__)

MOST_QUEUES = 10_000
TOGETHER = 500  # queues in one call

Counts = dict[str, Counter[Priority]]


class _Notes:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counts = defaultdict(Counter)

    def add(self, drafts: Iterable[Draft]) -> None:
        with self._lock:
            for draft in drafts:
                if draft.queue in self._counts or len(self._counts) < MOST_QUEUES:
                    self._counts[draft.queue][draft.priority] += 1

    def record(self, store: Store) -> None:
        """Have the store told. Raises what it raises, and keeps what it was not told of."""
        while some := self._take():
            try:
                store.count_unprotected(some, policies.of(store, some))
            except BaseException:
                self._put_back(some)
                raise
            logger.warning("%d queues may have a gap", len(some), extra={"action": "unprotected_recorded"})

    def _take(self) -> Counts:
        with self._lock:
            return {queue: self._counts.pop(queue) for queue in list(self._counts)[:TOGETHER]}

    def _put_back(self, counts: Counts) -> None:
        with self._lock:
            for queue, of_queue in counts.items():
                self._counts[queue].update(of_queue)


_notes = _Notes()


def note(drafts: Iterable[Draft]) -> None:
    """These were given to connected clients only, because the store is away. Never waits, never fails."""
    _notes.add(drafts)


def _record(store: Store) -> None:
    _notes.record(store)


def _begin_anew() -> None:
    """In a forked process: what was noted before is the parent's, and the lock may have been in its hands."""
    global _notes
    _notes = _Notes()


os.register_at_fork(after_in_child=_begin_anew)
statistics.also_written.append(_record)  # what is noted is counted, too, so that there will be something to write
