"""What the client raises.

NetraQueueError
└── ClientError
    ├── Refused        the server closed with a code 44xx: the same client is not let in again
    ├── QueueClosed    the queue was closed, here
    └── OutboxFull     too much waits for a connection
"""

from __future__ import annotations

from ..exceptions import NetraQueueError


class ClientError(NetraQueueError):
    """The base of the client's errors."""


class Refused(ClientError):
    """The server closed with ``code`` (44xx, docs/protocol.md). Coming back without a change would not help."""

    def __init__(self, code: int, reason: str = "") -> None:
        self.code, self.reason = code, reason
        super().__init__(code, reason)

    def __str__(self) -> str:
        return f"the server refused this client: {self.code}{f' ({self.reason})' if self.reason else ''}"


class QueueClosed(ClientError):
    """The queue was closed before this was written to a connection."""

    def __str__(self) -> str:
        return "the queue is closed"


class OutboxFull(ClientError):
    """So much waits for a connection that no more is kept: ``frames`` of together ``characters``."""

    def __init__(self, *, frames: int, characters: int) -> None:
        self.frames, self.characters = frames, characters
        super().__init__(frames, characters)

    def __str__(self) -> str:
        return f"too much is waiting to be sent: {self.frames} frames of {self.characters} characters"
