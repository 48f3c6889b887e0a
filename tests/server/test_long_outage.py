"""Traffic through an outage of the database: what was accepted is delivered, and what nobody kept is told.

Five seconds, or a minute with NETRA_CHAOS_SECONDS (make chaos).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

import netra_queue
from netra_queue.management.scenarios.client import Client
from tests.chaos.proxy import Proxy
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.server.conftest import World, holds, live, new_queue, play
from tests.settings import REDIS_URL
from tests.waiting import await_until

OUTAGE_SECONDS = min(60.0, max(5.0, float(os.environ.get("NETRA_CHAOS_SECONDS", "5"))))
CLIENTS = 5
PAUSE_SECONDS = 0.2
POLICIES = {"live": {"WHILE_UNAVAILABLE": "live", "HEARTBEAT_SECONDS": 600}, "default": {"HEARTBEAT_SECONDS": 600}}


class Talk:
    """A client of a queue that does without the store: it has its consumer send to that queue, and counts."""

    def __init__(self, client: Client) -> None:
        self.client, self.told = client, 0

    async def go_on(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await self.client.send({"tell": self.told})
            self.told += 1
            await asyncio.sleep(PAUSE_SECONDS)

    @property
    def answers(self) -> list[str]:
        """What became of each, in the order of telling. Refused is what was sent before the breaker opened."""
        return [data["outcome"] for data in self.client.data if isinstance(data, dict)]

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(self.answers)

    @property
    def missing(self) -> set[int]:
        """What was accepted and has not come."""
        accepted = {number for number, outcome in enumerate(self.answers) if outcome != "refused"}
        return accepted - {data for data in self.client.data if isinstance(data, int)}

    @property
    def unprotected(self) -> int:
        return sum(frame.get("unprotected", 0) for frame in self.client.frames("netra.lost"))


async def keep_sending(queues: list[str], accepted: dict[str, list[int]], until: asyncio.Event) -> None:
    """From another process, whose way to the database stays open."""
    number = 0
    while not until.is_set():
        for queue in queues:
            await netra_queue.asend(queue, number)
            accepted[queue].append(number)
        number += 1
        await asyncio.sleep(PAUSE_SECONDS)


@needs_redis
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE[:1])
def test_traffic_goes_on_and_all_is_accounted_for(make_world: Callable[..., World], alias: str, kind: str) -> None:
    world = make_world(alias, REDIS_URL)
    url = urlsplit(world.environment["DATABASE_URL"])
    proxy = Proxy(url.hostname or "127.0.0.1", url.port or 5432)

    async def goes_on() -> None:
        async with proxy:
            credentials, at, _ = url.netloc.rpartition("@")
            through = url._replace(netloc=f"{credentials}{at}127.0.0.1:{proxy.own_port}")
            world.environment["DATABASE_URL"] = urlunsplit(through)
            server = world.start(kind, POLL_SECONDS=0.3, POLICIES=POLICIES)
            talks = [Talk(world.client(server, policy="live", consumer="teller")) for _ in range(CLIENTS)]
            kept: dict[str, list[int]] = {new_queue(): [] for _ in range(CLIENTS)}
            takers = {queue: world.client(server, queue) for queue in kept}
            await _connect([*(talk.client for talk in talks), *takers.values()])
            await _rage(proxy, talks, kept)
            for talk in talks:
                await talk.client.until(lambda talk=talk: len(talk.answers) == talk.told and not talk.missing)
                assert talk.outcomes["queued"] > 3
                await await_until(lambda talk=talk: talk.unprotected == talk.outcomes["live_only"], 40)
            for queue, numbers in kept.items():
                await takers[queue].take(len(numbers))
                assert takers[queue].data == numbers
                await holds(queue, 0)
            for client in [*(talk.client for talk in talks), *takers.values()]:
                assert len(client.frames("netra.hello")) == 1, "nobody had to come again"
                await client.disconnect()

    play(goes_on())


async def _connect(clients: list[Client]) -> None:
    for client in clients:
        await client.connect()
        await live(client)


async def _rage(proxy: Proxy, talks: list[Talk], kept: dict[str, list[int]]) -> None:
    """Traffic before, during and after the outage, until each talk is kept again."""
    stop: Any = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for talk in talks:
            tasks.create_task(talk.go_on(stop))
        tasks.create_task(keep_sending(list(kept), kept, stop))
        await asyncio.sleep(1)
        await proxy.cut()
        began = time.monotonic()
        await await_until(lambda: all(talk.outcomes["live_only"] for talk in talks), 30)
        await asyncio.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - began)))
        await proxy.restore()
        before = [talk.outcomes["queued"] for talk in talks]
        await await_until(
            lambda: all(talk.outcomes["queued"] > some + 3 for talk, some in zip(talks, before, strict=True)), 30
        )
        stop.set()
