"""A store in the memory of one process, for tests. It keeps the whole contract but durability."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta

from ..core.actions import ReadRequest
from ..core.message import Draft, Fate, Losses, LossReason, Outcome, base_of
from ..core.policy import Policy
from ..core.statistics import Event
from .memory_alerts import MemoryAlerts
from .memory_connections import MemoryConnections
from .memory_operators import MemoryOperators
from .memory_passing import MemoryPassing
from .memory_rates import MemoryRates
from .memory_state import QueueRows, Row
from .values import Appended, Batch, Opened, Positions, Presence, Server, answer, split_by_size, without


class MemoryStore(MemoryOperators, MemoryPassing, MemoryRates, MemoryAlerts, MemoryConnections):
    """Thread-safe through one lock. ``clock`` gives the store's time."""

    transactional = False

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
            lines = {queue: self._targets(queue, policy) for queue, policy in policies.items()}
            of_lines = {line: policies[queue] for queue, names in lines.items() for line in names}
            fitting, too_large = split_by_size(drafts, policies)
            with self._undone_on_error(*of_lines, *policies):
                firsts, inserted = self._take_in(fitting, lines, policies)
                dropped = {p for of in inserted.values() for line in of for p in self._enforce(line, of_lines[line])}
            for draft in too_large:
                self._counted_beside(draft, lines[draft.queue], Event.DROPPED)
                for line in lines[draft.queue]:
                    self._count(self._queue(line), LossReason.DROPPED, draft.priority, 1)
                    self._tell(line, [(draft.id, draft.priority)], Fate.DROPPED)
            kept = without(inserted, dropped)
            gone = inserted.keys() - kept.keys()
            self._forget_keys([draft for draft in fitting if draft.id in gone])
            superseded = {draft.id for draft in fitting} - firsts.keys() - inserted.keys()
            answers = [answer(draft, firsts, kept, inserted, superseded) for draft in drafts]
            duplicates = zip(drafts, answers, strict=True)
            self._counted(Event.DUPLICATE, [d.priority for d, a in duplicates if a.outcome is Outcome.DUPLICATE])
            return answers

    def _take_in(
        self, drafts: Sequence[Draft], lines: Mapping[str, Sequence[str]], policies: Mapping[str, Policy]
    ) -> tuple[dict[str, str], Positions]:
        """Returns the first message's id for each duplicate, and the positions of what was inserted."""
        firsts: dict[str, str] = {}
        inserted: Positions = {}
        fresh = [draft for draft in drafts if self._use_key(draft, firsts)]
        outdone = self._outdone(fresh)
        for draft in fresh:
            self._begin(draft, policies[draft.queue])
            self._supersede(draft, lines[draft.queue])
            if draft in outdone:
                self._outdo(draft, lines[draft.queue])
            else:
                self._insert(draft, lines[draft.queue], inserted)
        return firsts, inserted

    def _use_key(self, draft: Draft, firsts: dict[str, str]) -> bool:
        """False: it is a duplicate."""
        queue, now = self._queue(draft.queue), self.now()
        if draft.key is not None:
            first, until = queue.keys.get(draft.key, ("", now))
            if until > now:
                firsts[draft.id] = first
                return False
            queue.keys[draft.key] = (draft.id, (draft.sent_at or now) + timedelta(seconds=draft.ttl_seconds))
        return True

    def _insert(self, draft: Draft, lines: Sequence[str], inserted: Positions) -> None:
        expires_at = (draft.sent_at or self.now()) + timedelta(seconds=draft.ttl_seconds)
        for line, position in self._place(draft, lines, expires_at).items():
            inserted.setdefault(draft.id, {})[line] = position
            self._point(draft, line, position)

    def _forget_keys(self, dropped: Iterable[Draft]) -> None:
        for draft in dropped:
            if draft.key is not None:
                self._queue(draft.queue).keys.pop(draft.key, None)

    def read(self, requests: Sequence[tuple[str, ReadRequest]]) -> list[Batch]:
        with self._lock:
            return [self._read(self._peek(name), request) for name, request in requests]

    def _read(self, queue: QueueRows, request: ReadRequest) -> Batch:
        if (pause := self._pause(queue.name)) is not None:
            return Batch((), more=False, is_paused=True, resumes_at=pause.until)
        now = self.now()
        given: list[Row] = []
        size, more, is_alone = 0, False, False
        for row in queue.rows:
            if not row.may_be_read(now) or row.message.position in request.excluded:
                continue
            alone = request.alone_from is not None and row.message.deliveries >= request.alone_from
            is_full = len(given) == request.limit or size >= request.max_bytes
            if is_full or is_alone or (alone and given):
                more = True
                break
            given.append(row)
            size, is_alone = size + row.message.payload.size, alone
        messages = tuple(row.message for row in given)
        if request.is_tentative:
            return Batch(messages, more, frozenset(message.position for message in messages) - self._transmitted)
        self._transmit(given)
        return Batch(messages, more)

    def transmit(self, positions: Collection[int]) -> set[int]:
        with self._lock:
            rows = [row for queue in self._queues.values() for row in queue.rows if row.message.position in positions]
            self._transmit(rows)
            return set(positions) - {row.message.position for row in rows}

    def ack(self, positions: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
        with self._lock:
            for name, acked in positions.items():
                queue = self._peek(name)
                firsts = {row.message.id for row in queue.rows if row.is_for_first and row.message.position in acked}
                self._take(queue, acked, Fate.ACKED)
                for line in self._family(base_of(name)) if firsts else ():
                    others = {row.message.position for row in line.rows if row.message.id in firsts}
                    self._take(line, others, Fate.ACKED)
        return {}

    def waiting(self, queues: Collection[str]) -> set[str]:
        with self._lock:
            now = self.now()
            given = [name for name in queues if self._pause(name) is None]
            return {name for name in given if any(row.may_be_read(now) for row in self._peek(name).rows)}

    def losses(self, queues: Collection[str], told: Collection[int] = ()) -> dict[str, Losses]:
        with self._lock:
            found = {name: self._losses(self._peek(name), told) for name in queues}
            return {name: losses for name, losses in found.items() if losses}

    def settle(self, queue: str, records: Collection[int]) -> None:
        with self._lock:
            for record in records:
                self._peek(queue).losses.pop(record, None)

    # --- connections -------------------------------------------------------------------------------------------

    def attach(self, presence: Presence, policy: Policy) -> Opened:
        with self._lock:
            self._arrive(presence.queue, policy)
            queue, now = self._queue(presence.queue), self.now()
            queue.seen_at = now
            for rows in (queue, self._queue(base_of(presence.queue))):
                rows.policy, rows.is_resolved = presence.policy, presence.is_resolved
            self._presences.setdefault(presence.id, (presence, now))
            self._expire(queue)
            lingering = self._forget_lingers(lambda lingerer, until: lingerer.queue == presence.queue)
            waiting = sum(row.may_be_read(now) for row in queue.rows)
            return Opened(min(waiting, policy.max_messages), self._losses(queue), now, lingering)

    def detach(self, presences: Collection[Presence]) -> None:
        with self._lock:
            ids = {presence.id for presence in presences}
            self._part(presences)
            self._forget_lingers(lambda presence, until: presence.id in ids)

    def linger(self, stays: Sequence[tuple[Presence, float]]) -> set[str]:
        with self._lock:
            self._part([presence for presence, _ in stays])
            connected = self.holders([presence.queue for presence, _ in stays]).values()
            last = {presence.queue: (presence, seconds) for presence, seconds in stays}
            for queue in {name for names in connected for name in names}:
                del last[queue]
            for presence, seconds in last.values():
                self._lingers[presence.id] = presence, self.now() + timedelta(seconds=seconds)
            return {presence.id for presence, _ in last.values()}

    def lingering(self, ids: Collection[str]) -> set[str]:
        with self._lock:
            return self._lingers.keys() & set(ids)

    def holders(self, queues: Collection[str]) -> dict[str, list[str]]:
        with self._lock:
            found: dict[str, set[str]] = defaultdict(set)
            for presence, _ in self._presences.values():
                if presence.queue in queues and self._is_alive(presence.server.id):
                    found[presence.server.id].add(presence.queue)
            return {server: sorted(names) for server, names in found.items()}

    def heartbeat(self, server: Server) -> bool:
        with self._lock:
            was_known = server.id in self._heartbeats
            self._heartbeats[server.id] = self.now()
            self._servers[server.id] = server
            return was_known

    def retire(self, server: Server) -> None:
        with self._lock:
            self._heartbeats.pop(server.id, None)
            self._servers.pop(server.id, None)
            self._part([presence for presence, _ in self._presences.values() if presence.server.id == server.id])
            self._forget_lingers(lambda presence, until: presence.server.id == server.id)
