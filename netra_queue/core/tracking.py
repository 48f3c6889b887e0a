"""What became of a message: the values that senders, receivers of signals and ``ON_UNDELIVERED`` are given."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from .message import Fate, Priority


class MessageState(Enum):
    """How far a message has come. Those with the value of a Fate are ends, and only ACKED may follow another end."""

    QUEUED = "queued"  # it waits, and no connection has been sent it
    DELIVERED = "delivered"  # some connection was sent it, and nobody has acked it yet
    ACKED = "acked"  # a client has processed it
    EXPIRED = "expired"
    DROPPED = "dropped"
    SUPERSEDED = "superseded"
    DEAD = "dead"
    WITHHELD = "withheld"
    LEFT_OUT = "left_out"
    MISSED = "missed"
    UNCONFIRMED = "unconfirmed"


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageStatus:
    """A tracked message as it stands. Times are the store's; ``delivered_at`` is the first time it was transmitted."""

    state: MessageState
    sent_at: datetime
    delivered_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def has_ended(self) -> bool:
        return self.state not in (MessageState.QUEUED, MessageState.DELIVERED)

    def has_reached(self, state: MessageState) -> bool:
        """Whether it is in this state, or was delivered on its way to where it is."""
        return self.state is state or (state is MessageState.DELIVERED and self.delivered_at is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracked:
    """What a store keeps of a tracked message. Once it has ended, until ``keep_seconds`` later."""

    sent_at: datetime
    expires_at: datetime
    keep_seconds: float
    delivered_at: datetime | None = None
    ended_at: datetime | None = None
    fate: Fate | None = None

    @property
    def keep_until(self) -> datetime:
        return (self.ended_at or self.expires_at) + timedelta(seconds=self.keep_seconds)

    def status(self, now: datetime) -> MessageStatus:
        """A message that has expired before anybody was sent it is expired, whether or not it was removed yet."""
        state, ended_at = MessageState.QUEUED, self.ended_at
        if self.fate is not None:
            state = MessageState(self.fate.value)
        elif self.delivered_at is not None:
            state = MessageState.DELIVERED
        elif self.expires_at <= now:
            state, ended_at = MessageState.EXPIRED, self.expires_at
        return MessageStatus(state=state, sent_at=self.sent_at, delivered_at=self.delivered_at, ended_at=ended_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedMessage:
    """A message that has left a line, as signals tell it. ``client``: the line's device; '' for the queue itself."""

    id: str
    queue: str
    client: str
    priority: Priority


@dataclass(frozen=True, kw_only=True, slots=True)
class UndeliveredMessage:
    """A message that nobody has acked in time. ``data``: what was sent, decoded from its JSON; bytes as bytes."""

    id: str
    queue: str
    priority: Priority
    sent_at: datetime
    data: Any
