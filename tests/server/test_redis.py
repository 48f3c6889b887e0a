"""Redis: two processes while it is away, and how few connections the bells of a process take."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable

import pytest
import redis

import netra_queue
from netra_queue.management.scenarios.client import Client
from tests.conftest import CONCURRENT_DATABASES_HERE
from tests.server.conftest import Redis, World, distinct, live, new_queue, play

ON_POSTGRESQL = CONCURRENT_DATABASES_HERE[:1]
NEVER = 3600  # a poll interval that no test lives to see


@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_two_processes_while_redis_is_away(
    make_world: Callable[..., World], alias: str, kind: str, own_redis: Redis
) -> None:
    """Later by at most a poll interval, in order, also after a reconnect to the other process."""
    poll_seconds = 1.0
    world = make_world(alias, own_redis.url)
    first, second = (world.start(kind, POLL_SECONDS=poll_seconds) for _ in range(2))
    queue = new_queue()
    latencies: list[float] = []

    async def send_and_take(client: Client, numbers: range) -> None:
        for number in numbers:
            began = time.monotonic()
            await netra_queue.asend(queue, number)
            await client.until(lambda number=number: len(distinct(client)) > number)
            latencies.append(time.monotonic() - began)

    async def away_in_the_middle() -> None:
        client = world.client(first, queue)
        await client.connect()
        await live(client)
        await send_and_take(client, range(5))
        own_redis.stop()
        await send_and_take(client, range(5, 8))
        await client.disconnect()
        await netra_queue.asend(queue, 8)
        await client.connect(second.url(queue))
        await client.until(lambda: len(distinct(client)) == 9)
        await send_and_take(client, range(9, 12))
        own_redis.start()
        await send_and_take(client, range(12, 14))
        await client.disconnect()
        assert distinct(client) == list(range(14))

    play(away_in_the_middle())
    assert max(latencies) < 3 * poll_seconds


def test_many_sends_share_one_connection_to_redis(
    make_world: Callable[..., World], transactional_db: None, own_redis: Redis
) -> None:
    """The bells of a process go through one thread with one connection, however many senders there are."""
    world = make_world("default", own_redis.url)
    server = world.start("daphne", POLL_SECONDS=NEVER)

    async def rung() -> int:
        queue = new_queue()
        async with world.client(server, queue) as client:
            await live(client)
            await netra_queue.asend(queue, "first")
            await client.take(1)
            with redis.Redis.from_url(own_redis.url, socket_timeout=5) as watching:
                before = watching.info("stats")["total_connections_received"]
                for number in range(100):
                    await netra_queue.asend(queue, number)
                await client.take(101)
                return int(watching.info("stats")["total_connections_received"] - before)

    assert play(rung()) <= 2


@pytest.mark.parametrize("alias", ON_POSTGRESQL)
def test_a_process_that_ends_at_once_has_rung(make_world: Callable[..., World], alias: str, own_redis: Redis) -> None:
    """A management command or a script whose last act is to send."""
    world = make_world(alias, own_redis.url)
    server = world.start("daphne", POLL_SECONDS=NEVER)
    script = "import sys, django; django.setup(); import netra_queue; netra_queue.send(sys.argv[1], 'last act')"

    async def arrives() -> None:
        queue = new_queue()
        async with world.client(server, queue) as client:
            await live(client)
            command = [sys.executable, "-c", script, queue]
            environment = {**os.environ, **world.environment}
            process = await asyncio.create_subprocess_exec(*command, env=environment)
            assert await process.wait() == 0
            assert await client.take(1) == ["last act"]

    play(arrives())
