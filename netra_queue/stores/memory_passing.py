"""What the store in memory was not asked to keep, and how much it keeps."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.message import LossReason, Priority
from ..core.policy import Policy
from .memory_upkeep import MemoryUpkeep


class MemoryPassing(MemoryUpkeep):
    """See ``Store``."""

    def count_unprotected(self, counts: Mapping[str, Mapping[Priority, int]], policies: Mapping[str, Policy]) -> None:
        with self._lock:
            for queue, of_queue in counts.items():
                for line in self._targets(queue, policies[queue]):
                    for priority, number in of_queue.items():
                        self._count(self._queue(line), LossReason.UNPROTECTED, priority, number)

    def holds_more_than(self, limit: int) -> bool:
        with self._lock:
            return sum(len(queue.rows) for queue in self._queues.values()) > limit
