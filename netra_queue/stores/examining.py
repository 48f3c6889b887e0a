"""What operators see of the messages in the database, in bounded steps, and how they put damaged ones right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime
from typing import Any

from django.db.models import Exists, F, Func, IntegerField, OuterRef, Q, QuerySet

from .. import models
from ..core.message import Fate, Message, Payload, PayloadKind, Priority, client_of
from ..models import Queue, queue_id
from .connecting import own_transaction
from .removal import remove
from .rows import chunks, lock
from .values import Mended


class _Bytes(Func):
    """The size of a text in bytes."""

    function = "OCTET_LENGTH"
    output_field = IntegerField()

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> Any:
        """Older ones know no OCTET_LENGTH."""
        return self.as_sql(compiler, connection, template="LENGTH(CAST(%(expressions)s AS BLOB))", **context)


def family(using: str, queues: Collection[str]) -> list[str]:
    found = set(queues)
    for chunk in chunks(sorted(queue_id(name) for name in queues if not client_of(name))):
        found.update(Queue.objects.using(using).filter(parent_id__in=chunk).values_list("name", flat=True))
    return sorted(found)


def filled(using: str, limit: int, after: str | None) -> list[str]:
    has_messages = Exists(models.Message.objects.filter(queue_id=OuterRef("pk")))
    rows = Queue.objects.using(using).filter(has_messages).order_by("pk")
    if after is not None:
        rows = rows.filter(pk__gt=queue_id(after))
    return list(rows.values_list("name", flat=True)[:limit])


def matching(using: str, queues: Collection[str], priority: Priority | None, only_expired: bool, now: datetime) -> int:
    ids = sorted({queue_id(name) for name in queues})
    messages = models.Message.objects.using(using)
    return sum(
        chosen(messages.filter(queue_id__in=chunk), priority, only_expired, now).count() for chunk in chunks(ids)
    )


def chosen(
    rows: QuerySet[models.Message], priority: Priority | None, only_expired: bool, now: datetime
) -> QuerySet[models.Message]:
    rows = rows if priority is None else rows.filter(priority=int(priority))
    return rows.filter(expires_at__lte=now) if only_expired else rows


def peek(using: str, queue: str, limit: int, after: tuple[Priority, int] | None, now: datetime) -> list[Message]:
    rows = models.Message.objects.using(using).filter(queue_id=queue_id(queue), expires_at__gt=now)
    rows = rows.filter(Q(body_id=None) | Q(body__payload__isnull=False))
    if after is not None:
        priority, position = after
        is_behind = Q(priority__gt=priority) | Q(priority=priority, id__gt=position)
        rows = rows.filter(is_behind, priority__gte=priority)
    columns = ("id", "uid", "kind", "payload", "body__payload", "size", "priority", "created_at", "deliveries")
    return [
        Message(
            position=position,
            id=uid,
            payload=Payload(PayloadKind(kind), text if shared is None else shared, size),
            priority=Priority(urgency),
            created_at=created_at,
            deliveries=deliveries,
        )
        for position, uid, kind, text, shared, size, urgency, created_at, deliveries in rows.order_by(
            "priority", "id"
        ).values_list(*columns)[:limit]
    ]


def mend(using: str, limit: int, after: int, dry_run: bool, now: datetime) -> Mended:
    """Looked at without locks: of what may be wrong, only what is so once it is ours is changed."""
    rows = models.Message.objects.using(using).filter(pk__gt=after).order_by("pk")
    positions = list(rows.values_list("pk", flat=True)[:limit])
    wrong: dict[int, int | None] = {}
    for chunk in chunks(positions):
        wrong |= _wrong(using, chunk)
    resized = {position: size for position, size in wrong.items() if size is not None}
    lost = wrong.keys() - resized.keys()
    if wrong and not dry_run:
        lost = _put_right(using, wrong, now)
    return Mended(len(positions), len(resized), len(lost), positions[-1] if positions else None)


def _wrong(using: str, positions: Collection[int]) -> dict[int, int | None]:
    """Those of these messages that are not as they should be, with the size that they have; None: without payload."""
    rows = models.Message.objects.using(using).filter(pk__in=positions)
    sizes = rows.annotate(own=_Bytes(F("payload")), shared=_Bytes(F("body__payload")))
    columns = sizes.values_list("pk", "size", "body_id", "own", "shared")
    found = {position: (size, own if body is None else shared) for position, size, body, own, shared in columns}
    return {position: is_now for position, (size, is_now) in found.items() if size != is_now}


def _put_right(using: str, wrong: Collection[int], now: datetime) -> set[int]:
    """Returns those that are removed. What is in other hands stays as it is for the next time."""
    lost: set[int] = set()
    for chunk in chunks(sorted(wrong)):
        with own_transaction(using):
            held = lock(using, chunk)
            still_wrong = _wrong(using, held)
            by_size: dict[int, list[int]] = defaultdict(list)
            for position, size in still_wrong.items():
                if size is not None:
                    by_size[size].append(position)
            for size, some in by_size.items():
                models.Message.objects.using(using).filter(pk__in=some).update(size=size)
            gone = [held[position] for position, size in still_wrong.items() if size is None]
            remove(using, gone, Fate.DROPPED, now, may_keep=False)
            lost |= {one.position for one in gone}
    return lost
