"""The part of a store's contract that is about statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta

from ..core.statistics import BUCKET_SECONDS, Bucket, Figures

MINUTE, HOUR = 60, 3600
# From which length to which, once a bucket is so old. What is older than KEPT is not kept in parts at all.
ROLL_UPS = ((BUCKET_SECONDS, MINUTE, timedelta(hours=1)), (MINUTE, HOUR, timedelta(days=2)))
KEPT = timedelta(days=31)


class StatisticsStore(ABC):
    """See ``base.Store``, whose text holds here, too.

    A store counts in ``counting.adder`` what it has done to messages, once that is committed: what was accepted, and
    how messages ended. An end is counted by whoever removes the message, and so once. What others decide (rejections,
    transmissions) they count themselves.
    """

    @abstractmethod
    def record_statistics(self, process: str, buckets: Sequence[Bucket]) -> None:
        """What a process did in these buckets of BUCKET_SECONDS, in place of what it recorded for them before.

        Idempotent. ``process``: an id that no other one has.
        """

    @abstractmethod
    def statistics(self, since: datetime, until: datetime, step_seconds: int) -> list[Bucket]:
        """What all processes did from ``since`` to before ``until``, in buckets of this length, in order of time.

        Buckets in which nothing happened are left out. What was rolled up counts from where its minute or hour begins.
        """

    @abstractmethod
    def statistics_total(self) -> Figures:
        """What all processes have ever done. Never less than before. The cost does not grow with time."""

    @abstractmethod
    def roll_up_statistics(self, limit: int) -> int:
        """Add up to ``limit`` old buckets up into fewer (ROLL_UPS), or remove them (KEPT). Returns how many went.

        Fewer: there are no more, or somebody else is at it. What they add up to stays the same until it is removed.
        """
