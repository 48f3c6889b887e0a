"""The numbers in the table are what happened: a real server, senders in processes of their own, one database."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from netra_queue.core.statistics import Event, Figures, Gauge, Timing
from netra_queue.models import Statistics
from netra_queue.stores import current_store
from netra_queue.stores.statistics_base import KEPT
from tests import counts
from tests.server.conftest import World, holds, live, new_queue, play

SENDER = """
import sys, django
django.setup()
from django.db import transaction
import netra_queue
from netra_queue import Priority
queue, number = sys.argv[1], int(sys.argv[2])
for n in range(number):
    netra_queue.send(queue, {"n": n}, priority=Priority.HIGH)
netra_queue.send_many([(queue, {"n": n}) for n in range(number)], key="once")
netra_queue.send(queue, "again", key="once")
try:
    with transaction.atomic():
        netra_queue.send(queue, "never")
        raise KeyError
except KeyError:
    pass
try:
    netra_queue.send(queue, 300_000 * "x")
except netra_queue.MessageTooLarge:
    pass
"""


async def send(world: World, queue: str, number: int) -> None:
    sender = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SENDER, queue, str(number), env={**os.environ, **world.environment}
    )
    assert await sender.wait() == 0


def total() -> Figures:
    return current_store().statistics_total()


def test_the_numbers_are_what_happened(world: World, database: str) -> None:
    has_layer = bool(world.environment["REDIS_URL"])
    server = world.start(POLL_SECONDS=3600 if has_layer else 2)

    async def happens() -> None:
        queue = new_queue()
        await send(world, queue, 10)
        async with world.client(server, queue) as client:
            await client.take(11)
            await live(client)
            await send(world, queue, 20)
            await client.take(11 + 20)
            await holds(queue, 0)
        async with world.client(server, queue, acks=False) as client:
            await send(world, queue, 3)
            await client.take(3)

    play(happens())
    assert server.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
    figures = total()
    found = counts.counted(figures)
    missed = found.pop("bell_missed", 0)  # with the in-process layer, other processes ring for nobody
    assert not (has_layer and missed)
    assert found == {
        "accepted": 10 + 1 + 20 + 3,
        "transmitted": 10 + 1 + 20 + 3,
        "acked": 10 + 1 + 20,
        "duplicate": 9 + 1 + 20 + 1 + 3 + 1,
        "rejected_too_large": 3,
        "connected": 2,
    }
    assert figures.timings[Timing.REPLAY_ACK].count == 11
    assert figures.timings[Timing.ACK].count == 20
    assert figures.timings[Timing.LIVE].count == 2
    assert current_store().overview(10, 1000).messages == 3
    rows = Statistics.objects.using(current_store().using)  # type: ignore[attr-defined]
    assert set(rows.values_list("span", flat=True)) == {10}
    assert len(set(rows.values_list("process", flat=True))) == 4, "three senders and a server"


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_a_server_that_is_stopped_has_written_everything(sqlite_world: World, kind: str) -> None:
    """With its clients there. Uvicorn ends its process by the signal that it got, and runs no exit handlers."""
    server = sqlite_world.start(kind)

    async def happens() -> None:
        queue = new_queue()
        async with sqlite_world.client(server, queue) as client, sqlite_world.client(server, new_queue()):
            await send(sqlite_world, queue, 3)
            await client.take(4)
            await holds(queue, 0)
            await asyncio.to_thread(server.stop, signal.SIGTERM)

    play(happens())
    figures = total()
    assert (figures.count(Event.ACCEPTED), figures.count(Event.TRANSMITTED), figures.count(Event.ACKED)) == (4, 4, 4)
    assert figures.count(Event.CONNECTED) == 2


def test_two_servers_write_while_they_run(sqlite_world: World) -> None:
    """Each its own row; nothing has to end for an operator to see something."""
    servers = [sqlite_world.start(kind) for kind in ("daphne", "uvicorn")]

    async def happens() -> None:
        queues = [new_queue() for _ in servers]
        clients = [sqlite_world.client(server, queue) for server, queue in zip(servers, queues, strict=True)]
        async with clients[0], clients[1]:
            for client, queue in zip(clients, queues, strict=True):
                await live(client)
                await send(sqlite_world, queue, 2)
                await client.take(3)
            for _ in range(150):
                figures = await sync_to_async(total)()
                if figures.count(Event.ACKED) == 6 and figures.gauges[Gauge.CONNECTIONS] > 0:
                    break
                await asyncio.sleep(0.2)
            assert figures.count(Event.ACKED) == 6
            assert figures.count(Event.CONNECTED) == 2

    play(happens())


@pytest.mark.parametrize("how", [signal.SIGKILL], ids=["killed"])
def test_a_process_that_is_killed_takes_ten_seconds_with_it_at_most(sqlite_world: World, how: Any) -> None:
    """And no message: counts are what is lost."""
    server = sqlite_world.start()

    async def happens() -> None:
        queue = new_queue()
        async with sqlite_world.client(server, queue) as client:
            await live(client)
            await asyncio.sleep(11)
            server.stop(how)

    play(happens())
    assert total().count(Event.CONNECTED) == 1
    now = current_store().now()
    assert len(current_store().statistics(now - KEPT, now, 86_400)) >= 1
