"""A client of ``netra-queue.v1`` for services, tests and load. Needs ``websockets``; does not import Django.

async with netra_queue.client.connect("wss://example.com/ws/jobs/", client="worker-1", headers={…}) as queue:
    async for message in queue:
        await work_on(message.data)
"""

from __future__ import annotations

from ..core.message import Priority
from .connecting import connect
from .errors import ClientError, OutboxFull, QueueClosed, Refused
from .queue import NetraQueue
from .storage import FileStorage, Storage
from .values import Lost, Message, State, StateChange

__all__ = [
    "ClientError",
    "FileStorage",
    "Lost",
    "Message",
    "NetraQueue",
    "OutboxFull",
    "Priority",
    "QueueClosed",
    "Refused",
    "State",
    "StateChange",
    "Storage",
    "connect",
]
