"""The frames with messages of one connection, and the numbers of the deliveries in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from . import wire
from .actions import Transmit
from .message import Message
from .wire import Mode


@dataclass(slots=True)
class Numbering:
    """``opened_at``: the store's time when it got to know the connection; what it had before counts as replayed."""

    mode: Mode
    next_seq: int = 1
    opened_at: datetime | None = None

    def transmit(self, messages: Sequence[Message], *, own: bool) -> Transmit:
        """A frame with these; in raw mode, with one message. Their deliveries have the next numbers."""
        seq, self.next_seq = self.next_seq, self.next_seq + len(messages)
        if self.mode is Mode.RAW:
            return Transmit(wire.plain_frame(messages[0].payload), seq)
        entries = ((message, not own and self._is_replayed(message)) for message in messages)
        return Transmit(wire.messages(seq, entries), self.next_seq - 1)

    def _is_replayed(self, message: Message) -> bool:
        return self.opened_at is not None and message.created_at < self.opened_at
