"""Over real sockets: what breaks its client is set aside; what is left out or withheld is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async

import netra_queue
from netra_queue.core.message import LossReason, Priority
from netra_queue.core.wire import CloseCode
from netra_queue.management.scenarios.client import Client
from netra_queue.management.scenarios.server import Server
from netra_queue.models import Message, queue_id
from netra_queue.stores import current_store
from tests.server.conftest import World, holds, live, new_queue, play
from tests.waiting import await_until

pytestmark = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
HERE = "tests.server.consumers"
POLICIES = {
    "frail": {"MAX_DELIVERIES": 6},
    "newest": {"REPLAY": {"NEWEST": 2}},
    "digest": {"REPLAY": {"NEWEST": 1, "DIGEST": f"{HERE}.digest"}},
    "no_digest": {"REPLAY": {"SECONDS": 0.001, "DIGEST": f"{HERE}.no_digest"}},
    "broken_digest": {"REPLAY": {"NEWEST": 1, "DIGEST": f"{HERE}.broken_digest"}},
}
COUNT, DEADLY = 50, 17


@pytest.fixture
def server(sqlite_world: World, kind: str) -> Server:
    return sqlite_world.start(kind, POLICIES=POLICIES)


async def is_dead_after(client: Client, deadly: Any, processed: list[Any]) -> bool:
    """Take frames and ack each; die, without an ack, of one with this message in it. False: the queue is empty."""
    await client.connect()
    seen = len(client.received)
    begin = seen
    while True:
        await client.until(lambda seen=seen: len(client.received) > seen or bool(client.frames("netra.live")))  # type: ignore[misc]
        new, seen = client.data[seen:], len(client.received)
        if deadly in new:
            await client.cut()
            return True
        processed += new
        await client.ack(seen - begin)
        if not new and client.frames("netra.live"):
            await client.disconnect()
            return False


async def counted(queue: str, deaths: int) -> None:
    """The store knows of so many deaths, or has set the message aside."""
    rows = Message.objects.filter(queue_id=queue_id(queue), payload=str(DEADLY))
    found = sync_to_async(lambda: rows.values_list("deliveries", flat=True).first())

    async def is_counted() -> bool:
        return await found() in (None, deaths)

    await await_until(is_counted)


def test_only_the_message_that_kills_its_client_is_set_aside(sqlite_world: World, server: Server) -> None:
    async def set_aside() -> None:
        queue, processed = new_queue(), list[Any]()
        await netra_queue.asend_many([(queue, number) for number in range(COUNT)])
        client = sqlite_world.client(server, queue, policy="frail", acks=False)
        deaths = 0
        while await is_dead_after(client, DEADLY, processed):
            deaths += 1
            await counted(queue, deaths)
        assert sorted(set(processed)) == [number for number in range(COUNT) if number != DEADLY]
        await holds(queue, 0)
        (letter,) = await sync_to_async(current_store().letters)(10, queue=queue)
        assert (letter.reason, letter.deliveries) == (LossReason.DEAD, 6)
        dead = next(message for message in client.received if message["data"] == DEADLY)
        assert letter.id == dead["id"]
        assert deaths == 6
        async with sqlite_world.client(server, queue, policy="frail") as again:
            await live(again)
            told = [frame.get("lost", frame) for frame in [*client.control, *again.control]]
            assert sum(counts.get("dead", 0) for counts in told) == 1

    play(set_aside())


def test_a_healthy_client_counts_no_delivery_and_a_lost_one_does(sqlite_world: World, server: Server) -> None:
    async def counted() -> None:
        queue = new_queue()
        await netra_queue.asend_many([(queue, number) for number in range(3)])
        client = sqlite_world.client(server, queue, acks=False)
        await client.connect()
        await client.take(3)
        await client.ack(1)
        await client.cut()

        async def has_two() -> bool:
            rows = Message.objects.filter(queue_id=queue_id(queue)).order_by("pk")
            return await sync_to_async(lambda: list(rows.values_list("deliveries", flat=True)))() == [1, 1]

        await await_until(has_two)

    play(counted())


def test_the_newest_of_the_most_urgent_are_replayed(sqlite_world: World, server: Server) -> None:
    async def shaped() -> None:
        queue = new_queue()
        for number in range(5):
            await netra_queue.asend(queue, number)
        await netra_queue.asend(queue, "urgent", priority=Priority.HIGH)
        async with sqlite_world.client(server, queue, policy="newest") as client:
            await live(client)
            assert client.data == ["urgent", 4]
            hello = client.frames("netra.hello")[0]
            assert (hello["waiting"], hello["lost"]["left_out"]) == (2, 4)
            assert hello["lost"]["by_priority"]["left_out"] == {"normal": 4}
            for number in range(5, 9):
                await netra_queue.asend(queue, number)
            await client.take(6)
        await holds(queue, 0)

    play(shaped())


def test_beside_another_connection_everything_is_replayed(sqlite_world: World, server: Server) -> None:
    async def replayed() -> None:
        queue = new_queue()
        async with sqlite_world.client(server, queue, policy="newest", acks=False) as first:
            await live(first)
            for number in range(5):
                await netra_queue.asend(queue, number)
            await first.take(5)
            async with sqlite_world.client(server, queue, policy="newest") as second:
                assert await second.take(5) == [0, 1, 2, 3, 4]

    play(replayed())


def test_a_digest_stands_for_what_is_left_out(sqlite_world: World, server: Server) -> None:
    async def shaped() -> None:
        queue = new_queue()
        await netra_queue.asend(queue, "low", priority=Priority.LOW)
        await netra_queue.asend_many([(queue, n) for n in range(3)])
        async with sqlite_world.client(server, queue, policy="digest") as client:
            await live(client)
            assert client.data == [2, {"left_out": [0, 1, "low"]}]
            assert client.received[1]["priority"] == "normal"
            assert client.frames("netra.hello")[0]["lost"]["left_out"] == 3
        await holds(queue, 0)

    play(shaped())


def test_a_digest_may_say_nothing(sqlite_world: World, server: Server) -> None:
    async def shaped() -> None:
        queue = new_queue()
        await netra_queue.asend_many([(queue, n) for n in range(3)])
        async with sqlite_world.client(server, queue, policy="no_digest") as client:
            await live(client)
            assert client.data == []
            assert client.frames("netra.hello")[0]["lost"]["left_out"] == 3

    play(shaped())


def test_with_a_digest_that_raises_everything_is_replayed(sqlite_world: World, server: Server) -> None:
    sqlite_world.may_log_errors = True

    async def replayed() -> None:
        queue = new_queue()
        await netra_queue.asend_many([(queue, n) for n in range(3)])
        async with sqlite_world.client(server, queue, policy="broken_digest") as client:
            await live(client)
            assert client.data == [0, 1, 2]
            assert "left_out" not in client.frames("netra.hello")[0]["lost"]

    play(replayed())
    assert "no words for it" in sqlite_world.log.read_text()


def test_digests_that_never_end_keep_nobody_else_waiting(sqlite_world: World, kind: str) -> None:
    stuck = {"REPLAY": {"NEWEST": 1, "DIGEST": f"{HERE}.stuck_digest"}}
    sqlite_world.may_log_errors = True
    server = sqlite_world.start(kind, POLICIES={**POLICIES, "stuck": stuck}, STORE_TIMEOUT_SECONDS=1.0)

    async def stuck_client() -> None:
        queue = new_queue()
        await netra_queue.asend_many([(queue, n) for n in range(3)])
        async with sqlite_world.client(server, queue, policy="stuck") as client:
            assert await client.take(3) == [0, 1, 2]

    async def others_go_on() -> None:
        await asyncio.gather(*(stuck_client() for _ in range(6)))
        queue = new_queue()
        await netra_queue.asend_many([(queue, n) for n in range(3)])
        async with sqlite_world.client(server, queue, policy="newest") as client:
            assert await client.take(2) == [1, 2]

    play(others_go_on())


@pytest.mark.parametrize("consumer", ["discreet", "syncdiscreet"])
@pytest.mark.parametrize("raw", [False, True], ids=["v1", "raw"])
def test_what_may_not_be_delivered_is_not(sqlite_world: World, server: Server, consumer: str, raw: bool) -> None:
    async def withheld() -> None:
        queue = new_queue()
        await netra_queue.asend_many([(queue, {"n": n, "secret": n % 2 == 1}) for n in range(6)])
        async with sqlite_world.client(server, queue, consumer=consumer, raw=raw) as client:
            await client.take(3)
            await netra_queue.asend(queue, {"n": 6, "secret": True})
            await netra_queue.asend(queue, {"n": 7})
            await client.take(4)
            assert [data["n"] for data in client.data] == [0, 2, 4, 7]
            if not raw:
                await client.until(lambda: sum(frame.get("withheld", 0) for frame in client.frames("netra.lost")) == 4)
        await holds(queue, 0)

    play(withheld())


def test_each_message_is_asked_about_once(sqlite_world: World, kind: str) -> None:
    """Also while what is withheld is on its way out, and the window is small."""
    server = sqlite_world.start(kind, POLICIES={"narrow": {"WINDOW": 3}})

    async def asked_once() -> None:
        queue = new_queue()
        await netra_queue.asend_many([(queue, {"n": n, "secret": n % 3 > 0}) for n in range(60)])
        async with sqlite_world.client(server, queue, consumer="discreet", policy="narrow") as client:
            await client.take(20)
            await live(client)
            await client.send({})
            asked = [item["n"] for item in (await client.take(21))[-1]["asked"]]
            assert sorted(asked) == list(range(60))

    play(asked_once())


def test_while_a_consumer_decides_everything_else_goes_on(sqlite_world: World, server: Server) -> None:
    async def goes_on() -> None:
        queue, other = new_queue(), new_queue()
        await netra_queue.asend_many([(queue, n) for n in range(3)])
        async with (
            sqlite_world.client(server, queue, consumer="hesitant") as client,
            sqlite_world.client(server, other) as quick,
        ):
            await client.until(lambda: bool(client.frames("netra.hello")))
            await client.send({"type": "netra.ping"})
            await client.until(lambda: bool(client.frames("netra.pong")))
            await netra_queue.asend(other, "quick")
            assert await quick.take(1) == ["quick"]
            await netra_queue.asend(queue, 3)
            assert client.data == []
            async with sqlite_world.client(server, queue, consumer="commanded") as key:
                await key.send({"do": "release"})
                await await_until(lambda: {0, 1, 2, 3} <= set(client.data) | set(key.data))
            assert len(client.data) == len(set(client.data))

    play(goes_on())


@pytest.mark.parametrize("payload", ["none", "error"])
def test_when_it_cannot_be_said_the_messages_stay(sqlite_world: World, server: Server, payload: str) -> None:
    sqlite_world.may_log_errors = True

    async def stays() -> None:
        queue = new_queue()
        await netra_queue.asend(queue, payload)
        client = sqlite_world.client(server, queue, consumer="clueless")
        await client.connect()
        assert await client.closed() == CloseCode.STORE_UNAVAILABLE
        assert client.data == []
        async with sqlite_world.client(server, queue) as again:
            assert await again.take(1) == [payload]

    play(stays())
