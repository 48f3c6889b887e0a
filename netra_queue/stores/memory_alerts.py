"""Alerts, in the store in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..core.alerting import Alert, Book
from .alerts_base import ALERTS_KEPT, ALERTS_REMOVED
from .memory_state import MemoryState
from .values import QueueStat


class MemoryAlerts(MemoryState):
    """See ``Store``."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._book = Book()
        self._alerts: dict[int, Alert] = {}

    def change_alerts(self, change: Callable[[Book], Book]) -> tuple[Book, Book]:
        with self._lock:
            before = self._book
            after = change(before)
            if after != before:
                written = replace(after, alerts=tuple(map(self._written, after.alerts)))
                self._book = replace(written, alerts=written.going_on)
                self._forget_alerts()
                return before, written
            return before, before

    def _written(self, alert: Alert) -> Alert:
        number = next(self._numbers) if alert.number is None else alert.number
        self._alerts[number] = replace(alert, number=number)
        return self._alerts[number]

    def _forget_alerts(self) -> None:
        before = self.now() - ALERTS_KEPT
        old = [number for number, alert in self._alerts.items() if alert.resolved_at and alert.resolved_at < before]
        for number in old[:ALERTS_REMOVED]:
            del self._alerts[number]

    def alerts(self, limit: int) -> list[Alert]:
        with self._lock:
            return sorted(self._alerts.values(), key=lambda alert: -(alert.number or 0))[:limit]

    def fullest(self, messages: int, size: int, limit: int, scan: int) -> list[QueueStat]:
        with self._lock:
            stats = [
                QueueStat(queue=queue.name, policy=queue.policy, messages=len(queue.rows), size=queue.size)
                for queue in self._queues.values()
            ]
            full = [stat for stat in stats if stat.messages >= messages or stat.size >= size]
            return sorted(full, key=lambda stat: (-stat.messages, stat.queue))[:limit]
