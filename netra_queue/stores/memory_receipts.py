"""Collapse keys, tracked and watched messages, and signals of the store in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from .. import conf, signals
from ..core.message import Draft, Fate, Priority, base_of, client_of
from ..core.policy import Policy
from ..core.statistics import Event
from ..core.tracking import EndedMessage, Tracked, UndeliveredMessage
from ..core.wire import decoded
from .memory_state import MemoryState, QueueRows, Row, Slot
from .watching import due_at


@dataclass(frozen=True, slots=True)
class Watched:
    message: UndeliveredMessage
    policy: str
    due_at: datetime


class MemoryReceipts(MemoryState):
    """See ``Store``."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(clock)
        self._tracked: dict[str, Tracked] = {}
        self._watched: dict[str, Watched] = {}

    def tracked(self, ids: Collection[str]) -> dict[str, Tracked]:
        with self._lock:
            return {id: self._tracked[id] for id in ids if id in self._tracked}

    def hand_over(self, policy: str, limit: int, receive: Callable[[tuple[UndeliveredMessage, ...]], None]) -> int:
        with self._lock:
            known = {known.name for known in conf.policies()}
            due = [w for w in self._due() if (w.policy if w.policy in known else "default") == policy][:limit]
            if due:
                receive(tuple(watched.message for watched in due))
            for watched in due:
                self._watched.pop(watched.message.id, None)
            return len(due)

    def _due(self) -> list[Watched]:
        now = self.now()
        return sorted((w for w in self._watched.values() if w.due_at <= now), key=lambda watched: watched.due_at)

    # --- a message's beginning ---------------------------------------------------------------------------------

    def _outdone(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Those that a later one of the same collapse key supersedes at once."""
        newest = {(draft.queue, draft.collapse): draft for draft in drafts}
        return [d for d in drafts if d.collapse is not None and newest[d.queue, d.collapse] is not d]

    def _supersede(self, draft: Draft, lines: Sequence[str]) -> None:
        """It is about to be put into these lines."""
        for line in lines if draft.collapse is not None else ():
            queue = self._queue(line)
            slot = queue.slots.get(draft.collapse, Slot(0, 0, self.now()))
            count = self._take_waiting(queue, slot.position)
            queue.slots[draft.collapse] = Slot(0, slot.superseded + count, self._expiry(draft))

    def _point(self, draft: Draft, line: str, position: int) -> None:
        """It is there."""
        if draft.collapse is not None:
            slots = self._queue(line).slots
            slots[draft.collapse] = replace(slots[draft.collapse], position=position)

    def _outdo(self, draft: Draft, lines: Sequence[str]) -> None:
        """It is not put there, because a later one of the same call will be."""
        self._counted_beside(draft, lines, Event.SUPERSEDED)
        for line in lines:
            slots = self._queue(line).slots
            slot = slots[draft.collapse]
            slots[draft.collapse] = replace(slot, superseded=slot.superseded + 1)
        self._end(draft.id, base_of(draft.queue), Fate.SUPERSEDED)

    def _expiry(self, draft: Draft) -> datetime:
        return (draft.sent_at or self.now()) + timedelta(seconds=draft.ttl_seconds)

    def _take_waiting(self, queue: QueueRows, position: int) -> int:
        now = self.now()
        waiting = {
            row.message.position
            for row in queue.rows
            if row.message.position == position not in self._transmitted and row.expires_at > now
        }
        return len(self._take(queue, waiting, Fate.SUPERSEDED))

    def _move_slots(self, source: QueueRows, target: QueueRows) -> None:
        """The older one of a pair is superseded, but not by one that is gone."""
        there = {row.message.position for row in target.rows}
        for collapse, slot in source.slots.items():
            other = target.slots.get(collapse, Slot(0, 0, slot.expires_at))
            earlier, later = sorted((slot.position, other.position))
            count = self._take_waiting(target, earlier) if later in there else 0
            target.slots[collapse] = Slot(
                max(slot.position, other.position),
                slot.superseded + other.superseded + count,
                max(slot.expires_at, other.expires_at),
            )
        source.slots = {}

    def _begin(self, draft: Draft, policy: Policy) -> None:
        sent_at = draft.sent_at or self.now()
        if draft.track:
            self._tracked[draft.id] = Tracked(
                sent_at=sent_at, expires_at=self._expiry(draft), keep_seconds=policy.track_seconds
            )
        due = due_at(draft, policy, self.now())
        if due is not None:
            message = UndeliveredMessage(
                id=draft.id, queue=draft.queue, priority=draft.priority, sent_at=sent_at, data=decoded(draft.payload)
            )
            self._watched[draft.id] = Watched(message, policy.name, due)

    # --- its way, and its end ----------------------------------------------------------------------------------

    def _transmit(self, rows: Iterable[Row]) -> None:
        now = self.now()
        for row in rows:
            self._transmitted.add(row.message.position)
            tracked = self._tracked.get(row.message.id)
            if tracked is not None and tracked.delivered_at is None:
                self._tracked[row.message.id] = replace(tracked, delivered_at=now)

    def _ended(self, line: str, rows: Sequence[Row], fate: Fate) -> None:
        for row in rows:
            self._transmitted.discard(row.message.position)
            self._end(row.message.id, base_of(line), fate)
        self._tell(line, [(row.message.id, row.message.priority) for row in rows], fate)

    def _tell(self, line: str, ended: Iterable[tuple[str, Priority]], fate: Fate) -> None:
        if signals.has_listeners(fate):
            name, client, at = base_of(line), client_of(line), self.now()
            messages = [EndedMessage(id=id, queue=name, client=client, priority=priority) for id, priority in ended]
            self._lock.after(lambda: signals.tell(fate, messages, at))

    def _end(self, id: str, queue: str, fate: Fate) -> None:
        if fate in (Fate.ACKED, Fate.SUPERSEDED) or (fate is Fate.WITHHELD and not self._has_copies(id, queue)):
            self._watched.pop(id, None)
        tracked = self._tracked.get(id)
        if tracked is None or tracked.fate is Fate.ACKED:
            return
        if fate is Fate.ACKED or (tracked.fate is None and not self._has_copies(id, queue)):
            self._tracked[id] = replace(tracked, fate=fate, ended_at=self.now())

    def _has_copies(self, id: str, queue: str) -> bool:
        return any(
            row.message.id == id for name, rows in self._queues.items() if base_of(name) == queue for row in rows.rows
        )

    def _forget_run_out(self, limit: int) -> int:
        now = self.now()
        ids = [id for id, tracked in self._tracked.items() if tracked.keep_until <= now][:limit]
        for id in ids:
            del self._tracked[id]
        slots = [(rows, key) for rows in self._queues.values() for key, s in rows.slots.items() if s.expires_at <= now]
        for rows, key in slots[: limit - len(ids)]:
            del rows.slots[key]
        return len(ids) + len(slots[: limit - len(ids)])

    def _run_out(self) -> int:
        now = self.now()
        slots = sum(slot.expires_at <= now for rows in self._queues.values() for slot in rows.slots.values())
        return slots + sum(tracked.keep_until <= now for tracked in self._tracked.values())
