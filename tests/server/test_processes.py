"""Several server processes: delivery across them, Redis going away, SIGTERM and SIGKILL."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

import netra_queue
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.server.conftest import Redis, World, distinct, live, new_queue, play
from tests.settings import REDIS_URL

ON_POSTGRESQL = CONCURRENT_DATABASES_HERE[:1]
NEVER = 3600  # a poll interval that no test lives to see


@needs_redis
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_a_bell_reaches_the_connections_of_every_process(
    make_world: Callable[..., World], alias: str, kind: str
) -> None:
    world = make_world(alias, REDIS_URL)
    servers = [world.start(kind, POLL_SECONDS=NEVER) for _ in range(2)]
    queue = new_queue()

    async def sent_from_a_third_process() -> None:
        async with world.client(servers[0], queue) as one, world.client(servers[1], queue, acks=False) as two:
            await live(one)
            await live(two)
            await netra_queue.asend(queue, "hello")
            assert await one.take(1) == ["hello"]
            assert await two.take(1) == ["hello"]

    play(sent_from_a_third_process())


@needs_redis
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
def test_reconnect_to_the_other_process(make_world: Callable[..., World], alias: str) -> None:
    """Each time the bell finds the process that has the client now: there is no poll to help."""
    world = make_world(alias, REDIS_URL)
    first, second = (world.start(kind, POLL_SECONDS=NEVER) for kind in ("daphne", "uvicorn"))
    queue = new_queue()

    async def moves() -> None:
        client = world.client(first, queue)
        for cycle in range(6):
            await client.connect((first, second)[cycle % 2].url(queue))
            await live(client)
            await netra_queue.asend(queue, [cycle, "live"])
            await client.until(lambda cycle=cycle: len(distinct(client)) > 2 * cycle)
            await client.disconnect()
            await netra_queue.asend(queue, [cycle, "away"])
        await client.connect(first.url(queue))
        await client.until(lambda: len(distinct(client)) == 12)
        assert distinct(client) == [[cycle, when] for cycle in range(6) for when in ("live", "away")]
        await client.disconnect()

    play(moves())


@pytest.mark.parametrize("alias", ON_POSTGRESQL)
def test_redis_stopped_in_the_middle_costs_a_poll_interval(
    make_world: Callable[..., World], alias: str, own_redis: Redis
) -> None:
    world = make_world(alias, own_redis.url)
    server = world.start("daphne", POLL_SECONDS=0.5)
    queue = new_queue()

    async def with_and_without() -> None:
        async with world.client(server, queue) as client:
            await live(client)
            for number in range(20):
                if number == 7:
                    own_redis.stop()
                if number == 14:
                    own_redis.start()
                await netra_queue.asend(queue, number)
                await client.take(number + 1)
            await client.send({"echo": "still the same connection"})
            await client.take(21)
            assert client.data == [*range(20), {"echo": "still the same connection"}]

    play(with_and_without())


@needs_redis
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["sigterm", "sigkill"])
def test_a_server_process_ends_with_messages_in_flight(
    make_world: Callable[..., World], alias: str, kind: str, how: signal.Signals
) -> None:
    world = make_world(alias, REDIS_URL)
    first, second = world.start(kind), world.start(kind)
    queue = new_queue()

    async def survives() -> None:
        client = world.client(first, queue)
        await client.connect()
        await live(client)
        sending = asyncio.create_task(send_all())
        await client.take(50)
        await asyncio.to_thread(first.stop, how)
        await sending
        await client.disconnect()
        await client.connect(second.url(queue))
        await client.until(lambda: len({m["id"] for m in client.received}) == 300)
        await client.disconnect()
        assert distinct(client) == list(range(300))

    async def send_all() -> None:
        for number in range(300):
            await netra_queue.asend(queue, number)

    play(survives())


@pytest.mark.parametrize("consumer", ["async", "sync"])
def test_daphne_ends_with_status_0_while_clients_are_connected(sqlite_world: World, consumer: str) -> None:
    """Without the end that process.close gives its event loop, CPython crashes (signal 11) about every other time."""

    async def serve_and_stop() -> int:
        server = sqlite_world.start("daphne")
        clients = [sqlite_world.client(server, consumer=consumer) for _ in range(3)]
        for client in clients:
            await client.connect()
            await live(client)
        status = await asyncio.to_thread(server.stop)
        for client in clients:
            await client.closed()
        return status

    assert [play(serve_and_stop()) for _ in range(5)] == [0] * 5


def test_a_synchronous_consumer_that_is_sending_does_not_hold_up_the_end(sqlite_world: World) -> None:
    """Its thread waits for an event loop that has been stopped, and Python waits for its threads."""

    async def leave_and_stop() -> int:
        server = sqlite_world.start("daphne")
        client = sqlite_world.client(server, consumer="synchooked")
        await client.connect()
        await live(client)
        await client.disconnect()
        return await asyncio.to_thread(server.stop)

    assert [play(leave_and_stop()) for _ in range(5)] == [0] * 5


@needs_redis
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_a_consumers_own_sends_survive_sigterm(make_world: Callable[..., World], alias: str, kind: str) -> None:
    world = make_world(alias, REDIS_URL)
    first, second = world.start(kind), world.start(kind)
    queue = new_queue()

    async def survives() -> None:
        client = world.client(first, queue, acks=False)
        await client.connect()
        await live(client)
        await client.send({"send": 100})
        await client.take(100)
        await asyncio.to_thread(first.stop)
        await client.disconnect()
        transmitted = {message["id"]: message["data"] for message in client.received}
        client.received.clear()
        client.acks = True
        await client.connect(second.url(queue))
        await client.take(100)
        assert {message["id"]: message["data"] for message in client.received} == transmitted
        assert client.data == [{"own": number} for number in range(100)]
        await client.disconnect()

    play(survives())


@needs_redis
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
def test_always_loses_no_own_send_to_sigkill(make_world: Callable[..., World], alias: str) -> None:
    world = make_world(alias, REDIS_URL)
    first, second = world.start(), world.start()
    queue = new_queue()

    async def survives() -> None:
        client = world.client(first, queue, consumer="always", acks=False)
        await client.connect()
        await client.send({"send": 100})
        await client.take(100)
        await asyncio.to_thread(first.stop, signal.SIGKILL)
        await client.disconnect()
        client.received.clear()
        client.acks = True
        await client.connect(second.url(queue, consumer="always"))
        assert await client.take(100) == [{"own": number} for number in range(100)]
        await client.disconnect()

    play(survives())
