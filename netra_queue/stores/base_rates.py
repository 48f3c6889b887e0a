"""The part of a store's contract that is about rates.

See ``base`` for what holds for all methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from datetime import datetime

from ..core.rate import Taken, Want


class RateStore(ABC):
    """See ``Store``. Before the time of a draft's ``not_before`` has come, it is not read, ``waiting`` and ``attach``
    do not count it, and a replay that is shaped leaves it where it is. In all else it is a message like any other.
    """

    admits_in_transaction = True
    """Whether ``admit`` may be called while the calling thread has a transaction open. If not, others would wait for
    its end: call it in another thread."""

    @abstractmethod
    def admit(self, wants: Sequence[Want]) -> list[Taken]:
        """Take these tokens, of which no two are of one bucket. All or none: when one want is not granted, nothing has
        been taken. What is granted is granted once, whatever processes ask; repeated, it is taken again.
        """

    @abstractmethod
    def next_due(self, queues: Collection[str]) -> dict[str, datetime]:
        """When the next message of each of these queues may be read, of those whose time (``Draft.not_before``) has not
        come; queues without any are left out. The cost grows with these queues' messages.
        """
