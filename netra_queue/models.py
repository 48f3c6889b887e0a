"""The tables. Rows are changed through a store only (``netra_queue.stores``); read them as you like.

A message's life is two writes: INSERT and DELETE. A queue's id is computed from its name (``queue_id``), so that a
send needs no queue row, takes no lock another sender could wait for, and a queue that was removed as idle can never
leave messages behind under an id nobody finds again.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import IntFlag
from functools import lru_cache
from typing import Any

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext_lazy as _

from .core.message import Fate, LossReason, PayloadKind, Priority, base_of

KNOWN_IDS = 10_000  # that a process keeps: a message asks for its queue's several times


@lru_cache(maxsize=KNOWN_IDS)
def queue_id(name: str) -> int:
    """The id of the queue with this name: 63 bits of its BLAKE2b digest.

    Two names with one id are refused when the second one is used (``DatabaseStore.ensure``), not mixed up.
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def group_id(name: str) -> int:
    """The id of the group with this name."""
    return queue_id(group_address(name))


def group_address(group: str) -> str:
    """What a group is called where queues are named. No queue's name begins with a slash."""
    return f"/group/{group}"


class Flag(IntFlag):
    """What removing a message has to see to. Most messages have none, and cost nothing more."""

    TRACKED = 1  # its outcome is kept (TrackedMessage)
    COLLAPSING = 2  # a newer one of its collapse key takes its place (CollapseSlot)
    TRANSMITTED = 4  # it was read for a connection; kept up to date for tracked and collapsing ones only
    FIRST = 8  # the first line to ack it takes it off the others
    WATCHED = 16  # handed over when nobody has acked it in time (Watch)


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


class SparseIndex(models.Index):
    """An index on one column that is mostly null, without the nulls where the database can leave them out.

    The condition is no attribute: Django would warn of it on MariaDB and MySQL, and make no index at all.
    """

    def create_sql(self, model: Any, schema_editor: Any, using: str = "", **kwargs: Any) -> Any:
        if not schema_editor.connection.features.supports_partial_indexes:
            return super().create_sql(model, schema_editor, using, **kwargs)
        is_set = models.Q(**{f"{self.fields[0]}__isnull": False})
        partial = models.Index(fields=self.fields, name=self.name, condition=is_set)
        return partial.create_sql(model, schema_editor, using, **kwargs)


class Queue(models.Model):
    """What is known of a queue besides its messages. Removed when it was idle for long.

    ``parent``: of a device's line, the queue that it is a line of. A line is in use while ``seen_at`` is neither null
    nor too long ago, or while it has a connection.
    """

    id = models.BigIntegerField(primary_key=True)
    parent = models.ForeignKey(
        "self", models.DO_NOTHING, null=True, db_constraint=False, related_name="lines", verbose_name=_("queue")
    )
    name = ExactCharField(_("name"), max_length=255, unique=True)
    policy = ExactCharField(_("policy"), max_length=100, blank=True, default="")
    created_at = models.DateTimeField(_("created at"))
    seen_at = models.DateTimeField(_("last seen"), null=True)  # a client connected or left; None: never
    idle_since = models.DateTimeField(_("idle since"), db_index=True)  # the same, or the queue's beginning

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
        default_permissions = ("view",)
        permissions = [("purge_queue", _("Can purge queue"))]

    def __str__(self) -> str:
        return str(self.name)


def new_queue(name: str, now: datetime, **fields: Any) -> Queue:
    """The row of a queue, or of a line, that nobody has written yet."""
    base = base_of(name)
    parent = None if base == name else queue_id(base)
    return Queue(id=queue_id(name), name=name, parent_id=parent, created_at=now, idle_since=now, **fields)


class Body(models.Model):
    """A payload that several messages share. Goes with the last of them, at the latest some time after it expired.

    ``id``: random, so that it is known before the row is written. Below zero, more messages shared it than are looked
    for with each removal: upkeep removes it.
    """

    id = models.BigIntegerField(primary_key=True)
    payload = ExactTextField(_("payload"))
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.id)


class Message(models.Model):
    """One payload accepted for one queue. ``payload`` is empty when it has a ``body``, which has the text then.

    ``deliveries``: how many connections ended after it was transmitted and before it was acked.
    """

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
    body = models.ForeignKey(Body, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+")
    flags = models.SmallIntegerField(default=0, db_default=0)
    deliveries = models.SmallIntegerField(_("deliveries"), default=0, db_default=0)

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        default_permissions = ("view",)
        permissions = [("view_payload", _("Can view the payload of a message"))]
        indexes = [
            models.Index(fields=["queue", "priority", "id"], name="netra_delivery_order"),
            models.Index(fields=["expires_at"], name="netra_expiry"),
            SparseIndex(fields=["body"], name="netra_shared_body"),
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
        default_permissions = ()
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
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.count} {self.reason}"


class CollapseSlot(models.Model):
    """Where the newest message of a collapse key is, and how many it has superseded."""

    id = models.BigAutoField(primary_key=True)
    queue = models.ForeignKey(Queue, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    digest = ExactCharField(max_length=32)
    position = models.BigIntegerField()
    superseded = models.BigIntegerField(default=0)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["queue", "digest"], name="netra_collapse_once")]

    def __str__(self) -> str:
        return str(self.digest)


class TrackedMessage(models.Model):
    """What became of a message that was sent with ``track=True``. Outlives the message."""

    id = models.BigAutoField(primary_key=True)
    uid = ExactCharField(max_length=32, unique=True)
    queue = models.ForeignKey(Queue, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+")
    body = models.ForeignKey(Body, models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    fate = ExactCharField(max_length=16, blank=True, default="", choices=[(fate.value, fate.value) for fate in Fate])
    keep_until = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.uid)


class Watch(models.Model):
    """A message that is handed to the policy's ``ON_UNDELIVERED`` unless somebody has acked it by ``due_at``."""

    id = models.BigAutoField(primary_key=True)
    uid = ExactCharField(max_length=32, unique=True)
    name = ExactCharField(max_length=255)  # the queue's; its row may be forgotten by then
    policy = ExactCharField(max_length=100)  # the queue's, when it was sent
    body = models.ForeignKey(Body, models.DO_NOTHING, db_constraint=False, related_name="+")
    priority = models.SmallIntegerField()
    kind = models.SmallIntegerField()
    created_at = models.DateTimeField()
    due_at = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.uid)


class DeadLetter(models.Model):
    """A message that was set aside for the operator."""

    id = models.BigAutoField(primary_key=True)
    queue = models.ForeignKey(
        Queue,
        models.DO_NOTHING,
        db_constraint=False,
        db_index=False,
        related_name="dead_letters",
        verbose_name=_("queue"),
    )
    uid = ExactCharField(_("message id"), max_length=32)
    reason = ExactCharField(_("reason"), max_length=16, choices=[(reason.value, reason.value) for reason in LossReason])
    priority = models.SmallIntegerField(_("priority"), choices=[(p.value, p.name.lower()) for p in Priority])
    kind = models.SmallIntegerField(_("payload kind"), choices=[(k.value, k.name.lower()) for k in PayloadKind])
    payload = ExactTextField(_("payload"))
    size = models.IntegerField(_("size in bytes"))
    deliveries = models.SmallIntegerField(_("deliveries"), default=0)
    created_at = models.DateTimeField(_("sent at"))
    expires_at = models.DateTimeField(_("expires at"))
    died_at = models.DateTimeField(_("set aside at"))
    keep_until = models.DateTimeField(_("kept until"), db_index=True)

    class Meta:
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        default_permissions = ("view", "delete")
        permissions = [("requeue_deadletter", _("Can requeue dead letter"))]
        indexes = [
            models.Index(fields=["queue", "id"], name="netra_letters_of_queue"),
            models.Index(fields=["reason", "id"], name="netra_letters_by_reason"),
        ]

    def __str__(self) -> str:
        return str(self.uid)


class Group(models.Model):
    """A durable group of queues."""

    id = models.BigIntegerField(primary_key=True)
    name = ExactCharField(_("name"), max_length=255, unique=True)
    created_at = models.DateTimeField(_("created at"))

    class Meta:
        verbose_name = _("group")
        verbose_name_plural = _("groups")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return str(self.name)


class Membership(models.Model):
    """A queue's subscription to a group."""

    id = models.BigAutoField(primary_key=True)
    group = models.ForeignKey(Group, models.DO_NOTHING, db_constraint=False, db_index=False, related_name="memberships")
    queue = models.ForeignKey(Queue, models.DO_NOTHING, db_constraint=False, related_name="memberships")
    created_at = models.DateTimeField(_("since"))

    class Meta:
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")
        default_permissions = ("view",)
        constraints = [models.UniqueConstraint(fields=["group", "queue"], name="netra_member_once")]

    def __str__(self) -> str:
        return f"{self.queue_id} in {self.group_id}"


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
    """An accepted WebSocket, held by a server process. Gone with its process's heartbeat at the latest."""

    id = ExactCharField(primary_key=True, max_length=32)
    queue = models.ForeignKey(Queue, models.DO_NOTHING, db_constraint=False, related_name="connections")
    server = models.ForeignKey(ServerProcess, models.DO_NOTHING, db_constraint=False, related_name="connections")
    client = ExactCharField(_("client"), max_length=64, blank=True, default="")
    connected_at = models.DateTimeField(_("connected since"))

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
    queue = models.ForeignKey(Queue, models.DO_NOTHING, db_constraint=False, related_name="+")
    server = models.ForeignKey(ServerProcess, models.DO_NOTHING, db_constraint=False, related_name="+")
    until = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.id)
