"""The mixins for Channels' generic WebSocket consumers.

    class Notifications(AsyncQueueMixin, AsyncJsonWebsocketConsumer): ...
    class Notifications(QueueMixin, JsonWebsocketConsumer): ...

Put the mixin first. It wraps ``receive`` and ``send`` of the ASGI call itself, so that ``send_json``, ``close``,
``accept`` and whatever a subclass adds go through it, and overrides none of the consumer's own methods.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from . import wakeup
from .exceptions import NotAuthenticated
from .sending import queue_of
from .session import Session

if TYPE_CHECKING:

    class _Consumer:
        scope: dict[str, Any]
        channel_layer: Any
        channel_name: str
        groups: list[str]

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...
else:
    _Consumer = object


class _BaseQueueMixin(_Consumer):
    queue_policy = "default"
    """Name of the policy of this consumer's queues (NETRA_QUEUE["POLICIES"])."""

    queue_persist = "on_disconnect"
    """What the consumer sends itself: "on_disconnect" keeps it in memory until it is acked, for a second at most;
    "always" stores it before it is transmitted."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await super().__call__(scope, receive, send)
            return
        session = Session(
            scope,
            receive,
            send,
            find_queue=self._netra_find_queue,
            choices=lambda: (self.queue_policy, self.queue_persist),
        )
        try:
            await super().__call__(scope, session.receive, session.send)
            await session.finish()
        finally:
            await session.abandon()

    async def _netra_find_queue(self) -> str | None:
        raise NotImplementedError

    @property
    def channel_receive(self) -> Callable[[], Awaitable[Any]]:
        return self._netra_channel_receive

    @channel_receive.setter
    def channel_receive(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """Channels sets this before it receives: an error of the layer shall not end the connection (PITFALLS 20)."""
        self._netra_channel_receive = wakeup.patient(receive, self._netra_rejoin)

    async def _netra_rejoin(self) -> None:
        for group in self.groups or ():
            await self.channel_layer.group_add(group, self.channel_name)


class AsyncQueueMixin(_BaseQueueMixin):
    """For AsyncWebsocketConsumer and AsyncJsonWebsocketConsumer."""

    async def get_queue(self) -> str | None:
        """The name of the queue of this connection; None: no queue, plain Channels.

        Called once, after ``accept()``. Raise NotAuthenticated (closes with 4401) or Django's PermissionDenied (4403)
        to refuse the client. Never take a name from the client unchecked.
        """
        return default_queue(self.scope)

    async def _netra_find_queue(self) -> str | None:
        return await self.get_queue()


class QueueMixin(_BaseQueueMixin):
    """For WebsocketConsumer and JsonWebsocketConsumer."""

    def get_queue(self) -> str | None:
        """As for AsyncQueueMixin. Called in the thread in which the consumer runs; may use the database."""
        return default_queue(self.scope)

    async def _netra_find_queue(self) -> str | None:
        return await sync_to_async(self.get_queue, thread_sensitive=True)()


def default_queue(scope: dict[str, Any]) -> str:
    """``user.<pk>``. Raises NotAuthenticated without an authenticated user in the scope."""
    user = scope.get("user")
    if user is None or not user.is_authenticated:
        raise NotAuthenticated
    return queue_of(user)
