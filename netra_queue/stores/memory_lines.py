"""The lines of queues in the store in memory: see ``devices`` for the rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

from .. import conf
from ..core.message import LossReason, base_of, client_of
from ..core.policy import Policy
from ..core.statistics import Event
from ..exceptions import TooManyDevices
from .memory_receipts import MemoryReceipts
from .memory_state import QueueRows
from .values import Line


class MemoryLines(MemoryReceipts):
    """See ``Store``."""

    def take_over(self, lines: Mapping[str, Policy]) -> set[str]:
        with self._lock:
            known = [line for line in sorted(lines) if client_of(line) and self._peek(line).seen_at is not None]
            return {line for line in known if self._take_over(line, lines[line])}

    def lines(self, queue: str) -> list[Line]:
        with self._lock:
            used = [
                Line(name, rows.seen_at, self._is_connected(name))
                for name, rows in self._used_lines(queue)
                if rows.seen_at is not None
            ]
            return sorted(used, key=lambda line: (line.is_connected, line.seen_at), reverse=True)

    def forget_line(self, line: str, policy: Policy) -> int:
        with self._lock:
            return self._forget_line(line, LossReason.DROPPED, policy)

    def expire_lines(self, limit: int) -> int:
        with self._lock:
            old = self._old_lines()[:limit]
            for line in old:
                policy = conf.policy_of(line, self._queues[line].policy)
                self._forget_line(line, LossReason.EXPIRED, policy)
            return len(old)

    def _old_lines(self) -> list[str]:
        return [
            name
            for name, rows in self._queues.items()
            if client_of(name) and rows.seen_at is not None
            if not self._is_in_use(name, conf.policy_of(name, rows.policy))
        ]

    def _used_lines(self, queue: str) -> Iterator[tuple[str, QueueRows]]:
        for name, rows in list(self._queues.items()):
            if client_of(name) and base_of(name) == queue and rows.seen_at is not None:
                yield name, rows

    def _family(self, queue: str) -> list[QueueRows]:
        """The queue and all its lines, in use or not."""
        return [rows for name, rows in self._queues.items() if base_of(name) == queue]

    def _targets(self, queue: str, policy: Policy) -> tuple[str, ...]:
        devices = [] if client_of(queue) else [name for name, _ in self._used_lines(queue)]
        names = [name for name in (queue, *devices) if self._is_in_use(name, policy)] if devices else []
        return tuple(sorted(names)) or (queue,)

    def _is_in_use(self, name: str, policy: Policy) -> bool:
        seen_at = self._peek(name).seen_at
        if seen_at is None:
            return False
        return self._is_connected(name) or seen_at > self.now() - timedelta(seconds=policy.line_seconds)

    def _is_connected(self, name: str) -> bool:
        return any(presence.queue == name for presence, _ in self._presences.values())

    def _arrive(self, line: str, policy: Policy) -> None:
        if not client_of(line):
            return
        queue = base_of(line)
        others = [other for other in self.lines(queue) if other.name != line]
        idle = [other.name for other in reversed(others) if not other.is_connected]
        surplus = len(others) + 1 - policy.max_lines
        if surplus > len(idle):
            raise TooManyDevices(queue, limit=policy.max_lines)
        is_first = not self._has_line_in_use(queue, policy)
        for name in idle if is_first else idle[: max(0, surplus)]:
            self._forget_line(name, LossReason.EXPIRED if is_first else LossReason.DROPPED, policy)
        self._take_over(line, policy)

    def _has_line_in_use(self, queue: str, policy: Policy) -> bool:
        return any(self._is_in_use(name, policy) for name, _ in self._used_lines(queue))

    def _take_over(self, line: str, policy: Policy) -> bool:
        queue = self._peek(base_of(line))
        if self._is_in_use(queue.name, policy):
            return False
        if queue.seen_at is not None and self._has_line_in_use(queue.name, policy):
            had = {row.message.position for row in queue.rows if row.is_shared}
            self._remove(queue, had, LossReason.EXPIRED)
        return self._move(queue, self._queue(line))

    def _move(self, source: QueueRows, target: QueueRows) -> bool:
        """What both of them have is wanted once."""
        there = {row.message.id for row in target.rows}
        doubles = {row.message.position for row in source.rows if row.message.id in there}
        self._counted(Event.MERGED, [row.message.priority for row in source.rows if row.message.position in doubles])
        source.rows = [row for row in source.rows if row.message.position not in doubles]
        source.slots = {k: replace(s, position=0) if s.position in doubles else s for k, s in source.slots.items()}
        had_rows = bool(source.rows)
        target.rows = sorted([*target.rows, *source.rows])
        target.losses |= source.losses
        source.rows, source.losses = [], {}
        self._move_slots(source, target)
        return had_rows

    def _forget_line(self, line: str, reason: LossReason, policy: Policy) -> int:
        rows = self._peek(line)
        if not client_of(line) or rows.seen_at is None:
            return 0
        rows.seen_at = None
        queue = base_of(line)
        if not self._has_line_in_use(queue, policy) and not self._is_in_use(queue, policy):
            self._move(rows, self._queue(queue))
            return 0
        return len(self._remove(rows, {row.message.position for row in rows.rows}, reason))
