"""The values that travel: payloads, messages, receipts, losses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, IntEnum
from typing import NamedTuple

QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,149}", re.ASCII)
CLIENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
SENDER = re.compile(r"[A-Za-z0-9._-]{1,50}", re.ASCII)
SENDER_NAME = "1 to 50 of A-Z a-z 0-9 . _ -"
MAX_KEY_LENGTH = 200
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def line_name(queue: str, client: str) -> str:
    """The name of the line of the client (or device) with this id under a queue; without an id, the queue itself."""
    return f"{queue}/{client}" if client else queue


def base_of(name: str) -> str:
    """The queue that this is a line of; of a queue, the queue itself."""
    return name.partition("/")[0]


def client_of(line: str) -> str:
    """The client's id in a line's name; '' for a queue's."""
    return line.partition("/")[2]


class Priority(IntEnum):
    """How urgent a message is. Ascending order is delivery order, so an index scan delivers."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


class PayloadKind(IntEnum):
    """How the stored text of a payload is to be read."""

    JSON = 0  # the JSON document itself, as it was encoded by the sender
    TEXT = 1  # a JSON string literal around a text frame that is not JSON
    BYTES = 2  # base64 of a binary frame


class Payload(NamedTuple):
    """A payload, encoded once. ``text`` is what is stored, and what is written into frames verbatim."""

    kind: PayloadKind
    text: str
    size: int  # bytes of ``text`` in UTF-8


class Draft(NamedTuple):
    """A message on its way into a store: accepted by ``sending``, without a place in the order yet.

    ``sent_at``: when it was sent, if that was before it came to the store; its time to live counts from there.
    """

    queue: str
    id: str
    payload: Payload
    priority: Priority
    ttl_seconds: float
    key: str | None = None
    sent_at: datetime | None = None
    deliver_first: bool = False  # the first line to ack it takes it off the others
    collapse: str | None = None  # it takes the place of the waiting one of this collapse key
    track: bool = False  # what becomes of it is kept
    not_before: datetime | None = None  # it is not delivered before; None: at once
    traceparent: str | None = None  # W3C text of the context in which it was sent, where that is traced


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupDraft:
    """A message on its way to all queues of a group. ``ttl_seconds``: None means what each queue's policy says."""

    group: str
    id: str
    payload: Payload
    priority: Priority
    ttl_seconds: float | None = None
    key: str | None = None
    traceparent: str | None = None


class Message(NamedTuple):
    """A message as a store gives it back. ``position`` is its place in the store's order, unique in the store.

    As ``Payload``, a tuple, which is made in a quarter of the time: a replay makes thousands of them.
    """

    position: int
    id: str
    payload: Payload
    priority: Priority
    created_at: datetime
    deliveries: int = 0  # connections that ended after it was transmitted and before it was acked
    traceparent: str | None = None


class Outcome(Enum):
    """What became of a send."""

    QUEUED = "queued"
    DROPPED = "dropped"  # the queue was full, and the policy chose this message as the one to go
    DUPLICATE = "duplicate"  # the idempotency key was used before; the first message stands
    LIVE_ONLY = "live_only"  # given to connected clients only, without a durable copy
    SUPERSEDED = "superseded"  # a later message of the same call has the same collapse key


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """The sender's proof. ``id`` is the message's id on the wire; for a duplicate, the id of the first message."""

    id: str
    queue: str
    outcome: Outcome
    tracked: bool = False  # it was sent with track=True
    not_before: datetime | None = None  # it was sent above its rate, and is delivered from then on; None: at once


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupReceipt:
    """The sender's proof. ``id`` is the message's id on the wire, the same for all recipients; for a duplicate, the id
    of the first message. ``recipients``: in how many queues it was put, a user's devices being one; 0 for a duplicate.
    """

    id: str
    group: str
    outcome: Outcome
    recipients: int


class LossReason(Enum):
    """Why a message was removed before its client acked it."""

    EXPIRED = "expired"
    DROPPED = "dropped"
    DEAD = "dead"  # transmitted again and again without an ack, and set aside
    WITHHELD = "withheld"  # the consumer said that this client may not see it
    LEFT_OUT = "left_out"  # the policy's replay leaves it out
    UNPROTECTED = "unprotected"  # sent while the store was away: given to who was connected, and not kept


class Fate(Enum):
    """Why a message is not in its queue any more. Those with the value of a LossReason are losses."""

    ACKED = "acked"
    SUPERSEDED = "superseded"  # a newer one of the same collapse key took its place
    EXPIRED = "expired"
    DROPPED = "dropped"
    DEAD = "dead"
    WITHHELD = "withheld"
    LEFT_OUT = "left_out"
    MISSED = "missed"  # in shadow mode: it would have been replayed, and no connection had been sent it,
    UNCONFIRMED = "unconfirmed"  # or one had, without an ack

    @property
    def loss(self) -> LossReason | None:
        """None: its client has it, or has never been promised it."""
        return LossReason(self.value) if self.value in _LOSSES else None


_LOSSES = {reason.value for reason in LossReason}


@dataclass(frozen=True, kw_only=True, slots=True)
class Losses:
    """What a queue lost and no client has been told of yet.

    ``counts`` is keyed by reason and priority. ``records`` names the store's records behind the counts: they are
    forgotten (``Store.settle``) once a client has shown that it was told.
    """

    counts: Mapping[tuple[LossReason, Priority], int] = field(default_factory=dict)
    since: datetime | None = None
    records: tuple[int, ...] = ()

    def total(self, reason: LossReason) -> int:
        return sum(count for (of, _), count in self.counts.items() if of is reason)

    def by_priority(self, reason: LossReason) -> dict[str, int]:
        """Counts by the priority's wire name, without zeros."""
        return {p.name.lower(): n for (of, p), n in sorted(self.counts.items(), key=lambda i: i[0][1]) if of is reason}

    def __bool__(self) -> bool:
        return bool(self.counts)
