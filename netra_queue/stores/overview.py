"""What the database store tells an operator about all its queues, without looking at more rows than it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from django.db.models import Count, Exists, Min, OuterRef, Q, Sum

from ..models import Body, DeadLetter, LiveConnection, Message, Queue, ServerProcess
from . import collapsing, watching
from .base import Due, Overview, QueueStat
from .devices import old_lines
from .presence import lease
from .removal import unused_bodies
from .rows import chunks
from .upkeep import idle_queues, run_out


def due(using: str, limit: int, now: datetime) -> Due:
    expired = Message.objects.using(using).filter(expires_at__lte=now).order_by("expires_at")
    servers = ServerProcess.objects.filter(pk=OuterRef("server_id"))
    is_dead = Exists(servers.filter(heartbeat_at__lte=lease(now)))
    is_orphan = ~Exists(servers) & Q(connected_at__lte=lease(now))
    gone = LiveConnection.objects.using(using).filter(is_dead | is_orphan)
    old = Body.objects.using(using).filter(expires_at__lte=now).order_by("expires_at").values_list("pk", flat=True)
    letters = DeadLetter.objects.using(using).filter(keep_until__lte=now).order_by("keep_until")
    return Due(
        expired=expired[:limit].count(),
        connections=gone[:limit].count(),
        lines=len(old_lines(using, limit, now)),
        idle_queues=idle_queues(using, now)[:limit].count(),
        keys=min(limit, sum(rows[:limit].count() for rows in run_out(using, now))),
        undelivered=watching.all_due(using, now)[:limit].count(),
        bodies=sum(len(unused_bodies(using, chunk)) for chunk in chunks(list(old[:limit]))),
        letters=letters[:limit].count(),
    )


def overview(using: str, limit: int, scan: int, now: datetime) -> Overview:
    """The oldest ``scan`` messages stand for all when there are more: a whole table is never counted."""
    groups = _by_queue(using, scan)
    counts = {
        "expired": Message.objects.using(using).filter(expires_at__lte=now)[:scan].count(),
        "queues": Queue.objects.using(using).all()[:scan].count(),
        "connections": LiveConnection.objects.using(using).filter(server__heartbeat_at__gt=lease(now))[:scan].count(),
        "servers": ServerProcess.objects.using(using).filter(heartbeat_at__gt=lease(now))[:scan].count(),
    }
    messages = sum(stat.messages for stat in groups)
    return Overview(
        messages=messages,
        size=sum(stat.size for stat in groups),
        complete=max(messages, *counts.values()) < scan,
        largest=_named(using, groups[:limit]),
        **counts,
    )


def _by_queue(using: str, scan: int) -> list[QueueStat]:
    """What the oldest ``scan`` messages add up to, largest queue first, each under its queue's id."""
    rows = Message.objects.using(using).all()
    beyond = list(rows.order_by("pk").values_list("pk", flat=True)[scan : scan + 1])
    if beyond:
        rows = rows.filter(pk__lt=beyond[0])
    groups = rows.order_by().values_list("queue_id").annotate(Count("id"), Sum("size"), Min("created_at"))
    stats = [
        QueueStat(queue=str(id), messages=count, size=size, oldest_at=oldest) for id, count, size, oldest in groups
    ]
    return sorted(stats, key=lambda stat: (-stat.messages, stat.queue))


def _named(using: str, stats: Sequence[QueueStat]) -> tuple[QueueStat, ...]:
    """The same under their queues' names; a queue that is not known (yet) is named by ``#`` and its id."""
    known = Queue.objects.using(using).filter(pk__in=[int(stat.queue) for stat in stats])
    names = {str(id): name for id, name in known.values_list("id", "name")}
    superseded = collapsing.superseded(using, [int(stat.queue) for stat in stats])
    return tuple(
        replace(stat, queue=names.get(stat.queue, f"#{stat.queue}"), superseded=superseded.get(int(stat.queue), 0))
        for stat in stats
    )
