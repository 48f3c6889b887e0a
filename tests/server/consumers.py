"""What the tests' servers serve: the scenarios' consumers, and some that use Channels in their own ways."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, JsonWebsocketConsumer
from django.core.exceptions import PermissionDenied

import netra_queue
from netra_queue.consumers import AsyncQueueMixin, QueueMixin
from netra_queue.core.waiting import WaitingMessage
from netra_queue.management.scenarios.application import CONSUMERS, Echo, SyncEcho, application
from netra_queue.models import Message

__all__ = ["application"]

gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)  # by queue: what a "wait" waits for


class Commanded(Echo):
    """Does what its client says: {"do": name of one of the methods below, …}."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await getattr(self, content.pop("do"))(**content)

    async def echo(self, what: Any) -> None:
        await self.send_json(what)

    async def wait(self) -> None:
        """A slow handler: nothing else is handled until another connection of the queue says "release"."""
        await self.send_json("waiting")
        await gates[self.scope["netra_queue_name"]].wait()
        await self.send_json("done")

    async def release(self) -> None:
        gates[self.scope["netra_queue_name"]].set()

    async def fail(self) -> None:
        await self.send_json("before the error")
        raise RuntimeError("a handler's own mistake")

    async def leave(self, code: int) -> None:
        for number in range(50):
            await self.send_json(number)
        await self.close(code=code, reason="that was all")

    async def stop(self) -> None:
        await self.send_json("before the stop")
        raise StopConsumer

    async def join(self, group: str) -> None:
        await self.channel_layer.group_add(group, self.channel_name)
        await self.send_json("joined")

    async def tell(self, group: str, what: Any) -> None:
        await self.channel_layer.group_send(group, {"type": "told", "what": what})

    async def told(self, event: dict[str, Any]) -> None:
        await self.send_json({"told": event["what"]})

    async def outlive(self, count: int) -> None:
        """Goes on sending after the client has left: from ``disconnect``'s moment on, in a task."""
        self.after_the_end = count
        await self.send_json("will outlive")

    async def disconnect(self, code: int) -> None:
        tasks.append(asyncio.create_task(self.send_numbers(getattr(self, "after_the_end", 0))))

    async def send_numbers(self, count: int) -> None:
        for number in range(count):
            await self.send_json({"after": number})

    async def shut(self, code: int) -> None:
        await self.close(code=code)

    async def say(self, text: str) -> None:
        """As text, whatever it holds; escapes stand for what JSON cannot carry."""
        await self.send(text_data=text.encode().decode("unicode_escape"))

    async def large(self, size: int) -> None:
        await self.send(text_data="x" * size)


tasks: list[asyncio.Task[None]] = []  # held, so that none is collected


class Grouped(AsyncQueueMixin, AsyncJsonWebsocketConsumer):
    """In a group from the start, without a layer of its own doing."""

    groups = ["everybody"]

    async def get_queue(self) -> str:
        return str(self.scope["netra_queue_name"])

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.channel_layer.group_send("everybody", {"type": "say.it", "what": content})

    async def say_it(self, event: dict[str, Any]) -> None:
        await self.send_json(event["what"])


class SyncGrouped(QueueMixin, JsonWebsocketConsumer):
    groups = ["everybody"]

    def get_queue(self) -> str:
        return str(self.scope["netra_queue_name"])

    def say_it(self, event: dict[str, Any]) -> None:
        self.send_json(event["what"])


class Staying(Echo):
    """In a group from the start. Says when its connection is over, and when it is itself."""

    queue_linger_seconds = 60.0

    async def connect(self) -> None:
        await self.channel_layer.group_add("staying", self.channel_name)
        await super().connect()

    async def queue_disconnected(self, close_code: int | None) -> None:
        await self.send_json("disconnected")

    async def disconnect(self, code: int) -> None:
        await self.send_json("disconnect")


class Leaving(Staying):
    queue_linger_seconds = 1.0


class SyncStaying(SyncEcho):
    queue_linger_seconds = 60.0
    groups = ["staying"]

    def queue_disconnected(self, close_code: int | None) -> None:
        self.send_json("disconnected")

    def disconnect(self, code: int) -> None:
        self.send_json("disconnect")


class Member(Echo):
    """Its queues are subscribed to a durable group."""

    queue_groups = ["members"]


class SyncMember(SyncEcho):
    queue_groups = ("members",)


class Hooked(Echo):
    """Overrides what Channels lets a subclass override, and sends what was called when it disconnects."""

    calls: list[str]

    async def websocket_connect(self, message: Any) -> None:
        self.calls = ["websocket_connect"]
        await super().websocket_connect(message)

    async def connect(self) -> None:
        self.calls.append("connect")
        await super().connect()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any) -> None:
        self.calls.append("receive")
        await super().receive(text_data, bytes_data, **kwargs)

    @classmethod
    async def encode_json(cls, content: Any) -> str:
        return await super().encode_json({"encoded": content})

    async def disconnect(self, code: int) -> None:
        self.calls.append(f"disconnect {code}")
        await self.send_json(self.calls.copy())


class SyncHooked(SyncEcho):
    def disconnect(self, code: int) -> None:
        self.send_json(f"disconnect {code}")


class Chatty(Echo):
    """Talks without end, and says afterwards with which code it ended."""

    async def connect(self) -> None:
        await super().connect()
        self.talk = asyncio.create_task(self.talk_on())

    async def talk_on(self) -> None:
        while True:
            await self.send_json("blah")

    async def disconnect(self, code: int) -> None:
        self.talk.cancel()
        codes.append(code)


class Codes(Echo):
    """Tells the codes with which the talkers ended."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json(codes)


codes: list[int] = []


class Welcoming(Echo):
    """Takes its time to find its queue: until another connection of the path says "release"."""

    async def get_queue(self) -> str | None:
        await gates[self.scope["netra_queue_name"]].wait()
        return await super().get_queue()

    async def connect(self) -> None:
        await super().connect()
        await self.send_json("welcome")


class Threaded(SyncEcho):
    """Sends from a thread of its own."""

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        threading.Thread(target=super().receive_json, args=[content], daemon=True).start()


class Farewell(AsyncQueueMixin, AsyncWebsocketConsumer):
    """Accepts, says one thing, and closes, all in ``connect``."""

    async def get_queue(self) -> str:
        return str(self.scope["netra_queue_name"])

    async def connect(self) -> None:
        await self.accept()
        await self.send(text_data='"farewell"')
        await self.close(code=4321)


class Rejecting(Echo):
    async def connect(self) -> None:
        await self.close()


class Forbidding(Echo):
    async def get_queue(self) -> str | None:
        raise PermissionDenied("that queue is somebody else's")


class Revocable(Echo):
    """Its clients may come until another connection of the queue says "release"."""

    async def get_queue(self) -> str | None:
        if gates[self.scope["netra_queue_name"]].is_set():
            raise PermissionDenied("not yours any more")
        return await super().get_queue()


class Misnaming(Echo):
    async def get_queue(self) -> str | None:
        return "no such name!"


class WithoutQueue(Echo):
    async def get_queue(self) -> str | None:
        return None


class WithoutLayer(Echo):
    channel_layer_alias = "absent"


class Discreet(Echo):
    """Its client may not see what is marked as secret. Tells what it was asked."""

    asked: list[Any]

    async def connect(self) -> None:
        self.asked = []
        await super().connect()

    async def queue_may_deliver(self, messages: Sequence[WaitingMessage]) -> list[WaitingMessage]:
        self.asked += [message.data for message in messages]
        return [message for message in messages if not message.data.get("secret")]

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"asked": self.asked})


class SyncDiscreet(SyncEcho):
    """The same with ids, asking the database, and only in the consumer's own thread."""

    def connect(self) -> None:
        self.thread = threading.get_ident()
        super().connect()

    def queue_may_deliver(self, messages: Sequence[WaitingMessage]) -> Iterable[str]:
        assert threading.get_ident() == self.thread
        allowed = [message.id for message in messages if not message.data.get("secret")]
        return Message.objects.filter(uid__in=allowed).values_list("uid", flat=True)


class Hesitant(Echo):
    """Decides when another connection of its path says "release"."""

    async def queue_may_deliver(self, messages: Sequence[WaitingMessage]) -> Sequence[WaitingMessage]:
        await gates[self.scope["netra_queue_name"]].wait()
        return messages


class Clueless(Echo):
    async def queue_may_deliver(self, messages: Sequence[WaitingMessage]) -> Any:
        if messages[0].data == "none":
            return None
        raise RuntimeError("who knows")


def digest(messages: Sequence[WaitingMessage]) -> Any:
    return {"left_out": [message.data for message in messages]}


def no_digest(messages: Sequence[WaitingMessage]) -> None:
    return None


def broken_digest(messages: Sequence[WaitingMessage]) -> Any:
    raise RuntimeError("no words for it")


def stuck_digest(messages: Sequence[WaitingMessage]) -> Any:
    """Waits for somebody who never answers."""
    threading.Event().wait()


class Chosen(Echo):
    """Chooses a subprotocol of its own."""

    async def connect(self) -> None:
        self.queue_policy = self.scope["netra_policy"]
        await self.accept(subprotocol="my.own")


class Teller(Echo):
    """Sends to its own queue what the client says, by the verb, and what became of it by itself."""

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        try:
            receipt = await netra_queue.asend(self.scope["netra_queue_name"], content["tell"])
        except netra_queue.StoreUnavailable:
            await self.send_json({"outcome": "refused"})
        else:
            await self.send_json({"outcome": receipt.outcome.value})


CONSUMERS |= {
    kind.__name__.lower(): kind
    for kind in (
        Chatty,
        Chosen,
        Clueless,
        Codes,
        Commanded,
        Discreet,
        Farewell,
        Forbidding,
        Grouped,
        Hesitant,
        Hooked,
        Leaving,
        Member,
        Misnaming,
        Rejecting,
        Revocable,
        SyncDiscreet,
        SyncGrouped,
        Staying,
        SyncHooked,
        SyncStaying,
        SyncMember,
        Teller,
        Threaded,
        Welcoming,
        WithoutLayer,
        WithoutQueue,
    )
}
