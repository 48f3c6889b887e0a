"""How the database store removes what nobody needs, in bounded batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, Min, OuterRef, Q, QuerySet, Subquery, Sum

from .. import conf
from ..core.message import Fate, Losses, Priority
from ..models import (
    Body,
    CollapseSlot,
    DeadLetter,
    LiveConnection,
    Loss,
    Message,
    Queue,
    RateBucket,
    TrackedMessage,
    UsedKey,
    queue_id,
)
from . import collapsing, membership, pausing, presence
from .base import QueueStat
from .connecting import own_transaction
from .examining import chosen
from .removal import discard_bodies, remove, sweep_plain
from .rows import CHUNK, delete, hold, skipping_locked

RECORDS_PER_QUEUE = 16  # more records of one kind than this are added up into one


def sweep(using: str, limit: int, now: datetime) -> int:
    if (removed := sweep_plain(using, limit, now)) == limit:
        return removed
    due = Message.objects.using(using).filter(expires_at__lte=now).order_by("expires_at")
    with own_transaction(using):
        return removed + remove(using, hold(due, using, limit - removed), Fate.EXPIRED, now)


def purge(
    using: str, queue: int, limit: int, priority: Priority | None, now: datetime, *, only_expired: bool = False
) -> int:
    rows = chosen(Message.objects.using(using).filter(queue_id=queue), priority, only_expired, now)
    fate = Fate.EXPIRED if only_expired else Fate.DROPPED
    with own_transaction(using):
        held = hold(rows.order_by("priority", "id"), using, limit)
        return remove(using, held, fate, now, may_keep=only_expired)


def forget_idle(using: str, limit: int, now: datetime) -> int:
    """A sender that appends meanwhile loses nothing: messages are found by their queue's name, row or no row."""
    forget_keys(using, limit, now)
    _add_up_losses(using, limit, now)
    membership.forget_empty(using, limit, _cutoff(now))
    removed = 0
    for page in _pages(using, now):
        idle = list(idle_queues(using, now).filter(pk__in=page).values_list("pk", flat=True))
        if idle:
            removed += _forget_queues(using, idle[: limit - removed], now)
        if removed >= limit:
            break
    return removed


def _pages(using: str, now: datetime) -> Iterator[list[int]]:
    """The ids of queues that nobody came for in time, longest ago first; whether they are empty is still to be seen."""
    old = Queue.objects.using(using).filter(idle_since__lt=_cutoff(now)).order_by("idle_since", "pk")
    rows = list(old.values_list("idle_since", "pk")[:CHUNK])
    while rows:
        yield [pk for _, pk in rows]
        since, last = rows[-1]
        beyond = old.filter(Q(idle_since__gt=since) | Q(pk__gt=last), idle_since__gte=since)
        rows = list(beyond.values_list("idle_since", "pk")[:CHUNK])


def _forget_queues(using: str, queues: Collection[int], now: datetime) -> int:
    """Those of these queues that still are idle once their rows are ours: a client that comes now waits for it."""
    with own_transaction(using):
        rows = Queue.objects.using(using).filter(pk__in=queues).order_by("pk")
        locked = list(skipping_locked(rows, using).values_list("pk", flat=True))
        idle = list(idle_queues(using, now).filter(pk__in=locked).values_list("pk", flat=True))
        Loss.objects.using(using).filter(queue_id__in=idle, since__lt=_cutoff(now))._raw_delete(using)
        return delete(using, idle, Queue)


def _cutoff(now: datetime) -> datetime:
    return now - timedelta(seconds=conf.get("IDLE_QUEUE_SECONDS"))


def idle_queues(using: str, now: datetime) -> QuerySet[Queue]:
    """Not paused, without messages, dead letters, connections and younger losses. One look into an index for each queue
    and kind.

    A line that may be in use keeps its row, and its queue's, which has the policy of what is sent to both.
    LIMIT keeps MariaDB from reading a whole index for all queues at once, as it does for NOT EXISTS.
    """
    mine = {"queue_id": OuterRef("pk")}
    oldest = now - timedelta(seconds=max(policy.line_seconds for policy in conf.policies()))
    lines = Queue.objects.filter(parent_id=OuterRef("pk"), seen_at__gt=oldest)
    is_forgotten = Q(parent_id=None) | Q(seen_at=None) | Q(seen_at__lte=oldest)
    return (
        Queue.objects.using(using)
        .filter(~pausing.in_force(now), is_forgotten, idle_since__lt=_cutoff(now))
        .alias(
            a_line=Subquery(lines.values("parent_id")[:1]),
            a_visitor=Subquery(LiveConnection.objects.filter(queue__parent_id=OuterRef("pk")).values("queue_id")[:1]),
            a_message=Subquery(Message.objects.filter(**mine).values("queue_id")[:1]),
            a_letter=Subquery(DeadLetter.objects.filter(**mine).values("queue_id")[:1]),
            a_connection=Subquery(LiveConnection.objects.filter(**mine).values("queue_id")[:1]),
            a_loss=Subquery(Loss.objects.filter(**mine, since__gte=_cutoff(now)).values("queue_id")[:1]),
        )
        .filter(a_line=None, a_visitor=None, a_message=None, a_letter=None, a_connection=None, a_loss=None)
    )


def forget_keys(using: str, limit: int, now: datetime) -> int:
    """Also collapse keys, and what was kept of messages. What an open transaction is taking over is left to it."""
    removed = 0
    for old in run_out(using, now):
        while removed < limit:
            with own_transaction(using):
                rows = list(skipping_locked(old, using).values_list("pk", flat=True)[: min(CHUNK, limit - removed)])
                removed += delete(using, rows, old.model)
            if len(rows) < CHUNK:
                break
    return removed


def run_out(using: str, now: datetime) -> tuple[QuerySet[Any], ...]:
    """What is kept beside messages, and has run out."""
    return (
        UsedKey.objects.using(using).filter(expires_at__lte=now).order_by("expires_at"),
        CollapseSlot.objects.using(using).filter(expires_at__lte=now).order_by("expires_at"),
        TrackedMessage.objects.using(using).filter(keep_until__lte=now).order_by("keep_until"),
        RateBucket.objects.using(using).filter(full_at__lte=now.timestamp()).order_by("full_at"),
    )


def forget_bodies(using: str, limit: int, now: datetime) -> int:
    """Payloads whose time is over, and those of crowds as soon as nobody has them any more."""
    old = Body.objects.using(using).filter(expires_at__lte=now).order_by("expires_at", "pk")
    removed = discard_bodies(using, list(old.values_list("pk", flat=True)[:limit]))
    crowds = Body.objects.using(using).filter(pk__lt=0).order_by("pk")
    last: int | None = None
    while removed < limit:
        page = list((crowds if last is None else crowds.filter(pk__gt=last)).values_list("pk", flat=True)[:CHUNK])
        removed += discard_bodies(using, page[: limit - removed])
        if len(page) < CHUNK:
            break
        last = page[-1]
    return removed


def _add_up_losses(using: str, limit: int, now: datetime) -> None:
    """Keep few records of a queue that goes on losing while its client is away."""
    connected = LiveConnection.objects.filter(queue_id=OuterRef("queue_id"))
    groups = Loss.objects.using(using).filter(~Exists(connected)).values("queue_id", "reason", "priority").order_by()
    for group in list(groups.annotate(records=Count("id")).filter(records__gt=RECORDS_PER_QUEUE)[:limit]):
        with own_transaction(using):
            if _is_away(using, group["queue_id"], now):
                _add_up(using, {key: group[key] for key in ("queue_id", "reason", "priority")})


def _is_away(using: str, queue: int, now: datetime) -> bool:
    """Whether no client has, or may still be settling, what it was told. None can come while the row is locked; a queue
    without a row is left as it is.
    """
    rows = Queue.objects.using(using).filter(Q(seen_at=None) | Q(seen_at__lte=presence.lease(now)), pk=queue)
    is_locked = bool(skipping_locked(rows, using).values_list("pk", flat=True))
    return is_locked and not LiveConnection.objects.using(using).filter(queue_id=queue).exists()


def _add_up(using: str, same: Mapping[str, Any]) -> None:
    """The newest record stays as it is: its time says that the queue has lost something lately."""
    rows = list(Loss.objects.using(using).filter(**same).order_by("pk").select_for_update())[:-1]
    if not rows:
        return
    delete(using, [row.pk for row in rows], Loss)
    total, since = sum(row.count for row in rows), min(row.since for row in rows)
    Loss.objects.using(using).create(**same, count=total, since=since)


def stat(using: str, name: str, now: datetime) -> QueueStat:
    id = queue_id(name)
    queue = Queue.objects.using(using).filter(pk=id).first()
    rows = Message.objects.using(using).filter(queue_id=id).values_list("priority").order_by("priority")
    found = list(rows.annotate(Count("id"), Sum("size"), Min("created_at")))
    return QueueStat(
        queue=name,
        policy=queue.policy if queue else "",
        is_resolved=queue.is_resolved if queue else False,
        messages=sum(count for _, count, _, _ in found),
        size=sum(size for _, _, size, _ in found),
        by_priority={Priority(priority): count for priority, count, _, _ in found},
        oldest_at=min((oldest for *_, oldest in found), default=None),
        connections=LiveConnection.objects.using(using).filter(queue_id=id).count(),
        seen_at=queue.seen_at if queue else None,
        acked_at=queue.acked_at if queue else None,
        losses=presence.losses(using, {id: name}).get(name, Losses()),
        superseded=collapsing.superseded(using, [id]).get(id, 0),
        pause=pausing.paused(using, [name], now).get(name),
    )
