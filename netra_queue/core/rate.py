"""Token buckets: how many may come in which time, and how many at once. Times are seconds, of whatever clock.

A bucket holds ``burst`` tokens and is refilled evenly. All that is kept of it is the time at which it is full again
(``full_at``; any time that is over means full), so that a bucket nobody has used is one that nobody has to keep.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

SECONDS = {"s": 1, "m": 60, "h": 3_600}
TEXT = re.compile(r"(?P<count>[0-9]{1,9})/(?P<period>[smh])(?: burst (?P<burst>[0-9]{1,9}))?", re.ASCII)
EXPECTED = "a text such as '100/s', '6000/m', '20/h' or '100/s burst 500'"


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` in ``period_seconds``, and ``burst`` at once after a pause that was long enough."""

    count: int
    period_seconds: int
    burst: int

    @staticmethod
    def parse(given: object) -> Rate:
        """Without a burst, as many at once as the text has for its period. Raises ValueError."""
        found = TEXT.fullmatch(given) if isinstance(given, str) else None
        if found is None:
            raise ValueError(f"expected {EXPECTED}, got {given!r}")
        count = int(found["count"])
        burst = count if found["burst"] is None else int(found["burst"])
        if not count or not burst:
            raise ValueError(f"expected numbers above 0, got {given!r}")
        return Rate(count, SECONDS[found["period"]], burst)

    @property
    def seconds_each(self) -> float:
        """In which time one token comes back."""
        return self.period_seconds / self.count

    @property
    def burst_seconds(self) -> float:
        """In which time an empty bucket is full."""
        return self.burst * self.seconds_each

    def __str__(self) -> str:
        period = next(name for name, seconds in SECONDS.items() if seconds == self.period_seconds)
        return f"{self.count}/{period}" + (f" burst {self.burst}" if self.burst != self.count else "")


@dataclass(frozen=True, slots=True)
class Taken:
    """``number`` tokens taken out of a bucket at the time ``at``, whether they were there or not.

    ``full_at``: of the bucket after that. Who does not keep it has taken nothing.
    """

    rate: Rate
    number: int
    at: float
    full_at: float

    @property
    def wait(self) -> float:
        """After how many seconds they are there, all at once; 0: now. More than a burst have a full bucket to wait for,
        and whoever comes next to wait longer: otherwise they could never be had.
        """
        return max(0.0, self.full_at - self.at - max(self.rate.burst, self.number) * self.rate.seconds_each)

    @property
    def waits(self) -> Iterator[float]:
        """The same of each one by itself, in order. It never falls, also from one taking to the next."""
        first = self.full_at - self.at - self.rate.burst_seconds - (self.number - 1) * self.rate.seconds_each
        return (max(0.0, first + n * self.rate.seconds_each) for n in range(self.number))


def take(rate: Rate, full_at: float, now: float, number: int = 1) -> Taken:
    """Out of a bucket that is full at ``full_at``."""
    return Taken(rate, number, now, max(full_at, now) + number * rate.seconds_each)


def available(rate: Rate, full_at: float, now: float) -> int:
    """How many tokens are there."""
    missing = max(0.0, full_at - now) / rate.seconds_each
    return max(0, int(rate.burst - missing + 1e-6))  # what has come back to a millionth is there


@dataclass(frozen=True, slots=True)
class Want:
    """``number`` tokens of the bucket with this name. ``longest_wait``: for how many seconds each of them may be waited
    for; None: not at all, all of them are to be there.
    """

    bucket: str
    rate: Rate
    number: int
    longest_wait: float | None = None

    def take(self, full_at: float, now: float) -> Taken:
        return take(self.rate, full_at, now, self.number)

    def missing_seconds(self, taken: Taken) -> float:
        """In how many seconds it would be granted; 0: it is."""
        if self.longest_wait is None:
            return taken.wait
        last = max(0.0, taken.full_at - taken.at - self.rate.burst_seconds)
        return max(0.0, last - self.longest_wait)
