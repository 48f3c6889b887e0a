"""The part of the database store that is about what operators see of connections."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from ..models import LiveConnection, ServerProcess, queue_id
from .base import Store
from .connecting import run
from .presence import lease
from .rows import CHUNK, chunks
from .values import Connected, Detail

COLUMNS = ("window", "unacked", "acked_at", "told_at")


class DatabaseConnections(Store):
    """See ``Store``."""

    using: str

    def connected(self, queues: Collection[str], limit: int) -> list[Connected]:
        now = self.now()
        return run(self.using, lambda: _connected(self.using, queues, limit, now))

    def tell_details(self, details: Collection[Detail]) -> None:
        now = self.now()
        run(self.using, lambda: _tell(self.using, details, now))

    def details(self, connections: Collection[str]) -> dict[str, Detail]:
        return run(self.using, lambda: _details(self.using, sorted(connections)))


def _connected(using: str, queues: Collection[str], limit: int, now: datetime) -> list[Connected]:
    names, rows = {queue_id(name): name for name in queues}, list[LiveConnection]()
    for chunk in chunks(sorted(names)):
        found = LiveConnection.objects.using(using).filter(queue_id__in=chunk).order_by("queue_id", "pk")
        rows += found[: limit - len(rows)]
    servers = ServerProcess.objects.using(using).in_bulk({row.server_id for row in rows})
    return [_shown(row, names[row.queue_id], servers, now) for row in rows]


def _shown(row: LiveConnection, queue: str, servers: Mapping[str, ServerProcess], now: datetime) -> Connected:
    server = servers.get(row.server_id)
    return Connected(
        id=row.pk,
        queue=queue,
        server=row.server_id,
        place=str(server or row.server_id),
        client=row.client,
        since=row.connected_at,
        is_alive=server is not None and server.heartbeat_at > lease(now),
    )


def _tell(using: str, details: Collection[Detail], now: datetime) -> None:
    """In the order of their keys, as everybody takes rows."""
    rows = [
        LiveConnection(
            pk=detail.connection, window=detail.window, unacked=detail.unacked, acked_at=detail.acked_at, told_at=now
        )
        for detail in sorted(details, key=lambda detail: detail.connection)
    ]
    LiveConnection.objects.using(using).bulk_update(rows, COLUMNS, batch_size=CHUNK)


def _details(using: str, connections: Sequence[str]) -> dict[str, Detail]:
    found: dict[str, Detail] = {}
    for chunk in chunks(connections):
        for row in LiveConnection.objects.using(using).filter(pk__in=chunk, told_at__isnull=False):
            found[row.pk] = Detail(
                connection=row.pk,
                window=row.window or 0,
                unacked=row.unacked or 0,
                acked_at=row.acked_at,
                told_at=row.told_at,
            )
    return found
