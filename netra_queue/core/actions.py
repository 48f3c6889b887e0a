"""What a connection asks of its host: the actions, and what it wants to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .message import Message
from .wire import CloseCode


class Transmit(NamedTuple):
    """Write this frame. ``last_seq`` is the last delivery in it; tell ``written`` when the server has taken it."""

    frame: str | bytes
    last_seq: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """Read from the store: call ``begin_read``, then ``take`` or ``read_failed``."""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Remove these positions of the queue from the store."""

    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Return:
    """The connection ended before these positions of the queue were acked. ``is_alone``: nothing else was in flight."""

    positions: tuple[int, ...]
    is_alone: bool


@dataclass(frozen=True, slots=True)
class Persist:
    """Append these messages to the store in this order, then call ``persisted`` or ``persist_failed``."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Settle:
    """The client was told of these losses: forget the store's records of them."""

    records: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Close:
    code: CloseCode
    reason: str


Action = Transmit | Read | Acknowledge | Return | Persist | Settle | Close


class ReadRequest(NamedTuple):
    """At most ``limit`` messages of together about ``max_bytes``, without the positions in ``excluded``.

    What has been returned ``alone_from`` times comes alone: nothing is given beside it. What is given is transmitted,
    unless ``is_tentative``: then ``Store.transmit`` is to be called before.
    """

    limit: int
    max_bytes: int
    excluded: frozenset[int]
    alone_from: int | None = None
    is_tentative: bool = False
