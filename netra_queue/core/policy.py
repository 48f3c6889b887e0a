"""Limits for a kind of queue, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from .message import Priority


class Overflow(Enum):
    """What happens when a queue is full.

    Both dropping modes remove from the least urgent priority that is there, the newcomer included, so that an
    urgent message never goes for a less urgent one; they differ in which end of that priority goes.
    """

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    REJECT = "reject"


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """The limits of one kind of queue. Sizes in bytes, durations in seconds. Defaults live in ``netra_queue.conf``."""

    name: str
    max_messages: int
    max_bytes: int
    max_message_bytes: int
    window: int
    window_bytes: int
    overflow: Overflow
    ttl: Mapping[Priority, float]
    heartbeat_seconds: float
    ack_timeout_seconds: float

    def ttl_for(self, priority: Priority) -> float:
        return self.ttl[priority]

    def is_full(self, messages: int, size: int) -> bool:
        """Whether a queue that holds this much is over its limits."""
        return messages > self.max_messages or size > self.max_bytes

    def is_near_full(self, messages: int, size: int, *, slack: int) -> bool:
        """Whether senders that do not see each other's writes could take the queue over its limits together."""
        return messages + slack > self.max_messages or size * 2 > self.max_bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """A message that may have to go, as a store lists it."""

    position: int
    priority: Priority
    size: int


def choose_victims(candidates: Iterable[Candidate], policy: Policy, *, messages: int, size: int) -> list[Candidate]:
    """The candidates that must go for the queue (of ``messages`` and ``size`` bytes) to be within its limits.

    ``candidates`` come in the order of ``removal_order``; as many as needed are taken from their beginning.
    """
    victims: list[Candidate] = []
    for candidate in candidates:
        if not policy.is_full(messages, size):
            break
        victims.append(candidate)
        messages, size = messages - 1, size - candidate.size
    return victims


def removal_order(candidate: Candidate, overflow: Overflow) -> tuple[int, int]:
    """Sort key: the least urgent priority first, and of it the oldest (``DROP_OLDEST``) or the newest."""
    age = candidate.position if overflow is Overflow.DROP_OLDEST else -candidate.position
    return (-candidate.priority, age)
