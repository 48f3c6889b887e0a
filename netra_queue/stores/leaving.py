"""Connections in the database that operators send away: a column of their rows, which go with them."""

from __future__ import annotations

from datetime import datetime

from django.db.models import QuerySet

from ..models import LiveConnection, queue_id
from .connecting import own_transaction
from .database_controls import touch
from .examining import family
from .presence import lease
from .rows import chunks


def connected(using: str, queue: str, connection: str | None, now: datetime) -> QuerySet[LiveConnection]:
    """The connections of this queue and its lines that living servers hold, or the one of them with this id."""
    mine = [queue_id(name) for name in family(using, [queue])]
    rows = LiveConnection.objects.using(using).filter(queue_id__in=mine, server__heartbeat_at__gt=lease(now))
    rows = rows.order_by("pk")
    return rows if connection is None else rows.filter(pk=connection)


def send_away(using: str, queue: str, seconds: float, connection: str | None, now: datetime) -> int:
    rows, count = connected(using, queue, connection, now), 0
    with own_transaction(using):
        for chunk in chunks(list(rows.values_list("pk", flat=True))):
            count += LiveConnection.objects.using(using).filter(pk__in=chunk).update(leave_seconds=seconds)
        if count:
            touch(using, now)
    return count


def sent_away(using: str, server: str) -> dict[str, float]:
    rows = LiveConnection.objects.using(using).filter(server_id=server, leave_seconds__isnull=False)
    return {id: seconds for id, seconds in rows.values_list("pk", "leave_seconds") if seconds is not None}
