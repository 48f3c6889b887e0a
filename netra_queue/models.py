"""The tables. Rows are changed through a store only (``netra_queue.stores``); read them as you like.

A message's life is two writes: INSERT and DELETE. A queue's id is computed from its name (``queue_id``), so that a
send needs no queue row, takes no lock another sender could wait for, and a queue that was removed as idle can never
leave messages behind under an id nobody finds again.
"""

from __future__ import annotations

import hashlib
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext_lazy as _

from .core.message import LossReason, PayloadKind, Priority


def queue_id(name: str) -> int:
    """The id of the queue with this name: 63 bits of its BLAKE2b digest.

    Two names with one id are refused when the second one is used (``DatabaseStore.ensure``), not mixed up.
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def _exact(parameters: Any, connection: BaseDatabaseWrapper) -> Any:
    """MySQL's default collations ignore case, and not every character set of it can hold every character."""
    return {**parameters, "collation": "utf8mb4_bin"} if connection.vendor == "mysql" else parameters


class ExactCharField(models.CharField):  # type: ignore[type-arg]
    """Text that is compared character by character on every database."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        return _exact(super().db_parameters(connection), connection)


class ExactTextField(models.TextField):  # type: ignore[type-arg]
    """Text of any length, kept as it is on every database."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> Any:
        return _exact(super().db_parameters(connection), connection)


class Queue(models.Model):
    """What is known of a queue besides its messages. Removed when it was idle for long."""

    id = models.BigIntegerField(primary_key=True)
    name = ExactCharField(_("name"), max_length=255, unique=True)
    policy = ExactCharField(_("policy"), max_length=100, blank=True, default="")
    created_at = models.DateTimeField(_("created at"))
    seen_at = models.DateTimeField(_("last seen"), null=True)  # a client connected or left; None: never
    idle_since = models.DateTimeField(_("idle since"), db_index=True)  # the same, or the queue's beginning

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")

    def __str__(self) -> str:
        return str(self.name)


class Message(models.Model):
    """One payload accepted for one queue."""

    id = models.BigAutoField(primary_key=True)
    queue = models.ForeignKey(
        Queue, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="messages", verbose_name=_("queue")
    )
    uid = ExactCharField(_("message id"), max_length=32)
    priority = models.SmallIntegerField(_("priority"), choices=[(p.value, p.name.lower()) for p in Priority])
    kind = models.SmallIntegerField(_("payload kind"), choices=[(k.value, k.name.lower()) for k in PayloadKind])
    payload = ExactTextField(_("payload"))
    size = models.IntegerField(_("size in bytes"))
    created_at = models.DateTimeField(_("sent at"))
    expires_at = models.DateTimeField(_("expires at"))

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        indexes = [
            models.Index(fields=["queue", "priority", "id"], name="netra_delivery_order"),
            models.Index(fields=["expires_at"], name="netra_expiry"),
        ]

    def __str__(self) -> str:
        return str(self.uid)


class UsedKey(models.Model):
    """An idempotency key that a queue has seen. Outlives its message, up to the message's time to live."""

    id = models.BigAutoField(primary_key=True)
    queue = models.ForeignKey(Queue, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    digest = ExactCharField(max_length=32)
    uid = ExactCharField(max_length=32)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["queue", "digest"], name="netra_key_once")]

    def __str__(self) -> str:
        return str(self.digest)


class Loss(models.Model):
    """Messages of a queue that were removed before their client acked them, until a client was told.

    Rows are only added and removed, never updated, so that a sender in a long transaction blocks no other one.
    """

    id = models.BigAutoField(primary_key=True)
    queue = models.ForeignKey(Queue, models.DO_NOTHING, db_constraint=False, related_name="losses")
    reason = ExactCharField(max_length=16, choices=[(reason.value, reason.value) for reason in LossReason])
    priority = models.SmallIntegerField(choices=[(p.value, p.name.lower()) for p in Priority])
    count = models.BigIntegerField()
    since = models.DateTimeField()

    class Meta:
        verbose_name = _("loss")
        verbose_name_plural = _("losses")

    def __str__(self) -> str:
        return f"{self.count} {self.reason}"


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

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class LiveConnection(models.Model):
    """An accepted WebSocket, held by a server process. Gone with its process's heartbeat at the latest."""

    id = ExactCharField(primary_key=True, max_length=32)
    queue = models.ForeignKey(Queue, models.DO_NOTHING, db_constraint=False, related_name="connections")
    server = models.ForeignKey(ServerProcess, models.DO_NOTHING, db_constraint=False, related_name="connections")
    client = ExactCharField(_("client"), max_length=64, blank=True, default="")
    connected_at = models.DateTimeField(_("connected since"))

    class Meta:
        verbose_name = _("live connection")
        verbose_name_plural = _("live connections")

    def __str__(self) -> str:
        return str(self.id)
