"""A store in the memory of one process, for tests. It keeps the whole contract but durability."""

from __future__ import annotations

import itertools
import threading
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from .. import conf
from ..core.connection import ReadRequest
from ..core.message import Draft, Losses, LossReason, Message, Outcome, Priority
from ..core.policy import Candidate, Overflow, Policy, choose_victims, removal_order
from ..exceptions import QueueFull
from .base import Appended, Batch, Due, Opened, Overview, Presence, QueueStat, Server, Store


@dataclass(frozen=True, slots=True, order=True)
class _Row:
    sort_key: tuple[int, int]
    message: Message = field(compare=False)
    expires_at: datetime = field(compare=False)

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.message.position, self.message.priority, self.message.payload.size)


@dataclass(slots=True)
class _Queue:
    created_at: datetime
    rows: list[_Row] = field(default_factory=list)
    keys: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    losses: dict[int, tuple[LossReason, Priority, int, datetime]] = field(default_factory=dict)
    policy: str = ""
    seen_at: datetime | None = None

    @property
    def size(self) -> int:
        return sum(row.message.payload.size for row in self.rows)

    def copy(self) -> _Queue:
        rows, keys, losses = list(self.rows), dict(self.keys), dict(self.losses)
        return _Queue(self.created_at, rows, keys, losses, self.policy, self.seen_at)


class MemoryStore(Store):
    """Thread-safe through one lock. ``clock`` gives the store's time."""

    transactional = False

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._queues: dict[str, _Queue] = {}
        self._presences: dict[str, Presence] = {}
        self._heartbeats: dict[str, datetime] = {}

    def now(self) -> datetime:
        return self._clock()

    # --- messages ----------------------------------------------------------------------------------------------

    def in_transaction(self) -> bool:
        return False

    def describe(self, queues: Collection[str]) -> dict[str, str]:
        with self._lock:
            return {name: self._queues[name].policy for name in queues if name in self._queues}

    def ensure(self, queues: Collection[str]) -> None:
        with self._lock:
            for name in queues:
                self._queue(name)

    def append(self, drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> list[Appended]:
        with self._lock:
            before = {name: self._queue(name).copy() for name in {draft.queue for draft in drafts}}
            try:
                appended = [self._insert(draft) for draft in drafts]
                dropped = {position for name in before for position in self._enforce(name, policies[name])}
            except QueueFull:
                self._queues.update(before)
                raise
            self._forget_keys(drafts, appended, dropped)
            return [Appended(a.id, Outcome.DROPPED) if a.position in dropped else a for a in appended]

    def _insert(self, draft: Draft) -> Appended:
        queue, now = self._queue(draft.queue), self.now()
        sent_at = draft.sent_at or now
        expires_at = sent_at + timedelta(seconds=draft.ttl_seconds)
        if draft.key is not None:
            first, until = queue.keys.get(draft.key, ("", now))
            if until > now:
                return Appended(first, Outcome.DUPLICATE)
            queue.keys[draft.key] = (draft.id, expires_at)
        position = next(self._numbers)
        message = Message(
            position=position, id=draft.id, payload=draft.payload, priority=draft.priority, created_at=sent_at
        )
        insort(queue.rows, _Row((draft.priority, position), message, expires_at))
        return Appended(draft.id, Outcome.QUEUED, position)

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

    def _forget_keys(self, drafts: Sequence[Draft], appended: Sequence[Appended], dropped: Collection[int]) -> None:
        for draft, answer in zip(drafts, appended, strict=True):
            if draft.key is not None and answer.position in dropped:
                self._queue(draft.queue).keys.pop(draft.key, None)

    def _remove(self, queue: _Queue, positions: Collection[int], reason: LossReason) -> set[int]:
        gone = [row for row in queue.rows if row.message.position in positions]
        queue.rows = [row for row in queue.rows if row.message.position not in positions]
        for priority, count in Counter(row.message.priority for row in gone).items():
            queue.losses[next(self._numbers)] = (reason, priority, count, self.now())
        return {row.message.position for row in gone}

    def _expire(self, queue: _Queue) -> None:
        now = self.now()
        self._remove(queue, {row.message.position for row in queue.rows if row.expires_at <= now}, LossReason.EXPIRED)

    def read(self, requests: Sequence[tuple[str, ReadRequest]]) -> list[Batch]:
        with self._lock:
            return [self._read(self._peek(name), request) for name, request in requests]

    def _read(self, queue: _Queue, request: ReadRequest) -> Batch:
        now = self.now()
        messages: list[Message] = []
        size = 0
        for row in queue.rows:
            if row.expires_at <= now or row.message.position in request.excluded:
                continue
            if len(messages) == request.limit or size >= request.max_bytes:
                return Batch(tuple(messages), more=True)
            messages.append(row.message)
            size += row.message.payload.size
        return Batch(tuple(messages), more=False)

    def ack(self, positions: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
        with self._lock:
            for name, acked in positions.items():
                queue = self._peek(name)
                queue.rows = [row for row in queue.rows if row.message.position not in acked]
        return {}

    def waiting(self, queues: Collection[str]) -> set[str]:
        with self._lock:
            now = self.now()
            return {name for name in queues if any(row.expires_at > now for row in self._peek(name).rows)}

    def losses(self, queues: Collection[str], told: Collection[int] = ()) -> dict[str, Losses]:
        with self._lock:
            found = {name: self._losses(self._peek(name), told) for name in queues}
            return {name: losses for name, losses in found.items() if losses}

    def _losses(self, queue: _Queue, told: Collection[int] = ()) -> Losses:
        untold = {record: loss for record, loss in queue.losses.items() if record not in told}
        counts: dict[tuple[LossReason, Priority], int] = defaultdict(int)
        for reason, priority, count, _ in untold.values():
            counts[reason, priority] += count
        since = min((since for *_, since in untold.values()), default=None)
        return Losses(counts=dict(counts), since=since, records=tuple(untold))

    def settle(self, queue: str, records: Collection[int]) -> None:
        with self._lock:
            for record in records:
                self._peek(queue).losses.pop(record, None)

    # --- connections -------------------------------------------------------------------------------------------

    def attach(self, presence: Presence, policy: Policy) -> Opened:
        with self._lock:
            queue, now = self._queue(presence.queue), self.now()
            queue.policy, queue.seen_at = presence.policy, now
            self._presences[presence.id] = presence
            self._expire(queue)
            return Opened(min(len(queue.rows), policy.max_messages), self._losses(queue), now)

    def detach(self, presences: Collection[Presence]) -> None:
        with self._lock:
            for presence in presences:
                self._presences.pop(presence.id, None)
                self._peek(presence.queue).seen_at = self.now()

    def holders(self, queues: Collection[str]) -> dict[str, list[str]]:
        with self._lock:
            found: dict[str, set[str]] = defaultdict(set)
            for presence in self._presences.values():
                if presence.queue in queues and self._is_alive(presence.server.id):
                    found[presence.server.id].add(presence.queue)
            return {server: sorted(names) for server, names in found.items()}

    def heartbeat(self, server: Server) -> bool:
        with self._lock:
            was_known = server.id in self._heartbeats
            self._heartbeats[server.id] = self.now()
            return was_known

    def retire(self, server: Server) -> None:
        with self._lock:
            self._heartbeats.pop(server.id, None)
            self.reap()

    def _is_alive(self, server_id: str) -> bool:
        lease = timedelta(seconds=3 * conf.get("SERVER_HEARTBEAT_SECONDS"))
        return server_id in self._heartbeats and self._heartbeats[server_id] > self.now() - lease

    # --- upkeep ------------------------------------------------------------------------------------------------

    def sweep(self, limit: int) -> int:
        with self._lock:
            now = self.now()
            rows = [(row, name) for name, queue in self._queues.items() for row in queue.rows if row.expires_at <= now]
            due = sorted(rows, key=lambda item: item[0].expires_at)[:limit]
            for name in {name for _, name in due}:
                positions = {row.message.position for row, of in due if of == name}
                self._remove(self._queues[name], positions, LossReason.EXPIRED)
            return len(due)

    def reap(self) -> int:
        with self._lock:
            dead = [p for p in self._presences.values() if not self._is_alive(p.server.id)]
            for presence in dead:
                del self._presences[presence.id]
            self._heartbeats = {server: at for server, at in self._heartbeats.items() if self._is_alive(server)}
            return len(dead)

    def forget_idle(self, limit: int) -> int:
        with self._lock:
            self.forget_keys(limit)
            idle = self._idle()[:limit]
            for name in idle:
                del self._queues[name]
            return len(idle)

    def _idle(self) -> list[str]:
        cutoff = self.now() - timedelta(seconds=conf.get("IDLE_QUEUE_SECONDS"))
        connected = {presence.queue for presence in self._presences.values()}
        return [
            name
            for name, queue in self._queues.items()
            if not queue.rows and name not in connected and (queue.seen_at or queue.created_at) < cutoff
        ]

    def forget_keys(self, limit: int) -> int:
        with self._lock:
            old = self._old_keys()[:limit]
            for name, key in old:
                del self._queues[name].keys[key]
            return len(old)

    def _old_keys(self) -> list[tuple[str, str]]:
        now = self.now()
        return [(n, key) for n, queue in self._queues.items() for key, (_, until) in queue.keys.items() if until <= now]

    def due(self, limit: int) -> Due:
        with self._lock:
            dead = sum(not self._is_alive(presence.server.id) for presence in self._presences.values())
            return Due(
                expired=min(limit, self._expired()),
                connections=min(limit, dead),
                idle_queues=min(limit, len(self._idle())),
                keys=min(limit, len(self._old_keys())),
            )

    def _expired(self) -> int:
        now = self.now()
        return sum(row.expires_at <= now for queue in self._queues.values() for row in queue.rows)

    def purge(self, queue: str, limit: int, priority: Priority | None = None) -> int:
        with self._lock:
            found = self._peek(queue)
            rows = [row.message for row in found.rows if priority is None or row.message.priority is priority]
            return len(self._remove(found, {message.position for message in rows[:limit]}, LossReason.DROPPED))

    def stat(self, queue: str) -> QueueStat:
        with self._lock:
            found = self._peek(queue)
            return QueueStat(
                queue=queue,
                policy=found.policy,
                messages=len(found.rows),
                size=found.size,
                by_priority=Counter(row.message.priority for row in found.rows),
                oldest_at=min((row.message.created_at for row in found.rows), default=None),
                connections=sum(presence.queue == queue for presence in self._presences.values()),
                seen_at=found.seen_at,
                losses=self._losses(found),
            )

    def overview(self, limit: int, scan: int) -> Overview:
        """Complete whatever ``scan`` says: everything is at hand."""
        with self._lock:
            stats = [self.stat(name) for name in self._queues]
            waiting = sorted((stat for stat in stats if stat.messages), key=lambda stat: (-stat.messages, stat.queue))
            return Overview(
                messages=sum(stat.messages for stat in stats),
                size=sum(stat.size for stat in stats),
                expired=self._expired(),
                queues=len(stats),
                connections=sum(self._is_alive(presence.server.id) for presence in self._presences.values()),
                servers=sum(self._is_alive(server) for server in self._heartbeats),
                complete=True,
                largest=tuple(waiting[:limit]),
            )

    def _peek(self, name: str) -> _Queue:
        """The queue with this name; an empty one that is not kept if it is unknown."""
        return self._queues.get(name) or _Queue(self.now())

    def _queue(self, name: str) -> _Queue:
        if name not in self._queues:
            self._queues[name] = _Queue(self.now())
        return self._queues[name]
