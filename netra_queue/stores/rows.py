"""How the database store takes rows in hand: in one order, without waiting, and never by anything but their keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

from django.db import connections
from django.db.models import Model, Q, QuerySet

from ..core.message import LossReason, client_of
from ..models import Loss, Message, Queue, queue_id

Item = TypeVar("Item")
Row = TypeVar("Row", bound=Model)
CHUNK = 500  # ids in one statement: below every database's limit of parameters


def chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def skipping_locked(rows: QuerySet[Row], using: str) -> QuerySet[Row]:
    """Lock these rows, in their order, without those that another transaction holds: no waiting, so no deadlock."""
    has_skip = connections[using].features.has_select_for_update_skip_locked
    return rows.select_for_update(skip_locked=has_skip)


def is_due(now: datetime) -> Q:
    """Of messages: their time has come."""
    return Q(not_before__isnull=True) | Q(not_before__lte=now)


class Held(NamedTuple):
    """A message whose row this transaction has locked."""

    position: int
    queue: int
    priority: int
    uid: str
    flags: int
    body: int | None


def hold(rows: QuerySet[Message], using: str, limit: int | None = None) -> list[Held]:
    """Lock these messages in their order, without those in other hands."""
    columns = skipping_locked(rows, using).values_list("id", "queue_id", "priority", "uid", "flags", "body_id")
    return [Held._make(row) for row in columns[:limit]]


def lock(using: str, positions: Iterable[int]) -> dict[int, Held]:
    """Those of these messages, by position, that are there and in nobody else's hands, now in ours."""
    mine: dict[int, Held] = {}
    for chunk in chunks(sorted(positions)):
        rows = Message.objects.using(using).filter(pk__in=chunk).order_by("pk")
        mine |= {held.position: held for held in hold(rows, using)}
    return mine


def lock_queues(using: str, names: Collection[str]) -> set[int]:
    """Lock the rows of these queues and lines until the transaction ends. Returns the ids of those that are there.

    Waits for others, and so does everything in one order: queues before lines, each in the order of their ids. Whoever
    changes which lines a queue has begins with the queue's own row.
    """
    there: set[int] = set()
    queues = {queue_id(name) for name in names if not client_of(name)}
    for some in (queues, {queue_id(name) for name in names} - queues):
        for chunk in chunks(sorted(some)):
            there |= _lock_by_key(using, chunk)
    return there


def _lock_by_key(using: str, ids: Sequence[int]) -> set[int]:
    if connections[using].vendor != "mysql":
        rows = Queue.objects.using(using).filter(pk__in=ids).order_by("pk").select_for_update()
        return set(rows.values_list("pk", flat=True))
    with connections[using].cursor() as cursor:
        cursor.execute(f"SELECT wanted.id {_by_index(using, ids, Queue)} FOR UPDATE")
        return {id for (id,) in cursor.fetchall()}


def delete(using: str, ids: Iterable[int], model: type[Model] = Message) -> int:
    """Delete rows by primary key, in ascending order. Waits for nobody if they are locked already."""
    removed = 0
    for chunk in chunks(sorted(ids)):
        if connections[using].vendor == "mysql":
            removed += _delete_by_index(using, chunk, model)
        else:
            removed += model._default_manager.using(using).filter(pk__in=chunk)._raw_delete(using)
    return removed


def _delete_by_index(using: str, ids: Sequence[int], model: type[Model]) -> int:
    """MariaDB and MySQL scan a small table for many ids, and wait there for rows of others that they do not delete.

    Joined to the ids in this order, each row is looked up by its key.
    """
    table = connections[using].ops.quote_name(model._meta.db_table)
    with connections[using].cursor() as cursor:
        cursor.execute(f"DELETE {table} {_by_index(using, ids, model)}")
        return int(cursor.rowcount)


def _by_index(using: str, ids: Sequence[int], model: type[Model]) -> str:
    table = connections[using].ops.quote_name(model._meta.db_table)
    wanted = " UNION ALL ".join(f"SELECT {int(id)} AS id" for id in ids)
    return f"FROM ({wanted}) AS wanted STRAIGHT_JOIN {table} FORCE INDEX FOR JOIN (PRIMARY) ON {table}.id = wanted.id"


def record_losses(using: str, reason: LossReason, lost: Iterable[tuple[int, int]], now: datetime) -> None:
    """Count messages that were removed, given as pairs of queue id and priority."""
    rows = [
        Loss(queue_id=queue, reason=reason.value, priority=priority, count=count, since=now)
        for (queue, priority), count in sorted(Counter(lost).items())
    ]
    if rows:
        Loss.objects.using(using).bulk_create(rows)
