"""Nothing happens for longer than redis-py waits for an answer, and then something does.

redis-py 8 gives up after 5 seconds by default, as long as an idle channel layer asks for a message: connections were
torn down then, and bells with them. NETRA_CHAOS_SECONDS makes the silence a minute.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest
import redis

import netra_queue
from tests.conftest import CONCURRENT_DATABASES_HERE
from tests.server.conftest import Redis, World, answers, new_queue, play

IDLE_SECONDS = 60.0 if "NETRA_CHAOS_SECONDS" in os.environ else 6.5
NEVER = 3600  # what no test lives to see
PATIENT = {"HEARTBEAT_SECONDS": NEVER, "ACK_TIMEOUT_SECONDS": NEVER}
KINDS = ("daphne", "uvicorn")
AGAIN = len(KINDS) if IDLE_SECONDS > 30 else 0  # servers join again each 30 s, beside their receiving


@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE[:1])
def test_idle_on_the_redis_channel_layer(make_world: Callable[..., World], alias: str, own_redis: Redis) -> None:
    world = make_world(alias, own_redis.url)
    servers = [world.start(kind, POLL_SECONDS=NEVER, POLICIES={"default": PATIENT}) for kind in KINDS]
    queue = new_queue()

    def connections() -> int:
        with redis.Redis.from_url(own_redis.url, socket_timeout=None) as watching:
            return int(watching.info("stats")["total_connections_received"])

    async def idle() -> None:
        one, two = (world.client(server, queue, consumer="commanded", acks=False) for server in servers)
        async with one, two:
            for client in (one, two):
                await client.send({"do": "join", "group": "room"})
                await client.take(1)
            before = await asyncio.to_thread(connections)
            await asyncio.sleep(IDLE_SECONDS)  # that is the test: nothing happens for so long
            assert await asyncio.to_thread(connections) <= before + 1 + AGAIN, "it is this test that has connected"
            await netra_queue.asend(queue, "a bell")
            await one.send({"do": "tell", "group": "room", "what": "a group's"})
            for client in (one, two):
                await client.until(lambda client=client: {"told": "a group's"} in client.data)  # type: ignore[misc]
                await client.until(lambda client=client: "a bell" in client.data)  # type: ignore[misc]
                await answers(client)
                assert len(client.frames("netra.hello")) == 1, "on the same connection"

    play(idle())
    log = world.log.read_text()
    assert "channel layer" not in log, log
