"""How the database store knows who is connected, and what clients have yet to be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef

from .. import conf
from ..core.message import Losses, LossReason, Priority
from ..core.policy import Policy
from ..exceptions import InvalidMessage
from ..models import LiveConnection, Loss, Message, Queue, ServerProcess, queue_id
from .base import Opened, Presence, Server
from .connecting import own_transaction
from .limits import chunks, expire_queue

MISSED_HEARTBEATS = 3


def lease(now: datetime) -> datetime:
    """A server whose heartbeat is older than this is dead."""
    return now - timedelta(seconds=MISSED_HEARTBEATS * conf.get("SERVER_HEARTBEAT_SECONDS"))


def attach(using: str, presence: Presence, policy: Policy, now: datetime) -> Opened:
    id = queue_id(presence.queue)
    queue = Queue(id=id, name=presence.queue, policy=presence.policy, created_at=now, seen_at=now, idle_since=now)
    connection = LiveConnection(
        id=presence.id, queue_id=id, server_id=presence.server.id, client=presence.client, connected_at=now
    )
    with own_transaction(using):
        known = Queue.objects.using(using).filter(pk=id, name=presence.queue)
        changes = {"policy": presence.policy, "seen_at": now, "idle_since": now}
        if not known.update(**changes):
            Queue.objects.using(using).bulk_create([queue], ignore_conflicts=True)
            if not known.update(**changes):
                raise InvalidMessage("queue name", expected="one with an id of its own", got=presence.queue)
        LiveConnection.objects.using(using).bulk_create([connection], ignore_conflicts=True)
        expire_queue(using, id, now)
        waiting = Message.objects.using(using).filter(queue_id=id)[: policy.max_messages].count()
        lost = losses(using, {id: presence.queue}).get(presence.queue, Losses())
    return Opened(waiting, lost, now)


def detach(using: str, presences: Collection[Presence], now: datetime) -> None:
    queues = sorted({queue_id(presence.queue) for presence in presences})
    ids = sorted(presence.id for presence in presences)
    with own_transaction(using):
        LiveConnection.objects.using(using).filter(pk__in=ids)._raw_delete(using)
        for chunk in chunks(queues):
            rows = Queue.objects.using(using).filter(pk__in=chunk).order_by("pk").select_for_update()
            Queue.objects.using(using).filter(pk__in=list(rows.values_list("pk", flat=True))).update(
                seen_at=now, idle_since=now
            )


def losses(using: str, queues: Mapping[int, str], told: Collection[int] = ()) -> dict[str, Losses]:
    """What each of these queues (names by id) lost and no client was told of."""
    counts: dict[int, dict[tuple[LossReason, Priority], int]] = defaultdict(lambda: defaultdict(int))
    records: dict[int, list[int]] = defaultdict(list)
    since: dict[int, datetime] = {}
    for chunk in chunks(list(queues)):
        rows = Loss.objects.using(using).filter(queue_id__in=chunk).order_by("pk")
        for row in rows:
            if row.pk in told:
                continue
            counts[row.queue_id][LossReason(row.reason), Priority(row.priority)] += row.count
            records[row.queue_id].append(row.pk)
            since[row.queue_id] = min(row.since, since.get(row.queue_id, row.since))
    return {queues[id]: Losses(counts=dict(counts[id]), since=since[id], records=tuple(records[id])) for id in counts}


def holders(using: str, queues: Collection[str], now: datetime) -> dict[str, list[str]]:
    names = {queue_id(name): name for name in queues}
    found: dict[str, set[str]] = defaultdict(set)
    for chunk in chunks(list(names)):
        live = LiveConnection.objects.using(using).filter(queue_id__in=chunk, server__heartbeat_at__gt=lease(now))
        for server, id in live.values_list("server_id", "queue_id"):
            found[server].add(names[id])
    return {server: sorted(held) for server, held in found.items()}


def heartbeat(using: str, server: Server, now: datetime) -> bool:
    if ServerProcess.objects.using(using).filter(pk=server.id).update(heartbeat_at=now):
        return True
    row = ServerProcess(id=server.id, host=server.host, pid=server.pid, started_at=now, heartbeat_at=now)
    ServerProcess.objects.using(using).bulk_create([row], ignore_conflicts=True)
    return False


def retire(using: str, server: Server) -> None:
    with own_transaction(using):
        LiveConnection.objects.using(using).filter(server_id=server.id)._raw_delete(using)
        ServerProcess.objects.using(using).filter(pk=server.id)._raw_delete(using)


def reap(using: str, now: datetime) -> int:
    """Connections first, then the server: a reaper that dies in between leaves work for the next one, not orphans."""
    dead = ServerProcess.objects.using(using).filter(heartbeat_at__lte=lease(now)).order_by("pk")
    removed = 0
    for server in list(dead.values_list("pk", flat=True)):
        with own_transaction(using):
            removed += LiveConnection.objects.using(using).filter(server_id=server)._raw_delete(using)
            dead.filter(pk=server).order_by()._raw_delete(using)
    return removed + _reap_orphans(using, now)


def _reap_orphans(using: str, now: datetime) -> int:
    """Connections that were attached after their server was reaped, and whose server was not heard of again."""
    servers = ServerProcess.objects.filter(pk=OuterRef("server_id"))
    orphans = LiveConnection.objects.using(using).filter(~Exists(servers), connected_at__lte=lease(now))
    removed = 0
    for chunk in chunks(list(orphans.order_by("pk").values_list("pk", flat=True))):
        removed += LiveConnection.objects.using(using).filter(pk__in=chunk)._raw_delete(using)
    return removed
