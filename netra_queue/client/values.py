"""The values of the client: what its application gets, and what the protocol asks of its host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from ..core.message import Priority


class State(Enum):
    """``WAITING``: for the moment to come back. ``CLOSED``: by ``close``, or refused by the server."""

    CLOSED = "closed"
    CONNECTING = "connecting"
    REPLAYING = "replaying"
    LIVE = "live"
    WAITING = "waiting"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """``data``: what was sent: JSON's values, a text that is not JSON, or bytes.

    ``id``: the same on every redelivery. ``replayed``: it was sent before this connection.
    """

    data: Any
    id: str
    priority: Priority
    sent_at: datetime
    replayed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """``counts`` by reason: ``expired``, ``dropped``, and others when they are not 0 (docs/protocol.md).

    With those that nobody had been told of when the connection began come ``since`` and ``by_priority`` (by reason).
    """

    counts: Mapping[str, int]
    since: datetime | None = None
    by_priority: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChange:
    """``queue`` and ``waiting`` (messages in it) come with REPLAYING, ``code`` and ``reason`` when a connection ended.

    ``seconds``: with WAITING, how long until the next attempt.
    """

    state: State
    queue: str = ""
    waiting: int = 0
    code: int | None = None
    reason: str = ""
    seconds: float = 0.0


@dataclass(eq=False, slots=True)
class Frame:
    """Something for the consumer's receive."""

    text: str


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection. Call ``received`` for its frames, and ``disconnected`` when it has ended or did not open."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Write what was to be written, and close. Nothing is to be heard of this connection any more."""


@dataclass(frozen=True, slots=True)
class Write:
    """``frame``: whose text it is, when it is the application's."""

    text: str
    frame: Frame | None = None


@dataclass(frozen=True, slots=True)
class Handle:
    """Give it to the application, and call ``handled`` or ``failed``."""

    message: Message


@dataclass(frozen=True, slots=True)
class Repeat:
    """It had been handled, and is not handled again."""

    message: Message


@dataclass(frozen=True, slots=True)
class Save:
    """Keep the ids in ``seen``, before they are acked."""


Action = Connect | Disconnect | Write | Handle | Repeat | Save | StateChange | Lost
