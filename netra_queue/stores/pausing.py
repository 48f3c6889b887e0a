"""Pauses in the database: two columns of a queue's row, which a read looks up by its key.

A line is paused with its queue, or alone. What is over by its own time stays in the row, and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any

from django.db import connections
from django.db.models import Q, QuerySet

from ..core.message import base_of
from ..models import Queue, queue_id
from .connecting import own_transaction
from .database_controls import touch
from .rows import chunks, lock_queues
from .values import Pause

COLUMNS = ("paused_at", "paused_until", "pause_reason", "paused_by")
FOREVER = datetime(9999, 1, 1, tzinfo=UTC)  # what a read is told of a pause that does not end by itself


def pause(using: str, queues: Collection[str], pause: Pause) -> None:
    """The queues have rows."""
    names = sorted(set(queues), key=queue_id)
    with own_transaction(using):
        _write(using, names, pause)
        touch(using, pause.since)


def resume(using: str, queues: Collection[str], now: datetime) -> int:
    """Also what is over by itself is forgotten, and not counted."""
    names = sorted(set(queues), key=queue_id)
    with own_transaction(using):
        lock_queues(using, names)
        count = sum(_rows(using, chunk).filter(in_force(now)).count() for chunk in chunks(names))
        _write(using, names, None)
        if count:
            touch(using, now)
    return count


def _write(using: str, names: Collection[str], pause: Pause | None) -> None:
    values: dict[str, Any] = dict.fromkeys(COLUMNS[:2]) | dict.fromkeys(COLUMNS[2:], "")
    if pause is not None:
        values = dict(zip(COLUMNS, (pause.since, pause.until, pause.reason, pause.by), strict=True))
    lock_queues(using, names)
    for chunk in chunks(list(names)):
        _rows(using, chunk).update(**values)


def _rows(using: str, names: Iterable[str]) -> QuerySet[Queue]:
    return Queue.objects.using(using).filter(pk__in=[queue_id(name) for name in names])


def in_force(now: datetime) -> Q:
    """Of rows of queues: those that are paused themselves."""
    return Q(paused_at__isnull=False) & (Q(paused_until=None) | Q(paused_until__gt=now))


def paused(using: str, queues: Collection[str], now: datetime) -> dict[str, Pause]:
    """Of a line and its queue, the pause that lasts longer."""
    found: dict[int, Pause] = {}
    for chunk in chunks(sorted({queue_id(name) for queue in queues for name in (queue, base_of(queue))})):
        rows = Queue.objects.using(using).filter(in_force(now), pk__in=chunk)
        found |= {id: _pause(*columns) for id, *columns in rows.values_list("pk", *COLUMNS)}
    mine = {
        queue: [found[id] for name in (queue, base_of(queue)) if (id := queue_id(name)) in found] for queue in queues
    }
    return {queue: max(pauses, key=_end) for queue, pauses in mine.items() if pauses}


def pauses(using: str, now: datetime) -> list[tuple[str, Pause]]:
    rows = Queue.objects.using(using).filter(in_force(now)).order_by("-paused_at", "name").values_list("name", *COLUMNS)
    return [(name, _pause(*columns)) for name, *columns in rows]


def _pause(since: datetime, until: datetime | None, reason: str, by: str) -> Pause:
    return Pause(since=since, until=until, reason=reason, by=by)


def _end(pause: Pause) -> datetime:
    return pause.until or FOREVER


def condition(using: str) -> str:
    """``in_force`` as SQL with one parameter, the time, of a row called ``q``."""
    quote = connections[using].ops.quote_name
    since, until = quote("paused_at"), quote("paused_until")
    return f"q.{since} IS NOT NULL AND (q.{until} IS NULL OR q.{until} > %s)"
