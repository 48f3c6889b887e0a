"""What goes into a store and comes out of it, besides the messages themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from ..core.message import Draft, Losses, LossReason, Message, Outcome, Priority
from ..core.policy import Growth, Policy
from ..exceptions import QueueFull

Positions = dict[str, dict[str, int]]  # by message id and line


class Appended(NamedTuple):
    """What became of one draft. ``id``: the first message's for a duplicate.

    ``lines``: those that hold it now, the queue itself if it has no others; none unless it is queued. ``position``: its
    place in the first of them. ``servers``: the ids of those that held connections of its lines just before, if the
    append has found out on its way (when a caller's transaction commits, there may be others); None: it has not.
    """

    id: str
    outcome: Outcome
    position: int | None = None
    lines: tuple[str, ...] = ()
    servers: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class GroupAppended:
    """What became of a group's draft. ``id``: the first message's for a duplicate. ``recipients``: how many queues."""

    id: str
    outcome: Outcome
    recipients: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """An operator has paused a queue. ``until``: it ends by itself then; None: it does not. ``by``: who did it."""

    since: datetime
    until: datetime | None = None
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class Mended:
    """What ``mend`` found: how many messages it looked at, of how many the size was wrong, and how many had no payload.

    ``last``: the position of the last one; None: there was none.
    """

    checked: int
    resized: int
    lost: int
    last: int | None


class Batch(NamedTuple):
    """What a read gave. ``more``: there may be further messages behind these.

    ``unnoted``: of a tentative read, the positions that ``Store.transmit`` is to be told of before they go out.
    ``is_paused``: nothing was given, since an operator has paused the queue: until ``resumes_at``, or for as long as it
    takes.
    """

    messages: tuple[Message, ...]
    more: bool
    unnoted: frozenset[int] = frozenset()
    is_paused: bool = False
    resumes_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Returned:
    """What a connection had in flight when it ended, without an ack. ``is_alone``: there was nothing else beside it."""

    queue: str
    positions: tuple[int, ...]
    is_alone: bool
    policy: Policy


@dataclass(frozen=True, slots=True)
class Surplus:
    """What a returning client is not to get. ``messages``: the same in the order of delivery, if there is a digest."""

    positions: tuple[int, ...]
    messages: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A message that was set aside. ``number`` names the letter, ``id`` the message (several lines may have had it)."""

    number: int
    queue: str
    id: str
    reason: LossReason
    priority: Priority
    size: int
    deliveries: int
    sent_at: datetime
    died_at: datetime
    keep_until: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server process: ``id`` is unique for its whole life, ``host`` and ``pid`` are for people."""

    id: str
    host: str
    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """A connection as the store knows it.

    ``policy`` is the consumer's choice, or with ``is_resolved`` POLICY_RESOLVER's, and becomes the queue's.
    ``acked_at``: of one that leaves, when its client acked last, by the store's time.
    """

    id: str
    queue: str
    server: Server
    policy: str
    client: str = ""
    is_resolved: bool = False
    acked_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Connected:
    """A connection that the store knows. ``server``: the id of its server process, ``place``: the same for people.

    ``is_alive``: the server's heartbeat is recent.
    """

    id: str
    queue: str
    server: str
    place: str
    client: str
    since: datetime
    is_alive: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Detail:
    """What a server process says of one of its connections: its window, how many deliveries have no ack, and when its
    client acked last; None: never. Both times are the store's. ``told_at``: when it said so; None: it is saying it.
    """

    connection: str
    window: int
    unacked: int
    acked_at: datetime | None
    told_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to ``attach``. ``waiting`` is exact up to the policy's ``max_messages``.

    ``lingering``: the ids of the servers in which consumers of this queue lingered until now.
    """

    waiting: int
    losses: Losses
    at: datetime
    lingering: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A device's line of a queue. ``seen_at``: when its client last came or left."""

    name: str
    seen_at: datetime
    is_connected: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStat:
    """One queue as it stands. ``policy``: what its last connection chose for it; with ``is_resolved``, POLICY_RESOLVER.

    ``oldest_at``: when the oldest waiting message was sent.
    ``acked_at``: the last ack of the connections that have left.
    ``superseded``: how many messages newer ones have taken the place of, of the collapse keys in use.
    ``pause``: an operator has paused it, or the queue that it is a line of.
    """

    queue: str
    policy: str = ""
    is_resolved: bool = False
    messages: int = 0
    size: int = 0
    by_priority: Mapping[Priority, int] = field(default_factory=dict)
    oldest_at: datetime | None = None
    connections: int = 0
    seen_at: datetime | None = None
    acked_at: datetime | None = None
    losses: Losses = field(default_factory=Losses)
    superseded: int = 0
    pause: Pause | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """What upkeep would remove now, each counted up to a limit."""

    expired: int
    connections: int
    lines: int
    idle_queues: int
    keys: int
    bodies: int
    undelivered: int = 0
    letters: int = 0
    expired_since: datetime | None = None  # when the time of the first of ``expired`` was over


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """The whole store as it stands, each figure counted up to a limit. Sizes in bytes. ``oldest_at``: when the oldest
    message that waits was sent.

    ``complete``: no figure met its limit. ``largest`` has the queues with the most messages first, of each its name,
    messages, size and oldest message; without ``complete``, only the oldest messages of the store were looked at.
    ``paused``: how many queues and lines operators have paused, those that only their queue's pause is about apart.
    """

    messages: int
    size: int
    expired: int
    queues: int
    connections: int
    servers: int
    complete: bool
    largest: tuple[QueueStat, ...]
    oldest_at: datetime | None = None
    paused: int = 0
    letters: int = 0  # dead letters that are kept


@dataclass(frozen=True, slots=True)
class Ages:
    """How many waiting messages are in each class of age, by priority. ``complete``: all of them were looked at."""

    counts: Mapping[Priority, Sequence[int]]
    complete: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLoad:
    """A living server, when it was heard of last, and how many connections it holds."""

    server: Server
    heartbeat_at: datetime
    connections: int


def growth(copies: Iterable[tuple[str, int]]) -> dict[str, Growth]:
    """What copies of messages, given as pairs of line and size, add to each line."""
    found: dict[str, Growth] = {}
    for line, size in copies:
        before = found.get(line, Growth(0, 0))
        found[line] = Growth(before.messages + 1, before.size + size)
    return found


def split_by_size(drafts: Iterable[Draft], policies: Mapping[str, Policy]) -> tuple[list[Draft], list[Draft]]:
    """Those drafts that their policies let be stored, and those that are too large."""
    fitting: list[Draft] = []
    too_large: list[Draft] = []
    for draft in drafts:
        (fitting if draft.payload.size <= policies[draft.queue].max_message_bytes else too_large).append(draft)
    return fitting, too_large


def without(positions: Positions, removed: Collection[int]) -> Positions:
    """Those of these positions that are left; a message that has none left is left out."""
    kept = {id: {line: p for line, p in of.items() if p not in removed} for id, of in positions.items()}
    return {id: of for id, of in kept.items() if of}


def answer(
    draft: Draft,
    firsts: Mapping[str, str],
    kept: Positions,
    inserted: Collection[str],
    superseded: Collection[str] = (),
) -> Appended:
    """What became of a draft. ``firsts``: the first message's id for each duplicate. ``superseded``: by a later one."""
    first = firsts.get(draft.id)
    if draft.id in superseded:
        return Appended(draft.id, Outcome.SUPERSEDED)
    if draft.id in kept:
        places = kept[draft.id]
        return Appended(draft.id, Outcome.QUEUED, next(iter(places.values())), tuple(places))
    if first is not None and (first in kept or first not in inserted):
        return Appended(first, Outcome.DUPLICATE)
    return Appended(draft.id, Outcome.DROPPED)


def expiry(draft: Draft, now: datetime) -> datetime:
    return (draft.sent_at or now) + timedelta(seconds=draft.ttl_seconds)


def deliveries_after(before: int, returns: Iterable[Returned]) -> tuple[int, bool]:
    """How often a message has been delivered after these, up to where it is too often, and whether it is."""
    count = before
    for some in returns:
        counted = some.policy.deliveries_after(count, is_alone=some.is_alone)
        if counted > count and counted >= some.policy.max_deliveries:
            return counted, True
        count = counted
    return count, False


def no_room(queue: str, size: int, policy: Policy) -> QueueFull:
    """The error for a message that would be the first to go from a full queue."""
    return QueueFull(
        queue,
        messages=policy.max_messages + 1,
        limit_messages=policy.max_messages,
        size=size,
        limit_bytes=policy.max_bytes,
    )
