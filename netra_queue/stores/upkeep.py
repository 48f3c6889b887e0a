"""How the database store removes what nobody needs, in bounded batches."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Count, Exists, Min, OuterRef, QuerySet, Sum

from .. import conf
from ..core.message import Losses, LossReason, Priority
from ..models import LiveConnection, Loss, Message, Queue, UsedKey, queue_id
from . import presence
from .base import QueueStat
from .connecting import own_transaction
from .limits import chunks, delete, record_losses, skipping_locked

RECORDS_PER_QUEUE = 16  # more records of one kind than this are added up into one


def sweep(using: str, limit: int, now: datetime) -> int:
    due = Message.objects.using(using).filter(expires_at__lte=now).order_by("expires_at", "id")
    with own_transaction(using):
        rows = list(skipping_locked(due, using).values_list("id", "queue_id", "priority")[:limit])
        delete(using, [position for position, *_ in rows])
        record_losses(using, LossReason.EXPIRED, [(queue, priority) for _, queue, priority in rows], now)
    return len(rows)


def purge(using: str, queue: int, limit: int, priority: Priority | None, now: datetime) -> int:
    rows = Message.objects.using(using).filter(queue_id=queue).order_by("priority", "id")
    if priority is not None:
        rows = rows.filter(priority=int(priority))
    with own_transaction(using):
        chosen = list(skipping_locked(rows, using).values_list("id", "priority")[:limit])
        delete(using, [position for position, _ in chosen])
        record_losses(using, LossReason.DROPPED, [(queue, of) for _, of in chosen], now)
    return len(chosen)


def forget_idle(using: str, limit: int, now: datetime) -> int:
    """A sender that appends meanwhile loses nothing: messages are found by their queue's name, row or no row."""
    forget_keys(using, limit, now)
    _add_up_losses(using, limit)
    idle = idle_queues(using, now)
    removed = 0
    for chunk in chunks(list(idle.order_by("idle_since").values_list("pk", flat=True)[:limit])):
        with own_transaction(using):
            Loss.objects.using(using).filter(queue_id__in=chunk)._raw_delete(using)
            removed += idle.filter(pk__in=chunk)._raw_delete(using)
    return removed


def idle_queues(using: str, now: datetime) -> QuerySet[Queue]:
    cutoff = now - timedelta(seconds=conf.get("IDLE_QUEUE_SECONDS"))
    messages = Message.objects.filter(queue_id=OuterRef("pk"))
    connections = LiveConnection.objects.filter(queue_id=OuterRef("pk"))
    return Queue.objects.using(using).filter(~Exists(messages), ~Exists(connections), idle_since__lt=cutoff)


def forget_keys(using: str, limit: int, now: datetime) -> int:
    removed = 0
    old = UsedKey.objects.using(using).filter(expires_at__lte=now).order_by("expires_at")
    for chunk in chunks(list(old.values_list("pk", flat=True)[:limit])):
        removed += UsedKey.objects.using(using).filter(pk__in=chunk, expires_at__lte=now)._raw_delete(using)
    return removed


def _add_up_losses(using: str, limit: int) -> None:
    """Keep few records of a queue that goes on losing while its client is away."""
    connected = LiveConnection.objects.filter(queue_id=OuterRef("queue_id"))
    groups = Loss.objects.using(using).filter(~Exists(connected)).values("queue_id", "reason", "priority").order_by()
    crowded = groups.annotate(records=Count("id")).filter(records__gt=RECORDS_PER_QUEUE)[:limit]
    for group in list(crowded):
        with own_transaction(using):
            same = {key: group[key] for key in ("queue_id", "reason", "priority")}
            rows = list(Loss.objects.using(using).filter(**same).order_by("pk").select_for_update())
            if not rows:
                continue
            total, since = sum(row.count for row in rows), min(row.since for row in rows)
            for chunk in chunks([row.pk for row in rows]):
                Loss.objects.using(using).filter(pk__in=chunk)._raw_delete(using)
            Loss.objects.using(using).create(**same, count=total, since=since)


def stat(using: str, name: str) -> QueueStat:
    id = queue_id(name)
    queue = Queue.objects.using(using).filter(pk=id).first()
    rows = Message.objects.using(using).filter(queue_id=id).values_list("priority").order_by("priority")
    found = list(rows.annotate(Count("id"), Sum("size"), Min("created_at")))
    return QueueStat(
        queue=name,
        policy=queue.policy if queue else "",
        messages=sum(count for _, count, _, _ in found),
        size=sum(size for _, _, size, _ in found),
        by_priority={Priority(priority): count for priority, count, _, _ in found},
        oldest_at=min((oldest for *_, oldest in found), default=None),
        connections=LiveConnection.objects.using(using).filter(queue_id=id).count(),
        seen_at=queue.seen_at if queue else None,
        losses=presence.losses(using, {id: name}).get(name, Losses()),
    )
