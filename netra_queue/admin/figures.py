"""Figures of the queues on one page, in two statements for all of them, neither of which reads a whole queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connections, router
from django.db.models import DateTimeField, Exists, Model, OuterRef, QuerySet, Subquery

from ..core.message import Priority
from ..models import LiveConnection, Message, Queue
from ..stores import current_store
from ..stores.presence import lease

DEPTH_LIMIT = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """``depth``: the number of messages, exact up to ``DEPTH_LIMIT``."""

    depth: int
    oldest_at: datetime | None
    is_connected: bool

    @property
    def depth_text(self) -> str:
        return str(self.depth) if self.depth <= DEPTH_LIMIT else f"more than {DEPTH_LIMIT}"


def figures(queues: Sequence[int]) -> dict[int, Figures]:
    """The figures of these queues, by id. Queues without a row are left out."""
    if not queues:
        return {}
    depths = _depths(queues)
    rows = Queue.objects.filter(pk__in=queues).annotate(is_connected=Exists(_live()), **_firsts())
    names = [f"first_{priority.value}" for priority in Priority]
    return {
        id: Figures(
            depth=depths[id], oldest_at=min((at for at in firsts if at), default=None), is_connected=is_connected
        )
        for id, is_connected, *firsts in rows.values_list("pk", "is_connected", *names)
    }


def connected_queues() -> QuerySet[LiveConnection]:
    """The ids of queues that a living server process holds a connection of."""
    living = LiveConnection.objects.filter(server__heartbeat_at__gt=lease(current_store().now()))
    return living.values("queue_id")  # type: ignore[return-value]


def _live() -> QuerySet[LiveConnection]:
    return LiveConnection.objects.filter(queue_id=OuterRef("pk"), server__heartbeat_at__gt=lease(current_store().now()))


def _firsts() -> dict[str, Subquery]:
    """When the first message of each priority was sent: four looks into an index instead of a walk through a queue."""
    return {
        f"first_{priority.value}": Subquery(
            Message.objects.filter(queue_id=OuterRef("pk"), priority=priority.value)
            .order_by("id")
            .values("created_at")[:1],
            output_field=DateTimeField(),
        )
        for priority in Priority
    }


def _depths(queues: Sequence[int]) -> dict[int, int]:
    return bounded_counts(Message, "queue_id", queues, DEPTH_LIMIT + 1)


def bounded_counts(model: type[Model], column: str, ids: Sequence[int], limit: int) -> dict[int, int]:
    """How many rows have each of these ids in the column, counted up to ``limit``, in one statement.

    Only names and integers of ours are written into it.
    """
    if not ids:
        return {}
    connection = connections[router.db_for_read(model)]
    table = connection.ops.quote_name(model._meta.db_table)
    parts = [
        f"SELECT {int(id)} AS owner, COUNT(*) AS found FROM "
        f"(SELECT id FROM {table} WHERE {column} = {int(id)} LIMIT {int(limit)}) AS c{number}"
        for number, id in enumerate(ids)
    ]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts))
        return dict(cursor.fetchall())
