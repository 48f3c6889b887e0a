"""How connections begin and end badly: refused close codes, clients that leave early, frames that no socket carries."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

import netra_queue
from netra_queue.core.wire import CloseCode
from netra_queue.management.scenarios.client import Client
from netra_queue.management.scenarios.server import Server
from tests.conftest import CONCURRENT_DATABASES_HERE
from tests.server.conftest import Redis, World, holds, live, new_queue, play

pytestmark = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])


@pytest.fixture
def server(sqlite_world: World, kind: str) -> Server:
    return sqlite_world.start(kind)


@pytest.mark.parametrize("code", [1001, 1011])
def test_a_close_code_that_daphne_refuses_does_not_leave_the_socket_open(
    sqlite_world: World, server: Server, kind: str, code: int
) -> None:
    """Plain Channels: the error reaches the consumer, and Daphne closes with 1011."""
    sqlite_world.may_log_errors = True

    async def closed() -> int | None:
        client = sqlite_world.client(server, consumer="commanded")
        await client.connect()
        await live(client)
        await client.send({"do": "shut", "code": code})
        return await client.closed(5)

    assert play(closed()) == (code if kind == "uvicorn" else 1011)


@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE[:1])
def test_a_store_without_tables_is_one_to_come_back_to(make_world: Callable[..., World], kind: str, alias: str) -> None:
    world = make_world(alias)
    world.may_log_errors = True
    world.environment["DATABASE_URL"] = world.environment["DATABASE_URL"].rpartition("/")[0] + "/postgres"
    server = world.start(kind)

    async def closed() -> int | None:
        client = world.client(server)
        await client.connect()
        return await client.closed(5)

    assert play(closed()) == CloseCode.STORE_UNAVAILABLE


def test_groups_joined_by_hand_survive_a_redis_that_lost_them(sqlite_world: World, own_redis: Redis, kind: str) -> None:
    sqlite_world.environment["REDIS_URL"] = own_redis.url
    server = sqlite_world.start(kind)

    async def told_again() -> None:
        async with (
            sqlite_world.client(server, consumer="commanded") as one,
            sqlite_world.client(server, consumer="commanded") as two,
        ):
            await two.send({"do": "join", "group": "room"})
            await two.take(1)
            own_redis.stop()
            own_redis.start()
            for number in range(100):
                await one.send({"do": "tell", "group": "room", "what": number})
                with contextlib.suppress(TimeoutError):
                    await two.take(2, 0.2)
                    return
            raise AssertionError("nothing reaches the group any more")

    play(told_again())


def test_raw_a_close_by_the_consumer_is_no_proof_of_delivery(sqlite_world: World, server: Server) -> None:
    async def kept() -> None:
        queue = new_queue()
        await netra_queue.asend(queue, "stored")
        client = sqlite_world.client(server, queue, consumer="commanded", raw=True)
        await client.connect()
        await client.take(1)
        await client.send({"do": "shut", "code": 4321})
        assert await client.closed() == 4321
        await holds(queue, 1)
        async with client:
            assert await client.take(2) == ["stored", "stored"]
        await holds(queue, 0)

    play(kept())


def test_a_client_that_leaves_before_its_queue_is_found(sqlite_world: World, server: Server) -> None:
    async def kept() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, consumer="welcoming")
        await client.connect()
        await client.disconnect()
        async with sqlite_world.client(server, queue, consumer="commanded") as other:
            await other.send({"do": "release"})
            assert await other.take(1) == ["welcome"]

    play(kept())


def test_frames_that_come_before_the_queue_is_found(sqlite_world: World, server: Server) -> None:
    """They wait for it: a ping is answered, an ack of nothing closes, and neither reaches the consumer."""

    async def answered() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, consumer="welcoming")
        hostile = sqlite_world.client(server, queue, consumer="welcoming", acks=False)
        await client.connect()
        await hostile.connect()
        await client.send({"type": "netra.ping"})
        await hostile.ack(99)
        async with sqlite_world.client(server, queue, consumer="commanded") as other:
            await other.send({"do": "release"})
            await client.until(lambda: bool(client.frames("netra.pong")))
            assert await hostile.closed() == CloseCode.MALFORMED
        await client.disconnect()

    play(answered())


def test_text_that_no_socket_carries_is_the_senders_error(sqlite_world: World, server: Server) -> None:
    sqlite_world.may_log_errors = True

    async def good_ones_arrive() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, consumer="commanded", raw=True)
        await client.connect()
        await client.send({"do": "say", "text": r"bad \ud800 text"})
        await client.closed()
        await netra_queue.asend(queue, "good")
        async with client:
            assert await client.take(1) == ["good"]

    play(good_ones_arrive())
    assert "surrogates not allowed" in sqlite_world.log.read_text()


def test_a_synchronous_consumer_may_send_from_a_thread(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind, POLICIES={"narrow": {"WINDOW": 8}})

    async def all_of_them() -> None:
        async with sqlite_world.client(server, consumer="threaded", policy="narrow") as client:
            await client.send({"send": 200})
            assert await client.take(200) == [{"own": number} for number in range(200)]

    play(all_of_them())


def test_frames_of_the_application_are_no_acks(sqlite_world: World, kind: str) -> None:
    """A client whose acks are broken is let go, however much it says."""
    server = sqlite_world.start(kind, POLICIES={"impatient": {"ACK_TIMEOUT_SECONDS": 1}})

    async def let_go() -> int | None:
        client = sqlite_world.client(server, policy="impatient", acks=False)
        await client.connect()
        await live(client)
        await client.send({"echo": 1})
        await client.take(1)
        talk = asyncio.create_task(talk_on(client))
        try:
            return await client.closed()
        finally:
            talk.cancel()

    async def talk_on(client: Client) -> None:
        while True:
            await client.send({"nothing": True})
            await asyncio.sleep(0.05)

    assert play(let_go()) == CloseCode.NOT_RESPONDING


def test_a_consumer_that_is_writing_gets_its_clients_code(sqlite_world: World, server: Server) -> None:
    async def codes() -> list[int]:
        for _ in range(8):
            client = sqlite_world.client(server, consumer="chatty")
            await client.connect()
            await client.take(3)
            assert client.socket is not None
            await client.socket.close(3333)
            await client.disconnect()
        async with sqlite_world.client(server, consumer="codes") as asking:
            found: list[int] = []
            while len(found) < 8:
                await asking.send({"ask": True})
                found = (await asking.take(len(asking.received) + 1))[-1]
            return found

    assert play(codes()) == [3333] * 8


def told_of_dropped(client: Client) -> int:
    """In the hello, or later if the old connection's end was known only then."""
    hello = sum(frame["lost"]["dropped"] for frame in client.frames("netra.hello"))
    return int(hello + sum(frame["dropped"] for frame in client.frames("netra.lost")))


def test_a_frame_too_large_for_the_queue_leaves_the_others_alone(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind, POLICIES={"small": {"MAX_MESSAGE_BYTES": 1000, "MAX_BYTES": 2000}})

    async def kept() -> None:
        queue = new_queue()
        for number in range(10):
            await netra_queue.asend(queue, number)
        client = sqlite_world.client(server, queue, consumer="commanded", policy="small", acks=False)
        await client.connect()
        await client.take(10)
        await client.send({"do": "large", "size": 3_000})
        await client.take(11)
        await client.cut()
        client.received.clear()
        client.acks = True
        async with client:
            assert await client.take(10) == list(range(10))
            await client.until(lambda: told_of_dropped(client) == 1)
        await holds(queue, 0)

    play(kept())
