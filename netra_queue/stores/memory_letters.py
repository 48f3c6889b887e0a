"""What was not delivered, in the store in memory: returned, withheld, left out, set aside."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from .. import conf
from ..core.message import Draft, Fate, Losses, LossReason, Outcome, base_of
from ..core.policy import Policy, left_out
from ..exceptions import MessageTooLarge
from .memory_lines import MemoryLines
from .memory_state import LetterRow
from .values import Appended, Letter, Presence, Returned, Surplus, deliveries_after, no_room


class MemoryLetters(MemoryLines):
    """See ``Store``."""

    def returned(self, returns: Sequence[Returned]) -> int:
        with self._lock:
            return sum(self._count_deliveries(name, returns) for name in {some.queue for some in returns})

    def _count_deliveries(self, name: str, returns: Sequence[Returned]) -> int:
        queue, dead = self._peek(name), set()
        for number, row in enumerate(queue.rows):
            position, before = row.message.position, row.message.deliveries
            mine = [some for some in returns if some.queue == name and position in some.positions]
            count, is_dead = deliveries_after(before, mine)
            queue.rows[number] = replace(row, message=row.message._replace(deliveries=count))
            dead |= {position} if is_dead else set()
        return len(self._remove(queue, dead, LossReason.DEAD))

    def withhold(self, positions: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
        with self._lock:
            for name, mine in positions.items():
                self._remove(self._peek(name), mine, LossReason.WITHHELD)
        return {}

    def surplus(self, presence: Presence, policy: Policy, before: datetime | None = None) -> Surplus:
        with self._lock:
            others = [p for p, _ in self._presences.values() if p.queue == presence.queue and p.id != presence.id]
            if any(self._is_alive(other.server.id) for other in others):
                return Surplus((), ())
            now = self.now()
            rows = [row for row in self._peek(presence.queue).rows if row.may_be_read(now)]
            messages = [row.message for row in rows if row.message.created_at <= (before or now)]
            ages = [(m.position, m.priority, (now - m.created_at).total_seconds()) for m in messages]
            positions = tuple(left_out(policy.replay, ages))
            has_digest = policy.replay.digest is not None
            return Surplus(positions, tuple(m for m in messages if has_digest and m.position in positions))

    def leave_out(
        self, queue: str, positions: Collection[int], digest: Draft | None, policy: Policy
    ) -> tuple[int, Losses]:
        with self._lock:
            with self._undone_on_error(queue):
                if policy.rollout.is_shadow:
                    return self._leave_in_the_dark(queue, positions, policy)
                removed = self._remove(self._queue(queue), positions, LossReason.LEFT_OUT)
                if digest is not None and removed and not self._place_within_limits(digest, (queue,), policy):
                    raise MessageTooLarge(queue, size=digest.payload.size, limit=policy.max_bytes)
            rows, now = self._queue(queue), self.now()
            return min(sum(row.may_be_read(now) for row in rows.rows), policy.max_messages), self._losses(rows)

    def _leave_in_the_dark(self, queue: str, positions: Collection[int], policy: Policy) -> tuple[int, Losses]:
        rows = self._queue(queue)
        transmitted = {row.message.position for row in rows.rows if row.message.deliveries}
        self._take(rows, set(positions) & transmitted, Fate.UNCONFIRMED)
        self._take(rows, set(positions) - transmitted, Fate.MISSED)
        return min(len(rows.rows), policy.max_messages), self._losses(rows)

    def _place_within_limits(self, draft: Draft, lines: Sequence[str], policy: Policy) -> dict[str, int]:
        expires_at = (draft.sent_at or self.now()) + timedelta(seconds=draft.ttl_seconds)
        places = self._place(draft, lines, expires_at)
        removed = {position for line in lines for position in self._enforce(line, policy)}
        return {line: position for line, position in places.items() if position not in removed}

    @contextmanager
    def _undone_on_error(self, *names: str) -> Iterator[None]:
        queues, letters = {name: self._queue(name).copy() for name in names}, dict(self._letters)
        tracked, watched = dict(self._tracked), dict(self._watched)
        try:
            yield
        except Exception:
            self._queues.update(queues)
            self._letters, self._tracked, self._watched = letters, tracked, watched
            raise

    # --- dead letters ------------------------------------------------------------------------------------------

    def letters(
        self, limit: int, *, queue: str | None = None, reason: LossReason | None = None, since: datetime | None = None
    ) -> list[Letter]:
        with self._lock:
            newest = [row.letter for _, row in sorted(self._letters.items(), reverse=True)]
            found = [n for n in newest if queue in (None, n.queue) and reason in (None, n.reason)]
            return [n for n in found if since is None or n.died_at >= since][:limit]

    def requeue(self, number: int) -> Appended | None:
        with self._lock:
            if (row := self._letters.get(number)) is None:
                return None
            size, policy = row.letter.size, conf.policy_of(row.queue, self._peek(row.queue).policy)
            if size > policy.max_message_bytes:
                raise MessageTooLarge(row.queue, size=size, limit=policy.max_message_bytes)
            lines = self._destination(row.queue, policy)
            with self._undone_on_error(*lines):
                places = self._place_within_limits(self._draft(row, policy), lines, policy)
                if not places:
                    raise no_room(row.queue, size, policy)
            del self._letters[number]
            return Appended(row.letter.id, Outcome.QUEUED, next(iter(places.values())), tuple(places))

    def _draft(self, row: LetterRow, policy: Policy) -> Draft:
        message = row.message
        return Draft(
            queue=row.queue,
            id=message.id,
            payload=message.payload,
            priority=message.priority,
            ttl_seconds=(self.now() - message.created_at).total_seconds() + policy.ttl_for(message.priority),
            sent_at=message.created_at,
        )

    def _destination(self, line: str, policy: Policy) -> tuple[str, ...]:
        in_use = self._targets(base_of(line), policy)
        return (line,) if line in in_use else in_use

    def delete_letters(self, numbers: Collection[int]) -> int:
        with self._lock:
            return sum(self._letters.pop(number, None) is not None for number in numbers)

    def forget_letters(self, limit: int) -> int:
        with self._lock:
            return self.delete_letters(self._old_letters()[:limit])

    def _old_letters(self) -> list[int]:
        now = self.now()
        return [number for number, row in self._letters.items() if row.letter.keep_until <= now]
