"""The one consumer of the example. Everything it needs is in the mixin."""

from __future__ import annotations

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from netra_queue.consumers import AsyncQueueMixin


class Notifications(AsyncQueueMixin, AsyncJsonWebsocketConsumer):
    """Whatever is sent to the user's queue reaches the page, whether or not it is connected at the time."""
