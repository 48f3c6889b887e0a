"""Which queues are durable yet, and what a queue is to the store therefore.

The same percentage gives the same answer everywhere and always, and as it grows, those that are in stay in: a hash of
the queue's name decides, not chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b

from .controls import as_regex, matches
from .message import base_of

EVERYTHING = 100.0
PLACES = 10_000  # that queues are spread over: a hundredth of a percent each


class Standing(Enum):
    """What a queue is to the store."""

    DURABLE = "durable"
    SHADOW = "shadow"  # kept as if it were durable, but nothing is replayed
    OUTSIDE = "outside"  # of the rollout: what waits is still replayed, nothing new is kept
    OFF = "off"  # the kill switch: nothing is kept, and nothing replayed

    @property
    def keeps(self) -> bool:
        """Whether what is sent is kept until it is acked. Otherwise it is for connected clients only."""
        return self in (Standing.DURABLE, Standing.SHADOW)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """``percent`` of the queues, those that match ``allow`` in any case, and none that matches ``deny``.

    Patterns are those of ``as_regex``, of the queue's name without its line: all devices of a user are in, or none.
    """

    percent: float = EVERYTHING
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    is_shadow: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a pattern that is none."""
        for pattern in (*self.allow, *self.deny):
            as_regex(pattern)

    def includes(self, queue: str) -> bool:
        if self.is_everything:
            return True
        name = base_of(queue)
        if _matches_any(name, self.deny):
            return False
        return place_of(name) < self.places or _matches_any(name, self.allow)

    @property
    def is_everything(self) -> bool:
        return self.percent >= EVERYTHING and not self.deny

    @property
    def places(self) -> int:
        """How many of PLACES are in."""
        return round(self.percent * PLACES / EVERYTHING)

    def standing(self, queue: str) -> Standing:
        """Of a queue, with the kill switch not pulled."""
        if not self.includes(queue):
            return Standing.OUTSIDE
        return Standing.SHADOW if self.is_shadow else Standing.DURABLE


def place_of(queue: str) -> int:
    """Where a queue comes in: from 0, with the first hundredth of a percent, to PLACES - 1. The same for ever."""
    return number_of(queue) % PLACES


def number_of(name: str) -> int:
    """63 bits of a name's BLAKE2b digest."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(matches(pattern, name) for pattern in patterns)
