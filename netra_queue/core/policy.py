"""Limits for a kind of queue, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from .message import LossReason, Priority
from .rate import Rate
from .rollout import Rollout


class Overflow(Enum):
    """What happens when a queue is full.

    Both dropping modes remove from the least urgent priority that is there, the newcomer included, so that an
    urgent message never goes for a less urgent one; they differ in which end of that priority goes.
    """

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    REJECT = "reject"


class WhileUnavailable(Enum):
    """What a send gets while the breaker around the store is open."""

    RAISE = "raise"  # BreakerOpen
    LIVE = "live"  # it is given to the clients that are connected, and nobody else


class Exceeded(Enum):
    """What happens to a message that is sent above its rate."""

    REJECT = "reject"
    DELAY = "delay"  # it is stored at once, and delivered when its turn has come


BLIND = 16  # processes that may fill a queue between two counts as one of them does
UNSEEN = 8  # senders at a time, that do not see each other's writes, for which limits are exact below the half


@dataclass(frozen=True, slots=True)
class Growth:
    """What one append puts into one queue."""

    messages: int
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What a returning client gets: everything, or what these leave in.

    ``newest``: as many as that, those that ``DROP_OLDEST`` would keep. ``seconds``: nothing that was sent longer ago.
    ``digest``: dotted path of what makes one message out of those that are left out.
    """

    newest: int | None = None
    seconds: float | None = None
    digest: str | None = None

    def __bool__(self) -> bool:
        return self.newest is not None or self.seconds is not None


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
    line_seconds: float
    max_lines: int
    track_seconds: float
    undelivered: Mapping[Priority, float]  # handed over when unacked for so long; priorities left out never are
    on_undelivered: str | None  # dotted path of what they are handed to; None: the signal
    max_deliveries: int
    dead_letters: frozenset[LossReason]
    dead_letter_seconds: float
    replay: Replay
    rate: Rate | None  # of what is sent to the queue; None: no limit, for this and the others
    sender_rates: Mapping[str, Rate]  # the same, by the class of its senders
    rate_exceeded: Exceeded
    client_frames: Rate | None
    control_frames: Rate | None
    connections: Rate | None
    replay_rate: Rate | None
    rollout: Rollout
    while_unavailable: WhileUnavailable

    @property
    def does_without(self) -> bool:
        """Whether clients are served, and sends accepted, while the store is away."""
        return self.while_unavailable is WhileUnavailable.LIVE or self.rollout.is_shadow

    def ttl_for(self, priority: Priority) -> float:
        return self.ttl[priority]

    def travels_alone(self, deliveries: int) -> bool:
        """Whether a message has been returned so often that nothing else may be in flight beside it.

        So one that makes its client fail reaches the limit by itself, and does not take others along.
        """
        return deliveries >= self.alone_from

    @property
    def delays(self) -> bool:
        """Whether the queue may hold messages whose time has not come."""
        return self.rate_exceeded is Exceeded.DELAY and (self.rate is not None or bool(self.sender_rates))

    @property
    def alone_from(self) -> int:
        """From so many deliveries on, which is half of the limit, a message travels alone."""
        return (self.max_deliveries + 1) // 2

    def deliveries_after(self, deliveries: int, *, is_alone: bool) -> int:
        """The count of a message that was returned once more. In company, it goes no further than to travel alone."""
        return deliveries if self.travels_alone(deliveries) and not is_alone else deliveries + 1

    def is_full(self, messages: int, size: int) -> bool:
        """Whether a queue that holds this much is over its limits."""
        return messages > self.max_messages or size > self.max_bytes

    def is_far_from_full(self, messages: int, size: int, *, since: Growth) -> bool:
        """Whether what a queue holds need not be counted again: it held this much when it was, and this process has
        added ``since``. It stays below a quarter of its limits even if sixteen processes have added as much.
        """
        many = messages + BLIND * since.messages
        return many * 4 < self.max_messages and (size + BLIND * since.size) * 4 < self.max_bytes

    def is_near_full(self, messages: int, size: int, *, added: Growth) -> bool:
        """Whether senders that do not see each other's writes could take the queue over its limits together.

        It holds ``messages`` and ``size`` with what one of them has ``added``; eight more may be adding as much.
        """
        many = messages * 2 > self.max_messages or messages + UNSEEN * max(added.messages, UNSEEN) > self.max_messages
        return many or size * 2 > self.max_bytes or size + UNSEEN * added.size > self.max_bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """A message that may have to go, as a store lists it."""

    position: int
    priority: Priority
    size: int


def choose_victims(candidates: Iterable[Candidate], policy: Policy, *, messages: int, size: int) -> list[Candidate]:
    """The candidates that must go for the queue (of ``messages`` and ``size`` bytes) to be within its limits.

    ``candidates`` come in the order of ``removal_order``; as many as needed are taken from their beginning, and not one
    more: from an iterator, further ones can be taken later.
    """
    victims: list[Candidate] = []
    remaining = iter(candidates)
    while policy.is_full(messages, size) and (candidate := next(remaining, None)) is not None:
        victims.append(candidate)
        messages, size = messages - 1, size - candidate.size
    return victims


def removal_order(candidate: Candidate, overflow: Overflow) -> tuple[int, int]:
    """Sort key: the least urgent priority first, and of it the oldest (``DROP_OLDEST``) or the newest."""
    age = candidate.position if overflow is Overflow.DROP_OLDEST else -candidate.position
    return (-candidate.priority, age)


def left_out(replay: Replay, waiting: Iterable[tuple[int, Priority, float]]) -> list[int]:
    """The positions that a returning client does not get, in order. ``waiting``: position, priority and age in seconds.

    What is too old goes first; of the rest, those that ``DROP_OLDEST`` would remove to keep ``newest`` messages.
    """
    kept: list[tuple[int, Priority]] = []
    gone: list[int] = []
    for position, priority, age_seconds in waiting:
        if replay.seconds is not None and age_seconds > replay.seconds:
            gone.append(position)
        else:
            kept.append((position, priority))
    if replay.newest is not None:
        kept.sort(key=lambda item: (item[1], -item[0]))
        gone += [position for position, _ in kept[replay.newest :]]
    return sorted(gone)
