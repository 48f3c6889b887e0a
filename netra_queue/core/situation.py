"""What alerts are judged by: the store as it stands at a moment, and what all processes have done until then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from .statistics import Bucket, Event, Histogram, Timing

LONGEST_WINDOW_SECONDS = 3 * 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """``buckets``: of the last LONGEST_WINDOW_SECONDS, those of one time in no other one.

    ``expired_seconds``: for how long the first of the expired messages that are still there has been so.
    ``usual_servers``: how many server processes there were for most of the last hours. ``near_limit``: the names of
    queues that are nearly full, the largest first.
    """

    at: datetime
    buckets: Sequence[Bucket] = ()
    oldest_seconds: float = 0.0
    expired_seconds: float = 0.0
    servers: int = 0
    usual_servers: float = 0.0
    connections: int = 0
    near_limit: Sequence[str] = ()

    def during(self, seconds: float, *, until_seconds: float = 0.0) -> Sequence[Bucket]:
        """The buckets that began in the ``seconds`` that ended ``until_seconds`` ago."""
        until = self.at - timedelta(seconds=until_seconds)
        since = until - timedelta(seconds=seconds)
        return [bucket for bucket in self.buckets if since <= bucket.start < until]

    def count(self, events: Sequence[Event], seconds: float, *, until_seconds: float = 0.0) -> int:
        """How often these events were in that time."""
        buckets = self.during(seconds, until_seconds=until_seconds)
        return sum(bucket.figures.count(event) for bucket in buckets for event in events)

    def seconds_since(self, event: Event) -> float:
        """Since the beginning of the bucket in which this was counted last; 0 if it is in none."""
        found = [bucket.start for bucket in self.buckets if bucket.figures.count(event)]
        return max((self.at - max(found)).total_seconds(), 0.0) if found else 0.0

    def times(self, timing: Timing, seconds: float) -> Histogram:
        """What was timed in the last ``seconds``."""
        total = Histogram()
        for bucket in self.during(seconds):
            total.add(bucket.figures.timings[timing])
        return total
