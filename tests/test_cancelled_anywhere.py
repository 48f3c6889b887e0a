"""A consumer is cancelled, wherever it is: connecting, delivering, acking, sending, leaving. Nothing accepted is lost.

The tests play the ASGI server and the client. How many turns of the event loop a whole life takes is measured first;
then lives are cancelled at points that are spread evenly over it; with NETRA_CHAOS_SECONDS, at every turn.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer

import netra_queue
from netra_queue import testing
from netra_queue.consumers import AsyncQueueMixin, QueueMixin
from netra_queue.core.wire import SUBPROTOCOL
from tests.waiting import await_until

POINTS = 150
WRITE_TURNS = 50
QUEUE = "user.1"
sent: list[str] = []  # own sends that returned to the consumer


class Talker(AsyncQueueMixin, AsyncJsonWebsocketConsumer):
    async def get_queue(self) -> str:
        await asyncio.sleep(0)
        return QUEUE

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"own": content["say"]})
        sent.append(content["say"])


class SyncTalker(QueueMixin, JsonWebsocketConsumer):
    def get_queue(self) -> str:
        return QUEUE

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        self.send_json({"own": content["say"]})
        sent.append(content["say"])


@dataclass
class Client:
    """Acks each frame, says something once it is live, and leaves when it has what it waits for."""

    consumer: Any
    handled: dict[str, Any] = field(default_factory=dict)
    acks: bool = True
    says: str = ""
    leaves_after: int = 0
    is_live: bool = False
    incoming: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)

    def call(self) -> Coroutine[Any, Any, None]:
        scope = {"type": "websocket", "subprotocols": [SUBPROTOCOL], "query_string": b""}
        self.incoming.put_nowait({"type": "websocket.connect"})
        call: Coroutine[Any, Any, None] = self.consumer.as_asgi()(scope, self.incoming.get, self.take)
        return call

    async def take(self, event: dict[str, Any]) -> None:
        """A server takes its time, too: what is cancelled meanwhile never reaches the client."""
        for _ in range(WRITE_TURNS):
            await asyncio.sleep(0)
        if event["type"] != "websocket.send":
            return
        frame = json.loads(event["text"])
        if frame["type"] == "netra.messages":
            for message in frame["messages"]:
                self.handled.setdefault(message["id"], message["data"])
            self.put({"type": "netra.ack", "seq": frame["seq"] + len(frame["messages"]) - 1})
        elif frame["type"] == "netra.live":
            self.is_live = True
            if self.says:
                self.put({"say": self.says})
        if self.leaves_after and len(self.handled) >= self.leaves_after:
            self.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

    def put(self, content: dict[str, Any]) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(content)})


async def live(client: Client, turns: int | None = None) -> int:
    """Let the consumer live for so many turns of the loop, or to its end, and cancel it. Returns how many it lived."""
    task, taken = asyncio.create_task(client.call()), 0
    while not task.done() and taken != turns:
        await asyncio.sleep(0)
        taken += 1
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return taken


async def all_of_it(consumer: Any, before: dict[str, Any], count: int) -> dict[str, Any]:
    """What a client has handled in the end that had handled ``before`` when it was cut off."""
    client = Client(consumer, dict(before))
    task = asyncio.create_task(client.call())
    await await_until(lambda: client.is_live and len(client.handled) >= count)
    client.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
    await task
    return client.handled


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore", "POLL_SECONDS": 0.2}


async def play(consumer: Any, turns: int | None = None) -> tuple[int, int]:
    """One life. Returns how many turns it took, and how many messages it had got by then."""
    sent.clear()
    receipts = await netra_queue.asend_many([(QUEUE, {"stored": number}) for number in range(3)])
    client = Client(consumer, says="something", leaves_after=4)
    taken = await live(client, turns)
    got = len(client.handled)
    handled = await all_of_it(consumer, client.handled, 3 + len(sent))
    assert {receipt.id for receipt in receipts} <= handled.keys(), f"cancelled after {turns} turns"
    owns = [data["own"] for data in handled.values() if "own" in data]
    assert len(owns) <= 1, f"cancelled after {turns} turns"
    assert owns or not sent, f"cancelled after {turns} turns"
    return taken, got


def plays(consumer: Any, turns: Callable[[int], Iterable[int]]) -> set[int]:
    """A life for each of ``turns``, which is told how many a whole one takes. Returns how many messages they got."""

    async def all_of_them() -> set[int]:
        try:
            whole = max([(await play(consumer))[0] for _ in range(3)])
            return {(await play(consumer, number))[1] for number in turns(whole)}
        finally:
            await testing.ashutdown()

    try:
        return asyncio.run(all_of_them())
    finally:
        testing.shutdown()


@pytest.mark.parametrize("consumer", [Talker, SyncTalker])
def test_nothing_is_lost_wherever_it_is_cancelled(consumer: Any) -> None:
    got = plays(consumer, lambda whole: [1 + 2 * whole * point // POINTS for point in range(POINTS)])
    assert {0, 4} <= got, "some were cancelled before they got anything, some after they had got all"


@pytest.mark.skipif("NETRA_CHAOS_SECONDS" not in os.environ, reason="takes a minute: with NETRA_CHAOS_SECONDS")
@pytest.mark.parametrize("consumer", [Talker, SyncTalker])
def test_nothing_is_lost_at_whichever_turn_it_is_cancelled(consumer: Any) -> None:
    got = plays(consumer, lambda whole: range(1, whole + 1))
    assert {0, 4} <= got
