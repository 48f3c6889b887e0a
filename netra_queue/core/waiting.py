"""Messages as a project's own code sees them: what waits, before it is transmitted."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .message import Message, Payload, PayloadKind, Priority
from .wire import plain_frame


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingMessage:
    """A message of a queue, for ``queue_may_deliver`` and ``DIGEST``."""

    id: str
    priority: Priority
    sent_at: datetime
    payload: Payload = field(repr=False)

    @property
    def data(self) -> Any:
        """What was sent: decoded JSON, or the text or bytes of a frame that was no JSON. Decoded at each call."""
        return json.loads(self.payload.text) if self.payload.kind is PayloadKind.JSON else plain_frame(self.payload)


def waiting(message: Message) -> WaitingMessage:
    return WaitingMessage(id=message.id, priority=message.priority, sent_at=message.created_at, payload=message.payload)
