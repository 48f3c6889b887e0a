"""What a connection keeps in memory: deliveries without an ack, and own sends without room."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .message import Message


@dataclass(slots=True)
class Delivery:
    seq: int
    id: str
    size: int
    at: float
    position: int | None = None
    own: Message | None = None  # kept until the store has it
    persisting: bool = False


@dataclass(slots=True)
class Held:
    message: Message
    at: float
    persisting: bool = False


def chunks(messages: Collection[Message], max_bytes: int) -> Iterator[list[Message]]:
    """Consecutive messages of together at most ``max_bytes``, at least one at a time."""
    chunk: list[Message] = []
    size = 0
    for message in messages:
        if chunk and size + message.payload.size > max_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += message.payload.size
    if chunk:
        yield chunk
