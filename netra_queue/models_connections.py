"""Who is connected: server processes, their connections, and consumers that linger."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from .fields import ExactCharField


class ServerProcess(models.Model):
    """A server process that holds connections. Alive while its heartbeat is recent."""

    id = ExactCharField(primary_key=True, max_length=32)
    host = models.CharField(_("host"), max_length=255)
    pid = models.IntegerField(_("process id"))
    started_at = models.DateTimeField(_("started at"))
    heartbeat_at = models.DateTimeField(_("heartbeat"), db_index=True)

    class Meta:
        verbose_name = _("server process")
        verbose_name_plural = _("server processes")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class LiveConnection(models.Model):
    """An accepted WebSocket, held by a server process. Gone with its process's heartbeat at the latest.

    ``window``, ``unacked``, ``acked_at``: what its process said at ``told_at``, when an operator had it asked.
    """

    id = ExactCharField(primary_key=True, max_length=32)
    queue = models.ForeignKey("netra_queue.Queue", models.DO_NOTHING, db_constraint=False, related_name="connections")
    server = models.ForeignKey(ServerProcess, models.DO_NOTHING, db_constraint=False, related_name="connections")
    client = ExactCharField(_("client"), max_length=64, blank=True, default="")
    connected_at = models.DateTimeField(_("connected since"))
    leave_seconds = models.FloatField(null=True)  # an operator sends it away, to come back so late at the earliest
    window = models.IntegerField(null=True)
    unacked = models.IntegerField(null=True)
    acked_at = models.DateTimeField(null=True)
    told_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name = _("live connection")
        verbose_name_plural = _("live connections")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return str(self.id)


class Linger(models.Model):
    """A consumer whose client is gone and that goes on listening to its groups, in a server process. The id is that of
    the connection that was.
    """

    id = ExactCharField(primary_key=True, max_length=32)
    queue = models.ForeignKey("netra_queue.Queue", models.DO_NOTHING, db_constraint=False, related_name="+")
    server = models.ForeignKey(ServerProcess, models.DO_NOTHING, db_constraint=False, related_name="+")
    until = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.id)
