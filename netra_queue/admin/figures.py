"""Figures of some queues, in few statements for all of them, none of which reads a whole queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections, router
from django.db.models import Count, DateTimeField, Min, Model, OuterRef, QuerySet, Subquery, Sum

from ..core.message import Priority
from ..models import LiveConnection, Loss, Message, Queue
from ..stores import current_store
from ..stores.presence import lease
from ..stores.rows import chunks

DEPTH_LIMIT = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """``depth``: the number of messages, and ``size`` their bytes, both exact up to ``DEPTH_LIMIT`` messages.

    ``lost``: how many messages it lost since ``lost_since`` that no client was told of.
    """

    depth: int
    size: int
    oldest_at: datetime | None
    connections: int
    lost: int
    lost_since: datetime | None

    @property
    def depth_text(self) -> str:
        return at_most(self.depth, DEPTH_LIMIT)

    @property
    def size_text(self) -> str:
        return str(self.size) if self.depth <= DEPTH_LIMIT else f"{self.size}+"

    @property
    def is_connected(self) -> bool:
        return self.connections > 0


def at_most(count: int, limit: int) -> str:
    """A number that was counted up to one beyond the limit."""
    return str(count) if count <= limit else f"{limit}+"


def figures(queues: Sequence[int]) -> dict[int, Figures]:
    """The figures of these queues, by id."""
    sizes, oldest = _sizes(queues), oldest_of(queues)
    held, lost = connections_of(queues), losses_of(queues)
    return {
        id: Figures(
            depth=sizes[id][0],
            size=sizes[id][1],
            oldest_at=oldest.get(id),
            connections=held.get(id, 0),
            lost=lost[id][0] if id in lost else 0,
            lost_since=lost[id][1] if id in lost else None,
        )
        for id in queues
    }


def depths_of(queues: Collection[int]) -> dict[int, int]:
    """How many messages each of these queues holds, exact up to ``DEPTH_LIMIT``."""
    return bounded_counts(Message, "queue_id", queues, DEPTH_LIMIT + 1)


def _sizes(queues: Collection[int]) -> dict[int, tuple[int, int]]:
    """The same, with the bytes of those that were counted."""
    rows = bounded(Message, "queue_id", queues, DEPTH_LIMIT + 1, "COUNT(*), COALESCE(SUM(size), 0)", "size")
    return {id: (count, int(size)) for id, count, size in rows}


def oldest_of(queues: Collection[int]) -> dict[int, datetime]:
    """When the oldest message of each of these queues was sent; those without a message, or a row, are left out.

    Four looks into an index instead of a walk through the queue: in each priority, the first one is the oldest.
    """
    rows = Queue.objects.annotate(
        **{
            f"first_{priority.value}": Subquery(
                Message.objects.filter(queue_id=OuterRef("pk"), priority=priority.value)
                .order_by("id")
                .values("created_at")[:1],
                output_field=DateTimeField(),
            )
            for priority in Priority
        }
    )
    names = [f"first_{priority.value}" for priority in Priority]
    found = _of_each(queues, lambda chunk: rows.filter(pk__in=chunk).values_list("pk", *names))
    return {id: min(moments) for id, *firsts in found if (moments := [at for at in firsts if at is not None])}


def connections_of(queues: Collection[int]) -> dict[int, int]:
    """How many connections living server processes hold of each of these queues; none are left out."""
    living = living_connections().order_by().values_list("queue_id")
    return dict(_of_each(queues, lambda chunk: living.filter(queue_id__in=chunk).annotate(Count("pk"))))


def losses_of(queues: Collection[int]) -> dict[int, tuple[int, datetime]]:
    """How many messages each of these queues lost that no client was told of, and since when; others are left out."""
    rows = Loss.objects.order_by().values_list("queue_id").annotate(Sum("count"), Min("since"))
    found = _of_each(queues, lambda chunk: rows.filter(queue_id__in=chunk))
    return {id: (int(count), since) for id, count, since in found}


def living_connections() -> QuerySet[LiveConnection]:
    return LiveConnection.objects.filter(server__heartbeat_at__gt=lease(current_store().now()))


def _of_each(queues: Collection[int], ask: Callable[[Sequence[int]], Any]) -> list[Any]:
    return [row for chunk in chunks(sorted(queues)) for row in ask(chunk)]


def bounded_counts(model: type[Model], column: str, ids: Collection[int], limit: int) -> dict[int, int]:
    """How many rows have each of these ids in the column, counted up to ``limit``."""
    return dict(bounded(model, column, ids, limit, "COUNT(*)", "id"))


def bounded(
    model: type[Model], column: str, ids: Collection[int], limit: int, aggregates: str, columns: str
) -> list[tuple[Any, ...]]:
    """For each of these ids, the aggregates over up to ``limit`` rows that have it in the column.

    Only names and integers of ours are written into the statements: one for all ids on PostgreSQL, where planning a
    large union takes longer than carrying it out, and elsewhere one for each ``CHUNK``.
    """
    connection = connections[router.db_for_read(model)]
    table = connection.ops.quote_name(model._meta.db_table)
    found: list[tuple[Any, ...]] = []
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql" and ids:
            rows = f"SELECT {columns} FROM {table} WHERE {column} = wanted.id LIMIT {int(limit)}"
            cursor.execute(
                f"SELECT wanted.id, counted.* FROM unnest(%s::bigint[]) AS wanted(id) "
                f"CROSS JOIN LATERAL (SELECT {aggregates} FROM ({rows}) AS these) AS counted",
                [list(ids)],
            )
            return list(cursor.fetchall())
        for chunk in chunks(list(ids)):
            parts = [
                f"SELECT {int(id)} AS owner, {aggregates} FROM "
                f"(SELECT {columns} FROM {table} WHERE {column} = {int(id)} LIMIT {int(limit)}) AS c{number}"
                for number, id in enumerate(chunk)
            ]
            cursor.execute(" UNION ALL ".join(parts))
            found += cursor.fetchall()
    return found
