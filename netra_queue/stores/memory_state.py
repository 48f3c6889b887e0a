"""What the store in memory is made of: its rows, and what all its parts need."""

from __future__ import annotations

import itertools
import threading
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from .. import conf
from ..core.message import Draft, Fate, GroupDraft, Losses, LossReason, Message, Priority, base_of
from ..core.policy import Candidate, Overflow, Policy, choose_victims, removal_order
from ..core.statistics import Event
from ..counting import adder
from ..exceptions import QueueFull
from .base import MISSED_HEARTBEATS
from .memory_statistics import MemoryStatistics
from .values import Detail, Letter, Pause, Presence, Server


@dataclass(frozen=True, slots=True, order=True)
class Row:
    sort_key: tuple[int, int]
    message: Message = field(compare=False)
    expires_at: datetime = field(compare=False)
    is_for_first: bool = field(default=False, compare=False)
    is_shared: bool = field(default=False, compare=False)  # several lines got it
    not_before: datetime | None = field(default=None, compare=False)

    def may_be_read(self, now: datetime) -> bool:
        return self.expires_at > now and (self.not_before is None or self.not_before <= now)

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.message.position, self.message.priority, self.message.payload.size)


@dataclass(frozen=True, slots=True)
class Slot:
    """Of a collapse key: where its newest message is, and how many have been superseded."""

    position: int
    superseded: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LetterRow:
    """A message that was set aside, from a queue of this name."""

    queue: str
    message: Message
    letter: Letter


@dataclass(slots=True)
class QueueRows:
    name: str
    created_at: datetime
    rows: list[Row] = field(default_factory=list)
    keys: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    losses: dict[int, tuple[LossReason, Priority, int, datetime]] = field(default_factory=dict)
    policy: str = ""
    is_resolved: bool = False
    seen_at: datetime | None = None
    acked_at: datetime | None = None
    slots: dict[str | None, Slot] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(row.message.payload.size for row in self.rows)

    def copy(self) -> QueueRows:
        rows, keys, losses, slots = list(self.rows), dict(self.keys), dict(self.losses), dict(self.slots)
        return replace(self, rows=rows, keys=keys, losses=losses, slots=slots)


class Lock:
    """A lock that a thread may take again. ``after`` has something called once the thread has let go of it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._calls: list[Callable[[], None]] = []

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """What ended with an error has not happened."""
        self._depth -= 1
        calls: list[Callable[[], None]] = []
        if not self._depth:
            calls, self._calls = self._calls, []
        self._lock.release()
        for call in calls if kind is None else ():
            call()

    def after(self, call: Callable[[], None]) -> None:
        self._calls.append(call)


@dataclass(slots=True)
class GroupRows:
    created_at: datetime
    members: set[str] = field(default_factory=set)
    keys: dict[str, tuple[str, datetime]] = field(default_factory=dict)


class MemoryState(MemoryStatistics):
    """Everything under one lock. ``clock`` gives the store's time."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__()
        self._clock = clock
        self._lock = Lock()
        self._numbers = itertools.count(1)
        self._queues: dict[str, QueueRows] = {}
        self._groups: dict[str, GroupRows] = {}
        self._presences: dict[str, tuple[Presence, datetime]] = {}
        self._heartbeats: dict[str, datetime] = {}
        self._servers: dict[str, Server] = {}
        self._lingers: dict[str, tuple[Presence, datetime]] = {}  # by connection, with the end
        self._pauses: dict[str, Pause] = {}
        self._away: dict[str, float] = {}  # by connection: in how many seconds it may be back
        self._details: dict[str, Detail] = {}  # by connection
        self._transmitted: set[int] = set()
        self._letters: dict[int, LetterRow] = {}
        self._full_at: dict[str, float] = {}  # of rates' buckets, by their names

    def now(self) -> datetime:
        return self._clock()

    def _peek(self, name: str) -> QueueRows:
        """The queue with this name; an empty one that is not kept if it is unknown."""
        return self._queues.get(name) or QueueRows(name, self.now())

    def _queue(self, name: str) -> QueueRows:
        if name not in self._queues:
            self._queues[name] = QueueRows(name, self.now())
        return self._queues[name]

    def _remove(
        self, queue: QueueRows, positions: Collection[int], reason: LossReason, *, may_keep: bool = True
    ) -> set[int]:
        gone = self._take(queue, positions, Fate(reason.value))
        for priority, count in Counter(row.message.priority for row in gone).items():
            self._count(queue, reason, priority, count)
        if may_keep and reason in (policy := conf.policy_of(queue.name, queue.policy)).dead_letters:
            for row in gone:
                self._set_aside(queue.name, row, reason, policy.dead_letter_seconds)
        return {row.message.position for row in gone}

    def _set_aside(self, queue: str, row: Row, reason: LossReason, keep_seconds: float) -> None:
        number, now, message = next(self._numbers), self.now(), row.message
        letter = Letter(
            number=number,
            queue=queue,
            id=message.id,
            reason=reason,
            priority=message.priority,
            size=message.payload.size,
            deliveries=message.deliveries,
            sent_at=message.created_at,
            died_at=now,
            keep_until=now + timedelta(seconds=keep_seconds),
        )
        self._letters[number] = LetterRow(queue, message, letter)

    def _take(self, queue: QueueRows, positions: Collection[int], fate: Fate) -> list[Row]:
        """The only way a message goes."""
        gone = [row for row in queue.rows if row.message.position in positions]
        if gone:
            queue.rows = [row for row in queue.rows if row.message.position not in positions]
            self._counted(Event.of(fate), [row.message.priority for row in gone])
            self._ended(queue.name, gone, fate)
        return gone

    def _counted(self, event: Event, priorities: Sequence[Priority]) -> None:
        """Count this once it has happened for good."""
        if priorities:
            self._lock.after(lambda: adder.count(event, priorities))

    def _counted_beside(self, draft: Draft | GroupDraft, lines: Sequence[str], event: Event) -> None:
        """A message that was accepted for these lines, and has ended before it got into them."""
        for one in (Event.ACCEPTED, event):
            self._counted(one, [draft.priority] * len(lines))

    def _ended(self, line: str, rows: Sequence[Row], fate: Fate) -> None:
        """These rows have left their line."""

    def _count(self, queue: QueueRows, reason: LossReason, priority: Priority, count: int) -> None:
        queue.losses[next(self._numbers)] = (reason, priority, count, self.now())

    def _expire(self, queue: QueueRows) -> None:
        now = self.now()
        self._remove(queue, {row.message.position for row in queue.rows if row.expires_at <= now}, LossReason.EXPIRED)

    def _place(self, draft: Draft, lines: Sequence[str], expires_at: datetime) -> dict[str, int]:
        """Put a message into exactly these lines. Returns where it is."""
        is_for_first = draft.deliver_first and len(lines) > 1
        places = {line: next(self._numbers) for line in lines}
        for line, position in places.items():
            message = Message(
                position=position,
                id=draft.id,
                payload=draft.payload,
                priority=draft.priority,
                created_at=draft.sent_at or self.now(),
                traceparent=draft.traceparent,
            )
            row = Row((draft.priority, position), message, expires_at, is_for_first, len(lines) > 1, draft.not_before)
            insort(self._queue(line).rows, row)
        self._counted(Event.ACCEPTED, [draft.priority] * len(lines))
        return places

    def _enforce(self, name: str, policy: Policy) -> set[int]:
        queue = self._queue(name)
        if policy.is_full(len(queue.rows), queue.size):
            self._expire(queue)
        messages, size = len(queue.rows), queue.size
        if not policy.is_full(messages, size):
            return set()
        if policy.overflow is Overflow.REJECT:
            raise QueueFull(
                name,
                messages=messages,
                limit_messages=policy.max_messages,
                size=size,
                limit_bytes=policy.max_bytes,
            )
        candidates = sorted((row.candidate for row in queue.rows), key=lambda c: removal_order(c, policy.overflow))
        victims = choose_victims(candidates, policy, messages=messages, size=size)
        return self._remove(queue, {victim.position for victim in victims}, LossReason.DROPPED)

    def _pause(self, name: str) -> Pause | None:
        """Of a line and its queue, the pause that lasts longer."""
        pauses = [self._pauses.get(base_of(name)), self._pauses.get(name)]
        mine = [pause for pause in pauses if pause is not None and self._is_in_force(pause)]
        return max(mine, key=lambda pause: pause.until or datetime.max.replace(tzinfo=UTC), default=None)

    def _is_in_force(self, pause: Pause | None) -> bool:
        return pause is not None and (pause.until is None or pause.until > self.now())

    def _losses(self, queue: QueueRows, told: Collection[int] = ()) -> Losses:
        untold = {record: loss for record, loss in queue.losses.items() if record not in told}
        counts: dict[tuple[LossReason, Priority], int] = defaultdict(int)
        for reason, priority, count, _ in untold.values():
            counts[reason, priority] += count
        since = min((since for *_, since in untold.values()), default=None)
        return Losses(counts=dict(counts), since=since, records=tuple(untold))

    def _is_alive(self, server_id: str) -> bool:
        return server_id in self._heartbeats and self._is_recent(self._heartbeats[server_id])

    def _is_recent(self, at: datetime) -> bool:
        return at > self.now() - timedelta(seconds=MISSED_HEARTBEATS * conf.get("SERVER_HEARTBEAT_SECONDS"))

    def _dead(self) -> list[str]:
        """The connections of silent servers, and those of unknown ones that have waited long enough for them."""
        return [
            presence.id
            for presence, since in self._presences.values()
            if not self._is_recent(self._heartbeats.get(presence.server.id, since))
        ]

    def _part(self, presences: Collection[Presence]) -> None:
        """These connections are gone: until now their lines have been in use."""
        for presence in presences:
            self._presences.pop(presence.id, None)
            self._away.pop(presence.id, None)
            self._details.pop(presence.id, None)
            if (queue := self._peek(presence.queue)).seen_at is not None:  # otherwise it was forgotten meanwhile
                queue.seen_at = self.now()
                queue.acked_at = max(filter(None, (queue.acked_at, presence.acked_at)), default=None)

    def _forget_lingers(self, is_over: Callable[[Presence, datetime], bool]) -> tuple[str, ...]:
        """Remove those of which this is true. Returns the ids of their servers."""
        over = [presence for presence, until in self._lingers.values() if is_over(presence, until)]
        for presence in over:
            del self._lingers[presence.id]
        return tuple(sorted({presence.server.id for presence in over}))
