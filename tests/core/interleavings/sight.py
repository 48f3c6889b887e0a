"""Stores whose time stands still until a test moves it, and what they hold at a moment, seen from outside."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from netra_queue import models
from netra_queue.core.message import LossReason, Priority
from netra_queue.models import queue_id
from netra_queue.stores.database import DatabaseStore
from netra_queue.stores.memory import MemoryStore
from tests.making import NOON

QUEUE = "user.1"
DEVICES = tuple(f"{QUEUE}/{client}" for client in ("phone", "laptop", "tablet"))
LINES = (QUEUE, *DEVICES)
TABLES = (
    models.Message,
    models.Loss,
    models.DeadLetter,
    models.LiveConnection,
    models.CollapseSlot,
    models.UsedKey,
    models.Queue,
    models.ServerProcess,
    models.Body,
)
Lost = Counter[tuple[LossReason, Priority]]


@dataclass(frozen=True, slots=True)
class Sent:
    """What was accepted, as its sender knows it."""

    priority: Priority
    text: str
    order: int
    expires_at: datetime
    collapse: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One message in one line."""

    line: str
    position: int
    id: str
    priority: Priority
    size: int
    deliveries: int


@dataclass(frozen=True, slots=True)
class Sight:
    """All rows by position, and what has been lost and not settled."""

    rows: dict[int, Row]
    lost: Lost

    def of(self, line: str) -> list[Row]:
        """In the order of delivery."""
        return sorted((r for r in self.rows.values() if r.line == line), key=lambda r: (r.priority, r.position))


class StandingMemoryStore(MemoryStore):
    def __init__(self) -> None:
        super().__init__(lambda: NOON + timedelta(seconds=self.seconds))
        self.seconds = 0.0

    def sight(self) -> Sight:
        rows = {
            row.message.position: Row(
                name,
                row.message.position,
                row.message.id,
                row.message.priority,
                row.message.payload.size,
                row.message.deliveries,
            )
            for name, queue in self._queues.items()
            for row in queue.rows
        }
        lost: Lost = Counter()
        for queue in self._queues.values():
            for reason, priority, count, _ in queue.losses.values():
                lost[reason, priority] += count
        return Sight(rows, lost)


class StandingDatabaseStore(DatabaseStore):
    def __init__(self, using: str) -> None:
        super().__init__(using)
        self.seconds = 0.0
        for model in TABLES:
            model.objects.using(using).all()._raw_delete(using)

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def sight(self) -> Sight:
        names = {queue_id(line): line for line in LINES}
        columns = ("id", "uid", "priority", "size", "deliveries")
        found = models.Message.objects.using(self.using).values_list("queue_id", *columns).order_by()
        rows = {
            position: Row(names[line], position, id, Priority(priority), size, deliveries)
            for line, position, id, priority, size, deliveries in found
        }
        lost: Lost = Counter()
        losses = models.Loss.objects.using(self.using).values_list("reason", "priority", "count").order_by()
        for reason, priority, count in losses:
            lost[LossReason(reason), Priority(priority)] += count
        return Sight(rows, lost)


StandingStore = StandingMemoryStore | StandingDatabaseStore
