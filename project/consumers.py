"""The one consumer of the example. Everything it needs is in the mixin; the rest is for the page's "server restart"."""

from __future__ import annotations

import asyncio
from weakref import WeakSet

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from netra_queue.consumers import AsyncQueueMixin

RESTARTING = 4512  # a server says 1012, but Daphne lets no application say that
_connected: WeakSet[Notifications] = WeakSet()


class Notifications(AsyncQueueMixin, AsyncJsonWebsocketConsumer):
    """Whatever is sent to the user's queue reaches the page, whether or not it is connected at the time."""

    queue_policy = "page"

    async def connect(self) -> None:
        _connected.add(self)
        await super().connect()

    async def queue_disconnected(self, close_code: int | None) -> None:
        _connected.discard(self)


async def close_all() -> int:
    """Close every WebSocket of this process, as a restart does. Returns how many there were."""
    consumers = list(_connected)
    _connected.clear()
    await asyncio.gather(*(consumer.close(RESTARTING) for consumer in consumers), return_exceptions=True)
    return len(consumers)
