"""The part of a store's contract that is about what it was not asked to keep, and about how much it keeps.

See ``base`` for what holds for all methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from ..core.message import Priority
from ..core.policy import Policy


class PassingStore(ABC):
    """See ``Store``."""

    @abstractmethod
    def count_unprotected(self, counts: Mapping[str, Mapping[Priority, int]], policies: Mapping[str, Policy]) -> None:
        """So many messages were sent to these queues while the store was away, and nobody has kept them.

        They count as lost (UNPROTECTED) in each line in use, so that clients are told of a gap. ``policies`` has an
        entry for each queue. Repeated, it counts twice.
        """

    @abstractmethod
    def holds_more_than(self, limit: int) -> bool:
        """Whether more than ``limit`` messages are stored. Looks at no more than these."""
