"""What statistics are made of: counts of events, histograms of times, sums of gauges. All of them can be added up.

Everything is a sum, so that what several processes did at the same time, and what one did at several times, are added
in the same way and in any order: a gauge is kept as its value times the seconds for which it had it.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from .message import Fate, Priority

BUCKET_SECONDS = 10
BOUNDS: tuple[float, ...] = tuple(0.001 * 2**n for n in range(28))  # seconds: a millisecond to a day and a half
NONE = 0  # where events without a priority are counted


class Event(IntEnum):
    """What is counted, by priority but for the last ones. Their names are kept in rows, and never change their meaning.

    ACCEPTED is the beginning of a message in a line, and the fates are its ends: what was accepted has ended, or waits.
    """

    ACCEPTED = 0  # copies of messages put into lines, and consumers' own sends that were acked before that
    ACKED = 1
    SUPERSEDED = 2
    EXPIRED = 3
    DROPPED = 4
    DEAD = 5
    WITHHELD = 6
    LEFT_OUT = 7
    MERGED = 8  # a line had two copies of one message, and kept one
    TRANSMITTED = 9  # deliveries: a message that is transmitted again counts again
    DUPLICATE = 10  # sends that had used their key before
    REJECTED_FULL = 11  # sends that raised QueueFull,
    REJECTED_TOO_LARGE = 12  # MessageTooLarge,
    REJECTED_UNAVAILABLE = 13  # or StoreUnavailable
    MISSED = 14  # in shadow mode: messages that would have been replayed and that no connection had been sent,
    UNCONFIRMED = 15  # or one had, without an ack
    PASSED = 16  # sends to queues outside of the rollout, for connected clients only
    UNPROTECTED = 17  # the same because the store was away
    REJECTED_RATE = 18  # sends that raised RateLimited
    DELAYED = 19  # messages that are to be delivered later, because they were sent above their rate
    CONNECTED = 20  # connections that began,
    BELL_MISSED = 21  # connections for which a poll found what no bell had told of
    BUCKET_MERGED = 22  # buckets that are counted with a later one, because the store was away
    CONNECTION_LIMITED = 23  # connections that were refused, because they came above their rate,
    CLIENT_LIMITED = 24  # or closed, because their clients sent frames above theirs
    SWEPT = 25  # sweeps of expired messages that ended without an error
    BREAKER_OPENED = 26  # times a process's breaker opened, or stayed open after a try

    @property
    def has_priority(self) -> bool:
        return self < Event.CONNECTED

    @staticmethod
    def of(fate: Fate) -> Event:
        return Event[fate.name]


class Timing(IntEnum):
    """What is timed, in seconds."""

    ACK = 0  # from a message's sending to its ack, of messages sent while the connection was there
    REPLAY_ACK = 1  # the same, of messages that were there before the connection
    LIVE = 2  # from a connection's beginning to the end of its replay


class Gauge(IntEnum):
    """What a process has at a time; summed up as value times seconds."""

    CONNECTIONS = 0
    IN_FLIGHT = 1  # deliveries without an ack
    OWN_SENDS = 2  # consumers' own sends that only memory has


@dataclass(slots=True)
class Histogram:
    """How many times were up to each of BOUNDS and above the one before; the last count is of what is above all."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def observe(self, seconds: float) -> None:
        """A time. Clocks that differ may make it seem to be below 0; it counts as none."""
        self.observe_all([seconds])

    def observe_all(self, seconds: Sequence[float]) -> None:
        """Each of them."""
        counts = self.counts
        for some in seconds:
            counts[bisect_left(BOUNDS, some)] += 1
        self.total += sum(some for some in seconds if some > 0)

    @property
    def count(self) -> int:
        return sum(self.counts)

    def add(self, other: Histogram) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def add_sparse(self, counts: Mapping[str, int], total: float) -> None:
        """Add one that is written without its zeros, by the numbers of the bounds."""
        for number, count in counts.items():
            self.counts[int(number)] += count
        self.total += total

    def quantile(self, share: float) -> float | None:
        """The time that this share (0 to 1) did not exceed, estimated within its bucket; None without any.

        What is above all bounds is taken for the last one.
        """
        wanted = share * self.count
        below = 0
        for number, count in enumerate(self.counts):
            if count and below + count >= wanted:
                upper: float = BOUNDS[min(number, len(BOUNDS) - 1)]
                lower: float = BOUNDS[number - 1] if number else 0.0
                return lower + (upper - lower) * max(wanted - below, 0) / count
            below += count
        return None


@dataclass(slots=True)
class Figures:
    """Counts by event and priority, histograms by timing, gauges in value times seconds."""

    counts: list[list[int]] = field(default_factory=lambda: [[0] * len(Priority) for _ in Event])
    timings: list[Histogram] = field(default_factory=lambda: [Histogram() for _ in Timing])
    gauges: list[float] = field(default_factory=lambda: [0.0] * len(Gauge))

    def count(self, event: Event, priority: Priority | None = None) -> int:
        """How often, of one priority or of all."""
        counts = self.counts[event]
        return sum(counts) if priority is None else counts[priority]

    def add(self, other: Figures) -> None:
        for mine, theirs in zip(self.counts, other.counts, strict=True):
            mine[:] = [a + b for a, b in zip(mine, theirs, strict=True)]
        for timing, its in zip(self.timings, other.timings, strict=True):
            timing.add(its)
        self.gauges = [mine + theirs for mine, theirs in zip(self.gauges, other.gauges, strict=True)]

    def __bool__(self) -> bool:
        return self != Figures()

    def as_json(self) -> str:
        """Without zeros, and under names: a process of another release leaves out what it does not know."""
        counts = {event.name.lower(): self.counts[event] for event in Event if any(self.counts[event])}
        timings = {
            timing.name.lower(): {"counts": _sparse(histogram.counts), "total": round(histogram.total, 6)}
            for timing, histogram in zip(Timing, self.timings, strict=True)
            if histogram.count
        }
        gauges = {gauge.name.lower(): round(self.gauges[gauge], 3) for gauge in Gauge if self.gauges[gauge]}
        return json.dumps({"counts": counts, "timings": timings, "gauges": gauges}, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Figures:
        figures = Figures()
        figures.add_json(text)
        return figures

    def add_json(self, text: str) -> None:
        """Add what ``as_json`` has made of others: four times as quick as making them again first."""
        given = json.loads(text)
        for name, counts in given["counts"].items():
            if (event := _EVENTS.get(name)) is not None:
                mine = self.counts[event]
                for priority, count in enumerate(counts):
                    mine[priority] += count
        for name, histogram in given["timings"].items():
            if (timing := _TIMINGS.get(name)) is not None:
                self.timings[timing].add_sparse(histogram["counts"], histogram["total"])
        for name, value in given["gauges"].items():
            if (gauge := _GAUGES.get(name)) is not None:
                self.gauges[gauge] += value


_EVENTS = {event.name.lower(): event for event in Event}
_TIMINGS = {timing.name.lower(): timing for timing in Timing}
_GAUGES = {gauge.name.lower(): gauge for gauge in Gauge}


def _sparse(counts: Iterable[int]) -> dict[str, int]:
    return {str(number): count for number, count in enumerate(counts) if count}


@dataclass(frozen=True, slots=True)
class Bucket:
    """What happened from ``start`` on, for as long as whoever made it says."""

    start: datetime
    figures: Figures


def aligned(moment: datetime, seconds: int = BUCKET_SECONDS) -> datetime:
    """The start of the bucket of this length that a moment belongs to. Lengths are counted from 1970 on."""
    since = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() // seconds) * seconds
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=since)


def added_up(buckets: Iterable[Bucket], seconds: int) -> list[Bucket]:
    """The same in buckets of this length, in order of time; those with nothing in them are left out."""
    found: dict[datetime, Figures] = defaultdict(Figures)
    for bucket in buckets:
        found[aligned(bucket.start, seconds)].add(bucket.figures)
    return [Bucket(start, found[start]) for start in sorted(found)]
