"""How the database store knows who is connected, and what clients have yet to be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from django.db import connections
from django.db.models import Case, DateTimeField, Exists, F, OuterRef, QuerySet, Value, When
from django.db.models.functions import Coalesce, Greatest

from .. import conf
from ..core.message import Losses, LossReason, Priority, base_of
from ..models import LiveConnection, Loss, Queue, ServerProcess, queue_id
from . import lingers
from .base import MISSED_HEARTBEATS, Presence, Server
from .connecting import own_transaction
from .rows import chunks, lock_queues

NO_ACKS: Mapping[int, datetime] = {}
REASONS = {reason.value for reason in LossReason}


def lease(now: datetime) -> datetime:
    """A server whose heartbeat is not younger than this is dead."""
    return now - timedelta(seconds=MISSED_HEARTBEATS * conf.get("SERVER_HEARTBEAT_SECONDS"))


def detach(using: str, presences: Collection[Presence], now: datetime) -> None:
    """The queues' rows first, as ``attach`` and ``linger`` do."""
    ids = sorted(presence.id for presence in presences)
    with own_transaction(using):
        _see(using, {presence.queue for presence in presences}, now, _last_acks(presences))
        LiveConnection.objects.using(using).filter(pk__in=ids)._raw_delete(using)
        lingers.remove(using, ids)


def linger(using: str, stays: Sequence[tuple[Presence, float]], now: datetime) -> set[str]:
    """The queues' rows first, as ``attach`` does: whichever of the two comes second sees what the first one did."""
    ids = sorted(presence.id for presence, _ in stays)
    by_queue = {queue_id(presence.queue): (presence, seconds) for presence, seconds in stays}
    with own_transaction(using):
        _see(using, {presence.queue for presence, _ in stays}, now, _last_acks(presence for presence, _ in stays))
        LiveConnection.objects.using(using).filter(pk__in=ids)._raw_delete(using)
        for chunk in chunks(sorted(by_queue)):
            live = LiveConnection.objects.using(using).filter(queue_id__in=chunk, server__heartbeat_at__gt=lease(now))
            for id in live.values_list("queue_id", flat=True):
                by_queue.pop(id, None)
        lingers.insert(using, by_queue, now)
    return {presence.id for presence, _ in by_queue.values()}


def _last_acks(presences: Iterable[Presence]) -> dict[int, datetime]:
    """When the clients that leave acked last, by line. Of two of one line, the later time."""
    acks: dict[int, datetime] = {}
    for presence in presences:
        if presence.acked_at is not None:
            id = queue_id(presence.queue)
            acks[id] = max(presence.acked_at, acks.get(id, presence.acked_at))
    return acks


def _see(using: str, lines: Collection[str], now: datetime, acks: Mapping[int, datetime] = NO_ACKS) -> None:
    """Note that the clients of these lines were here until now, when they acked last, and hold the rows.

    A line that was forgotten while it was connected stays forgotten.
    """
    used = {queue_id(line) for line in lines}
    mine = lock_queues(using, {*lines, *map(base_of, lines)})
    for chunk in chunks(sorted(mine)):
        Queue.objects.using(using).filter(pk__in=chunk).update(idle_since=now)
        seen = Queue.objects.using(using).filter(pk__in=used.intersection(chunk), seen_at__isnull=False)
        mine_acked = {id: acks[id] for id in chunk if id in acks}
        seen.update(seen_at=now, **({"acked_at": _later(mine_acked)} if mine_acked else {}))


def _later(acks: Mapping[int, datetime]) -> Case:
    """For an update of queues: these times, unless a later one is there. Others stay as they are."""
    stored = F("acked_at")
    times = {id: Value(at, output_field=DateTimeField()) for id, at in acks.items()}
    whens = [When(pk=id, then=Greatest(Coalesce(stored, at), at)) for id, at in times.items()]
    return Case(*whens, default=stored)


def _see_lines_of(using: str, connections: QuerySet[LiveConnection], now: datetime) -> None:
    """Before these go: until now their lines have been in use, however long ago their clients came.

    In transactions of its own, so that nobody waits for long. A connection that stays after all was in use, too.
    """
    for chunk in chunks(sorted(set(connections.values_list("queue_id", flat=True)))):
        with own_transaction(using):
            _see(using, list(Queue.objects.using(using).filter(pk__in=chunk).values_list("name", flat=True)), now)


def losses(using: str, queues: Mapping[int, str], told: Collection[int] = ()) -> dict[str, Losses]:
    """What each of these queues (names by id) lost and no client was told of.

    Losses for a reason of a later release's, which runs beside this one, are left to that.
    """
    counts: dict[int, dict[tuple[LossReason, Priority], int]] = defaultdict(lambda: defaultdict(int))
    records: dict[int, list[int]] = defaultdict(list)
    since: dict[int, datetime] = {}
    for chunk in chunks(list(queues)):
        rows = Loss.objects.using(using).filter(queue_id__in=chunk).order_by("pk")
        for row in rows:
            if row.pk in told or row.reason not in REASONS:
                continue
            counts[row.queue_id][LossReason(row.reason), Priority(row.priority)] += row.count
            records[row.queue_id].append(row.pk)
            since[row.queue_id] = min(row.since, since.get(row.queue_id, row.since))
    return {queues[id]: Losses(counts=dict(counts[id]), since=since[id], records=tuple(records[id])) for id in counts}


def holders(using: str, queues: Collection[str], now: datetime) -> dict[str, list[str]]:
    names = {queue_id(name): name for name in queues}
    found: dict[str, set[str]] = defaultdict(set)
    for chunk in chunks(list(names)):
        for server, id in _live(using, chunk, now):
            found[server].add(names[id])
    return {server: sorted(held) for server, held in found.items()}


def _live(using: str, queues: Sequence[int], now: datetime) -> list[tuple[str, int]]:
    """The servers that hold connections of these queues. By hand: it is asked for every few sends."""
    connection = connections[using]
    live, server = (connection.ops.quote_name(model._meta.db_table) for model in (LiveConnection, ServerProcess))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT c.server_id, c.queue_id FROM {live} c JOIN {server} s ON s.id = c.server_id "
            f"WHERE c.queue_id IN ({','.join(map(str, queues))}) AND s.heartbeat_at > %s",
            [connection.ops.adapt_datetimefield_value(lease(now))],
        )
        return list(cursor.fetchall())


def heartbeat(using: str, server: Server, now: datetime) -> bool:
    if ServerProcess.objects.using(using).filter(pk=server.id).update(heartbeat_at=now):
        return True
    row = ServerProcess(id=server.id, host=server.host, pid=server.pid, started_at=now, heartbeat_at=now)
    ServerProcess.objects.using(using).bulk_create([row], ignore_conflicts=True)
    return False


def retire(using: str, server: Server, now: datetime) -> None:
    connections = LiveConnection.objects.using(using).filter(server_id=server.id)
    _see_lines_of(using, connections, now)
    with own_transaction(using):
        connections._raw_delete(using)
        lingers.remove_of_server(using, server.id)
        ServerProcess.objects.using(using).filter(pk=server.id)._raw_delete(using)


def reap(using: str, now: datetime) -> int:
    lingers.remove_over(using, now)
    return sum(_reap_server(using, server, now) for server in _dead(using, now)) + _reap_orphans(using, now)


def _dead(using: str, now: datetime) -> list[str]:
    dead = ServerProcess.objects.using(using).filter(heartbeat_at__lte=lease(now))
    return list(dead.order_by("pk").values_list("pk", flat=True))


def _reap_server(using: str, server: str, now: datetime) -> int:
    """The server first, if it still counts as dead, then its connections: all in one transaction.

    A heartbeat in between waits for it, finds the server gone, and the server attaches its connections again.
    """
    connections = LiveConnection.objects.using(using).filter(server_id=server).order_by("pk")
    _see_lines_of(using, connections, now)
    with own_transaction(using):
        if not ServerProcess.objects.using(using).filter(pk=server, heartbeat_at__lte=lease(now))._raw_delete(using):
            return 0
        removed = 0
        for chunk in chunks(list(connections.values_list("pk", flat=True))):
            removed += LiveConnection.objects.using(using).filter(pk__in=chunk)._raw_delete(using)
        lingers.remove_of_server(using, server)
        return removed


def _reap_orphans(using: str, now: datetime) -> int:
    """Connections that were attached after their server was reaped, and whose server was not heard of again."""
    servers = ServerProcess.objects.filter(pk=OuterRef("server_id"))
    orphans = LiveConnection.objects.using(using).filter(~Exists(servers), connected_at__lte=lease(now))
    _see_lines_of(using, orphans, now)
    removed = 0
    for chunk in chunks(list(orphans.order_by("pk").values_list("pk", flat=True))):
        removed += orphans.filter(pk__in=chunk)._raw_delete(using)
    return removed
