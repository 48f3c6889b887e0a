"""The mixins for Channels' generic WebSocket consumers.

    class Notifications(AsyncQueueMixin, AsyncJsonWebsocketConsumer): ...
    class Notifications(QueueMixin, JsonWebsocketConsumer): ...

Put the mixin first. It wraps ``receive`` and ``send`` of the ASGI call itself, so that ``send_json``, ``close``,
``accept`` and whatever a subclass adds go through it. ``channel_layer`` and
``channel_receive``, which Channels sets on a consumer, are wrapped; the methods that projects override are left alone.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from asgiref.sync import sync_to_async
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.db import database_sync_to_async

from . import conf, hearing
from .core.waiting import WaitingMessage
from .endpoint import Endpoint
from .exceptions import InvalidMessage, NotAuthenticated
from .group_memory import GroupMemory
from .groups import check_groups
from .lingering import Departure, check_seconds
from .permission import in_own_context
from .sending import queue_of

if TYPE_CHECKING:

    class _Consumer:
        scope: dict[str, Any]
        channel_name: str

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...
else:
    _Consumer = object


def _check_class(cls: type[_BaseQueueMixin]) -> None:
    """Raises TypeError for a class whose clients would be served wrongly, or not at all, ValueError for an impossible
    time."""
    if not issubclass(cls, AsyncConsumer):
        return
    mixin = AsyncQueueMixin if issubclass(cls, AsyncQueueMixin) else QueueMixin
    if issubclass(cls, SyncConsumer) is not issubclass(cls, QueueMixin):
        raise TypeError(f"{cls.__name__}: AsyncQueueMixin is for the asynchronous consumers, QueueMixin for the others")
    first = next(base for base in cls.__mro__ if base is mixin or base.__module__.startswith("channels."))
    if first is not mixin:
        raise TypeError(f"{cls.__name__}: name {mixin.__name__} before {first.__name__}, so that it wraps the consumer")
    for name in ("get_queue", "queue_disconnected", "queue_may_deliver"):
        if issubclass(cls, QueueMixin) and inspect.iscoroutinefunction(getattr(cls, name)):
            raise TypeError(f"{cls.__name__}: expected def {name}, without async")
    if not hasattr(cls.queue_linger_seconds, "__get__"):  # a property tells when there is a consumer
        check_seconds(cls.queue_linger_seconds)
    try:
        check_groups(() if isinstance(cls.queue_groups, property) else cls.queue_groups)
    except (TypeError, InvalidMessage) as error:
        raise TypeError(f"{cls.__name__}: queue_groups: {error}") from error


class _BaseQueueMixin(_Consumer):
    get_queue: Callable[..., Any]
    queue_disconnected: Callable[..., Any]
    queue_may_deliver: Callable[..., Any]
    _netra_channel_layer: Any

    queue_policy = "default"
    """Name of the policy of this consumer's queues (NETRA_QUEUE["POLICIES"])."""

    queue_persist = "on_disconnect"
    """What the consumer sends itself: "on_disconnect" keeps it in memory until it is acked, for a second at most;
    "always" stores it before it is transmitted."""

    queue_linger_seconds: float = 30
    """How long the consumer goes on listening to its groups when its client is gone. 0: not at all."""

    queue_groups: Sequence[str] = ()
    """Durable groups that the queue is subscribed to when a client connects; it stays so when the client leaves."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check_class(cls)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await super().__call__(scope, receive, send)
            return
        endpoint = Endpoint(
            scope,
            receive,
            send,
            find_queue=self._netra_find_queue,
            choices=lambda: (self.queue_policy, self.queue_persist),
            departure=self._netra_departure(),
            find_groups=lambda: self.queue_groups,
            resolve=self._netra_resolve,
            may_deliver=in_own_context(self._netra_may_deliver) if self._netra_has_a_say() else None,
        )
        await endpoint.run(functools.partial(super().__call__, scope, endpoint.receive, endpoint.send))

    async def _netra_find_queue(self) -> str | None:
        return default_queue(self.scope)

    async def _netra_resolve(self) -> str | None:
        """What POLICY_RESOLVER says of the connection's user. Raises what that raises."""
        user, resolver = self.scope.get("user"), conf.resolver()
        if resolver is None or user is None or not user.is_authenticated:
            return None
        if not inspect.iscoroutinefunction(resolver):
            resolver = database_sync_to_async(resolver, thread_sensitive=False)
        return cast("str | None", await resolver(user))

    def _netra_has_a_say(self) -> bool:
        """Whether the project has overridden ``queue_may_deliver``: otherwise nothing is asked, and nothing costs."""
        defaults = (AsyncQueueMixin.queue_may_deliver, QueueMixin.queue_may_deliver)
        return type(self).queue_may_deliver not in defaults

    async def _netra_may_deliver(self, messages: Sequence[WaitingMessage]) -> Iterable[WaitingMessage | str]:
        raise NotImplementedError

    # --- the end of the connection -----------------------------------------------------------------------------

    def _netra_departure(self) -> Departure:
        ours = (AsyncQueueMixin.queue_disconnected, QueueMixin.queue_disconnected)
        return Departure(
            seconds=lambda: self.queue_linger_seconds,
            has_joined=self._netra_has_joined,
            leave=self._netra_leave,
            on_disconnected=None if type(self).queue_disconnected in ours else self._netra_disconnected,
        )

    def _netra_has_joined(self) -> bool:
        layer = vars(self).get("_netra_channel_layer")
        return type(layer) is GroupMemory and layer.has_joined(self.channel_name)

    async def _netra_leave(self) -> None:
        await self.channel_layer.leave(self.channel_name)
        await self._netra_channel_receive.silence()

    async def _netra_disconnected(self, close_code: int | None) -> None:
        raise NotImplementedError

    # --- the channel layer -------------------------------------------------------------------------------------

    @property
    def channel_receive(self) -> Callable[[], Awaitable[Any]]:
        return self._netra_channel_receive

    @channel_receive.setter
    def channel_receive(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """Channels sets this before it receives: an error of the layer shall not end the connection."""
        self._netra_channel_receive = hearing.Ear(hearing.patient(receive, self._netra_rejoin))

    @property
    def channel_layer(self) -> Any:
        if "_netra_channel_layer" not in vars(self):
            raise AttributeError("channel_layer")  # as before Channels has set it
        return self._netra_channel_layer

    @channel_layer.setter
    def channel_layer(self, layer: Any) -> None:
        """Channels sets this too. The groups joined through it are remembered: a Redis that restarts has lost them."""
        self._netra_channel_layer = GroupMemory.of(layer)

    @channel_layer.deleter
    def channel_layer(self) -> None:
        del self._netra_channel_layer

    async def _netra_rejoin(self) -> None:
        layer = vars(self).get("_netra_channel_layer")
        if type(layer) is GroupMemory:
            await layer.rejoin()


class AsyncQueueMixin(_BaseQueueMixin):
    """For AsyncWebsocketConsumer and AsyncJsonWebsocketConsumer."""

    async def get_queue(self) -> str | None:
        """The name of the queue of this connection; None: no queue, plain Channels.

        Called once, after ``accept()``. Raise NotAuthenticated (closes with 4401) or Django's PermissionDenied (4403)
        to refuse the client. Never take a name from the client unchecked.
        """
        return default_queue(self.scope)

    async def _netra_find_queue(self) -> str | None:
        found = self.get_queue()
        if not inspect.isawaitable(found):
            raise TypeError(f"{type(self).__name__}: expected async def get_queue")
        queue: str | None = await found
        return queue

    async def queue_disconnected(self, close_code: int | None) -> None:
        """The client is gone. Called once for each connection with a queue, at once, also while a handler waits.

        ``disconnect()`` comes when the consumer has lingered.
        """

    async def _netra_disconnected(self, close_code: int | None) -> None:
        done = self.queue_disconnected(close_code)
        if not inspect.isawaitable(done):
            raise TypeError(f"{type(self).__name__}: expected async def queue_disconnected")
        await done

    async def queue_may_deliver(self, messages: Sequence[WaitingMessage]) -> Iterable[WaitingMessage | str]:
        """Those of these messages (or their ids) that this client may see, or may still see.

        Asked for each batch that comes from the queue, replayed or live, before it is transmitted; not for what the
        consumer sends itself. The others are removed, count as withheld, and the client is told so. When it raises, or
        takes longer than STORE_TIMEOUT_SECONDS, the connection is closed with 4503, and the messages stay.
        """
        return messages

    async def _netra_may_deliver(self, messages: Sequence[WaitingMessage]) -> Iterable[WaitingMessage | str]:
        found = self.queue_may_deliver(messages)
        if not inspect.isawaitable(found):
            raise TypeError(f"{type(self).__name__}: expected async def queue_may_deliver")
        return await found


class QueueMixin(_BaseQueueMixin):
    """For WebsocketConsumer and JsonWebsocketConsumer."""

    def get_queue(self) -> str | None:
        """As for AsyncQueueMixin. Called in the thread in which the consumer runs; may use the database."""
        return default_queue(self.scope)

    async def _netra_find_queue(self) -> str | None:
        return await sync_to_async(self.get_queue, thread_sensitive=True)()

    def queue_disconnected(self, close_code: int | None) -> None:
        """As for AsyncQueueMixin. Called in the thread in which the consumer runs, when that has time for it."""

    async def _netra_disconnected(self, close_code: int | None) -> None:
        await database_sync_to_async(self.queue_disconnected)(close_code)

    def queue_may_deliver(self, messages: Sequence[WaitingMessage]) -> Iterable[WaitingMessage | str]:
        """As for AsyncQueueMixin. Called in the thread in which the consumer runs; may use the database."""
        return messages

    async def _netra_may_deliver(self, messages: Sequence[WaitingMessage]) -> Iterable[WaitingMessage | str]:
        def ask() -> Iterable[WaitingMessage | str]:
            """What is computed while it is looked at, a query for example, is looked at here."""
            answer = self.queue_may_deliver(messages)
            return answer if isinstance(answer, str) or not isinstance(answer, Iterable) else list(answer)

        return cast(Iterable[WaitingMessage | str], await database_sync_to_async(ask)())


def default_queue(scope: dict[str, Any]) -> str:
    """``user.<pk>``. Raises NotAuthenticated without an authenticated user in the scope."""
    user = scope.get("user")
    if user is None or not user.is_authenticated:
        raise NotAuthenticated
    return queue_of(user)
