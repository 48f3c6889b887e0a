"""What the database store tells an operator about all its queues, without looking at more rows than it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from django.db import connections
from django.db.models import Case, Count, Exists, IntegerField, Min, OuterRef, Q, QuerySet, Sum, Value, When

from ..core.message import Priority
from ..models import Body, DeadLetter, LiveConnection, Message, Queue, ServerProcess
from . import collapsing, pausing, watching
from .base import Due, Overview, QueueStat
from .devices import old_lines
from .presence import lease
from .removal import unused_bodies
from .rows import chunks
from .upkeep import idle_queues, run_out
from .values import Ages, Server, ServerLoad


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
        expired_since=expired.values_list("expires_at", flat=True).first(),
    )


def overview(using: str, limit: int, scan: int, now: datetime) -> Overview:
    """The oldest ``scan`` messages stand for all when there are more: a whole table is never counted."""
    groups = _by_queue(using, scan)
    counts = {
        "expired": Message.objects.using(using).filter(expires_at__lte=now)[:scan].count(),
        "queues": Queue.objects.using(using).all()[:scan].count(),
        "connections": LiveConnection.objects.using(using).filter(server__heartbeat_at__gt=lease(now))[:scan].count(),
        "paused": Queue.objects.using(using).filter(pausing.in_force(now))[:scan].count(),
        "letters": DeadLetter.objects.using(using).all()[:scan].count(),
        "servers": ServerProcess.objects.using(using).filter(heartbeat_at__gt=lease(now))[:scan].count(),
    }
    messages = sum(stat.messages for stat in groups)
    return Overview(
        messages=messages,
        size=sum(stat.size for stat in groups),
        complete=max(messages, *counts.values()) < scan,
        largest=_named(using, groups[:limit], now),
        oldest_at=min((stat.oldest_at for stat in groups if stat.oldest_at is not None), default=None),
        **counts,
    )


def fullest(using: str, messages: int, size: int, limit: int, scan: int) -> list[QueueStat]:
    rows, _ = _oldest(using, scan)
    groups = rows.order_by().values_list("queue_id").annotate(count=Count("id"), bytes=Sum("size"))
    full = list(groups.filter(Q(count__gte=messages) | Q(bytes__gte=size)).order_by("-count", "queue_id")[:limit])
    known: dict[int, tuple[str, str]] = {}
    for chunk in chunks([id for id, *_ in full]):
        queues = Queue.objects.using(using).filter(pk__in=chunk)
        known |= {id: (name, policy) for id, name, policy in queues.values_list("id", "name", "policy")}
    stats = [(*known.get(id, (f"#{id}", "")), count, total) for id, count, total in full]
    return [QueueStat(queue=name, policy=policy, messages=n, size=bytes) for name, policy, n, bytes in stats]


def _by_queue(using: str, scan: int) -> list[QueueStat]:
    """What the oldest ``scan`` messages add up to, largest queue first, each under its queue's id."""
    rows, _ = _oldest(using, scan)
    groups = rows.order_by().values_list("queue_id").annotate(Count("id"), Sum("size"), Min("created_at"))
    stats = [
        QueueStat(queue=str(id), messages=count, size=size, oldest_at=oldest) for id, count, size, oldest in groups
    ]
    return sorted(stats, key=lambda stat: (-stat.messages, stat.queue))


def _oldest(using: str, scan: int) -> tuple[QuerySet[Message], bool]:
    """The oldest ``scan`` messages, and whether they are all there are."""
    rows = Message.objects.using(using).all()
    beyond = list(rows.order_by("pk").values_list("pk", flat=True)[scan : scan + 1])
    return (rows.filter(pk__lt=beyond[0]), False) if beyond else (rows, True)


def ages(using: str, bounds: Sequence[float], scan: int, now: datetime) -> Ages:
    rows, is_complete = _oldest(using, scan)
    younger = [
        When(created_at__gt=now - timedelta(seconds=bound), then=Value(number)) for number, bound in enumerate(bounds)
    ]
    number = Case(*younger, default=Value(len(bounds)), output_field=IntegerField())
    counts = {priority: [0] * (len(bounds) + 1) for priority in Priority}
    groups = rows.order_by().annotate(number=number).values_list("priority", "number").annotate(Count("id"))
    for priority, of, count in groups:
        counts[Priority(priority)][of] = count
    return Ages(counts, is_complete)


def loads(using: str, limit: int, scan: int, now: datetime) -> list[ServerLoad]:
    servers = ServerProcess.objects.using(using).filter(heartbeat_at__gt=lease(now)).order_by("started_at", "pk")
    rows = list(servers[:limit])
    held = _held(using, [row.pk for row in rows], scan)
    return [
        ServerLoad(
            server=Server(id=row.pk, host=row.host, pid=row.pid),
            heartbeat_at=row.heartbeat_at,
            connections=held.get(row.pk, 0),
        )
        for row in rows
    ]


def _held(using: str, servers: Sequence[str], scan: int) -> dict[str, int]:
    """How many connections each of these servers holds. By hand: Django does not group what it limits."""
    if not servers:
        return {}
    connection = connections[using]
    table = connection.ops.quote_name(LiveConnection._meta.db_table)
    marks = ", ".join(["%s"] * len(servers))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT server_id, COUNT(*) FROM (SELECT server_id FROM {table} WHERE server_id IN ({marks}) LIMIT %s) "
            "AS held GROUP BY server_id",
            [*servers, scan],
        )
        return dict(cursor.fetchall())


def _named(using: str, stats: Sequence[QueueStat], now: datetime) -> tuple[QueueStat, ...]:
    """The same under their queues' names; a queue that is not known (yet) is named by ``#`` and its id."""
    known = Queue.objects.using(using).filter(pk__in=[int(stat.queue) for stat in stats])
    names = {str(id): name for id, name in known.values_list("id", "name")}
    superseded = collapsing.superseded(using, [int(stat.queue) for stat in stats])
    pauses = pausing.paused(using, names.values(), now)
    return tuple(
        replace(
            stat,
            queue=names.get(stat.queue, f"#{stat.queue}"),
            superseded=superseded.get(int(stat.queue), 0),
            pause=pauses.get(names.get(stat.queue, "")),
        )
        for stat in stats
    )
