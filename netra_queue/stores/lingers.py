"""The rows of consumers that linger.

All but ``still_there`` and ``remove_over`` belong to a transaction of the caller's, in which the rows of the queues
concerned, or of the server, are taken first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from ..models import Linger
from .connecting import own_transaction
from .rows import chunks
from .values import Presence


def insert(using: str, by_queue: Mapping[int, tuple[Presence, float]], now: datetime) -> None:
    """``by_queue``: who lingers for each queue's id, and for how many seconds."""
    rows = [
        Linger(id=presence.id, queue_id=id, server_id=presence.server.id, until=now + timedelta(seconds=seconds))
        for id, (presence, seconds) in sorted(by_queue.items())
    ]
    Linger.objects.using(using).bulk_create(rows, ignore_conflicts=True)


def take(using: str, queues: Collection[int]) -> dict[int, tuple[str, ...]]:
    """Remove those of these queues. Returns the ids of their servers, for each queue."""
    servers: dict[int, set[str]] = {queue: set() for queue in queues}
    for chunk in chunks(sorted(queues)):
        rows = Linger.objects.using(using).filter(queue_id__in=chunk).order_by("pk")
        found = list(rows.values_list("pk", "queue_id", "server_id"))
        remove(using, [id for id, _, _ in found])
        for _, queue, server in found:
            servers[queue].add(server)
    return {queue: tuple(sorted(of)) for queue, of in servers.items()}


def remove(using: str, ids: Collection[str]) -> None:
    for chunk in chunks(sorted(ids)):
        Linger.objects.using(using).filter(pk__in=chunk)._raw_delete(using)


def remove_of_server(using: str, server: str) -> None:
    remove(using, list(Linger.objects.using(using).filter(server_id=server).values_list("pk", flat=True)))


def remove_over(using: str, now: datetime) -> None:
    """Those whose time is over and whose server did not say so: it was killed, or could not reach the database."""
    over = list(Linger.objects.using(using).filter(until__lte=now).values_list("pk", flat=True))
    for chunk in chunks(sorted(over)):
        with own_transaction(using):
            remove(using, chunk)


def still_there(using: str, ids: Collection[str]) -> set[str]:
    found: set[str] = set()
    for chunk in chunks(sorted(ids)):
        found.update(Linger.objects.using(using).filter(pk__in=chunk).values_list("pk", flat=True))
    return found
