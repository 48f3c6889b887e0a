"""The mixins' classes: mistakes are found when the class is made, not when the first client connects."""

from __future__ import annotations

import asyncio
import copy
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer, JsonWebsocketConsumer, WebsocketConsumer
from channels.layers import BaseChannelLayer, InMemoryChannelLayer

from netra_queue.consumers import AsyncQueueMixin, QueueMixin


def make(*bases: type, **members: Any) -> type:
    return type("Made", bases, members)


async def asynchronous(self: object) -> str:
    return "q"


def synchronous(self: object) -> str:
    return "q"


def test_the_mixin_comes_first() -> None:
    with pytest.raises(TypeError, match="name AsyncQueueMixin before AsyncWebsocketConsumer"):
        make(AsyncWebsocketConsumer, AsyncQueueMixin)


@pytest.mark.parametrize("bases", [(AsyncQueueMixin, WebsocketConsumer), (QueueMixin, AsyncWebsocketConsumer)])
def test_the_mixin_is_of_the_consumers_kind(bases: tuple[type, ...]) -> None:
    with pytest.raises(TypeError, match="AsyncQueueMixin is for the asynchronous consumers"):
        make(*bases)


def test_get_queue_is_of_the_consumers_kind() -> None:
    consumer: Any = make(AsyncQueueMixin, AsyncWebsocketConsumer, get_queue=synchronous)()
    with pytest.raises(TypeError, match="Made: expected async def get_queue"):
        asyncio.run(consumer._netra_find_queue())
    with pytest.raises(TypeError, match="expected def get_queue, without async"):
        make(QueueMixin, JsonWebsocketConsumer, get_queue=asynchronous)


@pytest.mark.parametrize("groups", ["room.1", None, ["room 1"], [1], {"room.1"}, ["user.1/phone"]])
def test_groups_are_a_list_of_names(groups: Any) -> None:
    with pytest.raises(TypeError, match="Made: queue_groups: "):
        make(AsyncQueueMixin, AsyncWebsocketConsumer, queue_groups=groups)


def test_queue_may_deliver_is_of_the_consumers_kind() -> None:
    consumer: Any = make(AsyncQueueMixin, AsyncWebsocketConsumer, queue_may_deliver=lambda self, messages: messages)()
    with pytest.raises(TypeError, match="Made: expected async def queue_may_deliver"):
        asyncio.run(consumer._netra_may_deliver([]))
    with pytest.raises(TypeError, match="expected def queue_may_deliver, without async"):
        make(QueueMixin, JsonWebsocketConsumer, queue_may_deliver=asynchronous)


@pytest.mark.parametrize("bases", [(AsyncQueueMixin, AsyncWebsocketConsumer), (QueueMixin, WebsocketConsumer)])
def test_a_consumer_without_a_say_is_not_asked(bases: tuple[type, ...]) -> None:
    consumer: Any = make(make(*bases))()
    assert not consumer._netra_has_a_say()
    consumer = make(make(*bases, queue_may_deliver=lambda self, messages: messages))()
    assert consumer._netra_has_a_say()


def test_what_is_right_is_let_through() -> None:
    class Base(AsyncQueueMixin):
        """A project's own mixin over ours."""

    assert make(Base, AsyncWebsocketConsumer, get_queue=asynchronous)
    assert make(QueueMixin, JsonWebsocketConsumer, get_queue=synchronous)
    assert make(AsyncQueueMixin, make(AsyncWebsocketConsumer))
    assert make(make(AsyncQueueMixin, AsyncWebsocketConsumer))
    assert make(AsyncQueueMixin, AsyncWebsocketConsumer, queue_groups=["room.1", "all"])
    assert make(AsyncQueueMixin, AsyncWebsocketConsumer, queue_groups=property(lambda self: ["room.1"]))


def test_a_method_that_returns_an_awaitable_is_as_good() -> None:
    consumer: Any = make(AsyncQueueMixin, AsyncWebsocketConsumer, get_queue=lambda self: asynchronous(self))()
    assert asyncio.run(consumer._netra_find_queue()) == "q"


def test_the_channel_layer_is_what_was_set() -> None:
    consumer: Any = make(AsyncQueueMixin, AsyncWebsocketConsumer)()
    layer = InMemoryChannelLayer()
    consumer.channel_layer = layer
    assert isinstance(consumer.channel_layer, BaseChannelLayer)
    assert consumer.channel_layer == layer
    assert copy.copy(consumer.channel_layer) == layer
    consumer.channel_layer.capacity = 7
    assert layer.capacity == 7
    double = AsyncMock()
    with patch.object(consumer, "channel_layer", double):
        assert consumer.channel_layer is double
    assert consumer.channel_layer == layer
    del consumer.channel_layer
    assert not hasattr(consumer, "channel_layer")


def test_without_a_memory_of_groups_receiving_goes_on() -> None:
    """A subclass may hide the property with an attribute of its own."""
    consumer: Any = make(AsyncQueueMixin, AsyncWebsocketConsumer, channel_layer=None)()
    asyncio.run(consumer._netra_rejoin())
