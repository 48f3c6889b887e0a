"""The tables. Rows are changed through a store only (``netra_queue.stores``); read them as you like.

A message's life is two writes: INSERT and DELETE. A queue's id is computed from its name (``queue_id``), so that a
send needs no queue row, takes no lock another sender could wait for, and a queue that was removed as idle can never
leave messages behind under an id nobody finds again.
"""

from __future__ import annotations

from datetime import datetime
from enum import IntFlag
from functools import lru_cache
from typing import Any

from django.db import models
from django.utils.translation import gettext_lazy as _

from .alert_models import Alert as Alert  # where Django looks for models
from .alert_models import AlertBook as AlertBook
from .control_models import ControlState as ControlState
from .control_models import PolicyPattern as PolicyPattern
from .control_models import QueuePolicy as QueuePolicy
from .core.message import Fate, LossReason, PayloadKind, Priority, base_of
from .core.rollout import number_of
from .fields import ExactCharField as ExactCharField
from .fields import ExactTextField as ExactTextField
from .fields import SparseIndex as SparseIndex
from .fields import SparseKeyIndex as SparseKeyIndex
from .models_connections import Linger as Linger
from .models_connections import LiveConnection as LiveConnection
from .models_connections import ServerProcess as ServerProcess
from .models_rates import RateBucket as RateBucket
from .models_statistics import Dashboard as Dashboard
from .models_statistics import Statistics as Statistics

REASON_LENGTH = 200
BY_LENGTH = 150  # of Django's user names
KNOWN_IDS = 10_000  # that a process keeps: a message asks for its queue's several times


@lru_cache(maxsize=KNOWN_IDS)
def queue_id(name: str) -> int:
    """The id of the queue with this name: 63 bits of its BLAKE2b digest.

    Two names with one id are refused when the second one is used (``DatabaseStore.ensure``), not mixed up.
    """
    return number_of(name)


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


class Queue(models.Model):
    """What is known of a queue besides its messages. Removed when it was idle for long.

    ``parent``: of a device's line, the queue that it is a line of. A line is in use while ``seen_at`` is neither null
    nor too long ago, or while it has a connection.
    ``paused_at``: since when nothing is given out, of a queue of none of its lines; until ``paused_until``, or until an
    operator resumes it.
    """

    id = models.BigIntegerField(primary_key=True)
    parent = models.ForeignKey(
        "self", models.DO_NOTHING, null=True, db_constraint=False, related_name="lines", verbose_name=_("queue")
    )
    name = ExactCharField(_("name"), max_length=255, unique=True)
    policy = ExactCharField(_("policy"), max_length=100, blank=True, default="")
    is_resolved = models.BooleanField(default=False, db_default=False)  # POLICY_RESOLVER has chosen the policy
    created_at = models.DateTimeField(_("created at"))
    seen_at = models.DateTimeField(_("last seen"), null=True)  # a client connected or left; None: never
    acked_at = models.DateTimeField(null=True)  # the last ack of the connections that have left
    idle_since = models.DateTimeField(_("idle since"), db_index=True)  # the same, or the queue's beginning
    paused_at = models.DateTimeField(_("paused since"), null=True)
    paused_until = models.DateTimeField(_("paused until"), null=True)
    pause_reason = models.CharField(_("reason"), max_length=REASON_LENGTH, blank=True, default="", db_default="")
    paused_by = models.CharField(_("paused by"), max_length=BY_LENGTH, blank=True, default="", db_default="")

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
        default_permissions = ("view",)
        permissions = [
            ("purge_queue", _("Can purge queue")),
            ("pause_queue", _("Can pause and resume queue")),
            ("resend_queue", _("Can have queue looked at again")),
            ("disconnect_queue", _("Can disconnect clients of queue")),
            ("forget_queue", _("Can forget device")),
            ("export_queue", _("Can export messages of queue")),
            ("set_policy_queue", _("Can change policy of queue")),
        ]
        indexes = [SparseKeyIndex(fields=["paused_at"], name="netra_paused_queues")]

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

    ``deliveries``: how many connections ended after it was transmitted and before it was acked. ``not_before``: when it
    may be read, of what was sent above a rate.
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
    not_before = models.DateTimeField(_("not before"), null=True)
    traceparent = models.CharField(max_length=55, null=True)  # noqa: DJ001  NULL takes no room in the row

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
