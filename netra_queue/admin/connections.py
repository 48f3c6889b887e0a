"""Server processes and the connections they hold."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count
from django.utils.translation import gettext_lazy as _

from ..models import LiveConnection, Queue, ServerProcess
from ..stores import current_store
from ..stores.presence import lease
from .base import ReadOnlyAdmin


@admin.register(ServerProcess)
class ServerProcessAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "alive", "held", "started_at", "heartbeat_at")
    ordering = ("-heartbeat_at", "pk")
    fields = ("id", "host", "pid", "started_at", "heartbeat_at")
    readonly_fields = fields

    def complete(self, rows: list[ServerProcess]) -> None:
        cutoff = lease(current_store().now())
        held = LiveConnection.objects.filter(server_id__in=[row.pk for row in rows]).values_list("server_id").order_by()
        counts = dict(held.annotate(Count("pk")))
        for row in rows:
            row.is_alive, row.held = row.heartbeat_at > cutoff, counts.get(row.pk, 0)  # type: ignore[attr-defined]

    @admin.display(description=_("alive"), boolean=True)
    def alive(self, server: Any) -> bool:
        return bool(server.is_alive)

    @admin.display(description=_("connections"))
    def held(self, server: Any) -> int:
        return int(server.held)


@admin.register(LiveConnection)
class LiveConnectionAdmin(ReadOnlyAdmin):
    list_display = ("id", "queue_name", "server_name", "client", "connected_at")
    ordering = ("pk",)
    fields = ("id", "queue_name", "server_name", "client", "connected_at")
    readonly_fields = fields

    def complete(self, rows: list[LiveConnection]) -> None:
        queues = dict(Queue.objects.filter(pk__in={row.queue_id for row in rows}).values_list("pk", "name"))
        servers = ServerProcess.objects.in_bulk({row.server_id for row in rows})
        for row in rows:
            row.known_queue = queues.get(row.queue_id)  # type: ignore[attr-defined]
            row.known_server = servers.get(row.server_id)  # type: ignore[attr-defined]

    @admin.display(description=_("queue"))
    def queue_name(self, row: Any) -> Any:
        if not hasattr(row, "known_queue"):
            self.complete([row])
        return row.known_queue

    @admin.display(description=_("server process"))
    def server_name(self, row: Any) -> Any:
        if not hasattr(row, "known_server"):
            self.complete([row])
        return row.known_server
