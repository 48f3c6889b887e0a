"""Rates on real servers: clients' frames, a user's connections, turns of delayed messages, replays beside live ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

import netra_queue
from netra_queue.client import connect
from netra_queue.core.wire import CloseCode
from netra_queue.management.scenarios.client import Client
from netra_queue.management.scenarios.server import Server
from tests.server.conftest import World, answers, connected, holds, live, new_queue, play
from tests.server.test_python_client import take
from tests.settings import MISSING, REDIS_URL

kinds = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
NEVER = 3600  # a poll interval that no test lives to see


def told(client: Client) -> list[float]:
    return [frame["after"] for frame in client.frames("netra.retry")]


# --- frames --------------------------------------------------------------------------------------------------------


@kinds
def test_a_client_that_sends_too_much_is_told_when_to_return(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind, POLICIES={"talk": {"CLIENT_FRAMES": "60/m burst 20"}})

    async def talk() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, policy="talk")
        await client.connect()
        await live(client)
        for number in range(20):
            await client.send({"echo": number})
        await client.take(20)
        await client.send({"echo": "too much"})
        assert await client.closed() == CloseCode.TOO_MANY_CONNECTIONS
        (after,) = told(client)
        assert 20 <= after <= 40, "until the burst is there again, and a pause of its own"
        assert "too much" not in [data["echo"] for data in client.data]
        await connected(queue, 0)

    play(talk())


@kinds
def test_pings_are_counted_and_acks_of_messages_are_not(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind, POLICIES={"tight": {"CONTROL_FRAMES": "60/m burst 5", "WINDOW": 2}})

    async def acknowledge() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, policy="tight")
        await client.connect()
        await live(client)
        for number in range(200):
            await netra_queue.asend(queue, number)
        assert await client.take(200) == [*range(200)], "a hundred acks and more"
        for _ in range(4):
            await answers(client)
        for _ in range(4):
            await client.ack(200)  # nothing new
        assert await client.closed() == CloseCode.TOO_MANY_CONNECTIONS
        assert len(told(client)) == 1
        await holds(queue, 0)

    play(acknowledge())


@kinds
def test_a_raw_client_is_closed_without_a_frame_it_would_not_know(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind, POLICIES={"talk": {"CLIENT_FRAMES": "60/m burst 3"}})

    async def talk() -> None:
        client = sqlite_world.client(server, policy="talk", raw=True)
        await client.connect()
        for number in range(4):
            await client.send({"echo": number})
        assert await client.closed() == CloseCode.TOO_MANY_CONNECTIONS
        assert all("echo" in data for data in client.data)

    play(talk())


def test_what_the_clients_library_sends_is_never_too_much(sqlite_world: World) -> None:
    """With a window of one, it acks every message by itself."""
    server = sqlite_world.start("uvicorn", POLICIES={"narrow": {"WINDOW": 1, "CONTROL_FRAMES": "1/s burst 5"}})

    async def listen() -> None:
        queue = new_queue()
        await netra_queue.asend_many([(queue, number) for number in range(300)])
        async with connect(server.url(queue, "narrow")) as client:
            assert await take(client, 300) == [*range(300)]
            await holds(queue, 0)

    play(listen())


# --- connections ---------------------------------------------------------------------------------------------------


def test_a_user_who_connects_too_often(world: World) -> None:
    """On whatever server, and with whatever device."""
    policies = {"few": {"CONNECTIONS": "6/m burst 4"}}
    servers = [world.start("daphne", POLICIES=policies), world.start("uvicorn", POLICIES=policies)]

    async def come() -> None:
        queue = new_queue()
        await netra_queue.asend(queue, "kept")
        for number in range(4):
            client = world.client(servers[number % 2], queue, policy="few", query=f"?client=d{number}", acks=False)
            await client.connect()
            await live(client)
            await client.disconnect()
        for server in servers:
            client = world.client(server, queue, policy="few")
            await client.connect()
            assert await client.closed() == CloseCode.TOO_MANY_CONNECTIONS
            assert client.frames("netra.hello") == []
            (after,) = told(client)
            assert 1 <= after <= 21
        async with world.client(servers[0], new_queue(), policy="few") as other:
            await live(other)

    play(come())


def test_the_clients_library_returns_when_it_was_told(sqlite_world: World) -> None:
    server = sqlite_world.start("uvicorn", POLICIES={"few": {"CONNECTIONS": "30/m burst 1"}})

    async def come() -> float:
        queue = new_queue()
        async with sqlite_world.client(server, queue, policy="few") as first:
            await live(first)
        await netra_queue.asend(queue, "hello")
        began = time.monotonic()
        async with connect(server.url(queue, "few")) as client:
            assert await take(client, 1) == ["hello"]
            return time.monotonic() - began

    assert play(come()) > 1.2, "without a word from the server, the first pause is at most half a second"


# --- turns ---------------------------------------------------------------------------------------------------------


def test_delayed_messages_come_in_their_turn_without_a_poll(world: World, settings: Any) -> None:
    """To who is there, and to who comes meanwhile."""
    policies = {"default": {"RATE": "10/s burst 2", "RATE_EXCEEDED": "delay"}}
    server = world.start("uvicorn", POLL_SECONDS=NEVER, POLICIES=policies)

    async def send() -> None:
        queue = new_queue()
        async with world.client(server, queue) as client:
            await live(client)
            began = time.monotonic()
            receipts = [await netra_queue.asend(queue, number) for number in range(12)]
            await client.take(12)
            spent = time.monotonic() - began
            assert client.data == [*range(12)]
            assert sum(receipt.not_before is not None for receipt in receipts) >= 8
            assert 0.8 < spent < 5
        await holds(queue, 0)
        await netra_queue.asend_many([(queue, number) for number in range(12)])
        began = time.monotonic()
        async with world.client(server, queue) as returning:
            await live(returning)
            assert returning.frames("netra.hello")[0]["waiting"] < 12
            await returning.take(12)
            assert returning.data == [*range(12)]
            assert time.monotonic() - began < 5

    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": policies}
    play(send())


# --- replays -------------------------------------------------------------------------------------------------------

BACKLOG = 200
RETURNING = 60


async def fill(queues: list[str]) -> None:
    for queue in queues:
        await netra_queue.asend_many([(queue, {"n": n, "pad": "x" * 200}) for n in range(BACKLOG)])


async def latencies(world: World, server: Server, done: asyncio.Event) -> list[float]:
    """From sending to receiving, of messages to a client that was there before."""
    queue, found = new_queue(), []
    async with world.client(server, queue) as client:
        await live(client)
        while not done.is_set():
            began = time.monotonic()
            await netra_queue.asend(queue, len(found))
            await client.take(len(found) + 1)
            found.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
    return found


def test_a_storm_of_returning_clients_leaves_live_messages_alone(
    concurrent_database: str, make_world: Callable[..., World]
) -> None:
    """Everybody gets everything in order. That live reads wait for no replay is in test_replay_reads.py."""
    world = make_world(concurrent_database, "" if "redis" in MISSING else REDIS_URL)
    server = world.start("uvicorn", POLL_SECONDS=0.5)

    async def storm() -> list[float]:
        queues = [new_queue() for _ in range(RETURNING)]
        await fill(queues)
        done = asyncio.Event()
        watching = asyncio.create_task(latencies(world, server, done))
        clients = [world.client(server, queue) for queue in queues]
        await asyncio.gather(*(client.connect() for client in clients))
        await asyncio.gather(*(client.take(BACKLOG, 60) for client in clients))
        for client in clients:
            assert [data["n"] for data in client.data] == [*range(BACKLOG)]
        done.set()
        found = await watching
        await asyncio.gather(*(client.disconnect() for client in clients))
        return found

    assert play(storm())


def test_a_process_replays_no_more_than_its_rate(sqlite_world: World) -> None:
    server = sqlite_world.start("uvicorn", PROCESS_REPLAY_RATE="200/s burst 50")

    async def replay() -> float:
        queues = [new_queue() for _ in range(4)]
        await fill(queues)
        began = time.monotonic()
        clients = [sqlite_world.client(server, queue) for queue in queues]
        await asyncio.gather(*(client.connect() for client in clients))
        await asyncio.gather(*(client.take(BACKLOG, 30) for client in clients))
        spent = time.monotonic() - began
        for client in clients:
            assert [data["n"] for data in client.data] == [*range(BACKLOG)]
            await live(client)
        await asyncio.gather(*(client.disconnect() for client in clients))
        return spent

    spent = play(replay())
    assert spent > (4 * BACKLOG - 50) / 200 * 0.95
    assert spent < 15


def test_a_connection_is_replayed_no_faster_than_its_policy_says_and_live_at_once(sqlite_world: World) -> None:
    server = sqlite_world.start("uvicorn", POLL_SECONDS=0.1, POLICIES={"slow": {"REPLAY_RATE": "100/s burst 20"}})

    async def replay() -> float:
        slow, other = new_queue(), new_queue()
        await fill([slow, other])
        began = time.monotonic()
        async with sqlite_world.client(server, slow, policy="slow") as client:
            async with sqlite_world.client(server, other) as quick:
                await quick.take(BACKLOG)
                assert time.monotonic() - began < 1.5, "nobody else waits for it"
            await netra_queue.asend(slow, {"n": "urgent"}, priority=netra_queue.Priority.CRITICAL)
            await client.take(BACKLOG + 1, 30)
            spent = time.monotonic() - began
            order = [data["n"] for data in client.data]
            assert [n for n in order if n != "urgent"] == [*range(BACKLOG)]
            assert order.index("urgent") < BACKLOG, "what is urgent goes before"
            await live(client)
            began = time.monotonic()
            await netra_queue.asend_many([(slow, {"n": n}) for n in range(400)])
            await client.take(BACKLOG + 401)
            assert time.monotonic() - began < 2, "live messages are not paced"
        return spent

    spent = play(replay())
    assert 1.7 < spent < 10
