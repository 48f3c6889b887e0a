"""What operators do to queues and connections, on real servers: with a bell, and without one."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command

import netra_queue
from netra_queue.stores import current_store
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.making import make_draft, put
from tests.server.conftest import (
    World,
    answers,
    connected,
    distinct,
    has_looked_again,
    holds,
    live,
    new_queue,
    play,
    stat,
)
from tests.settings import REDIS_URL
from tests.waiting import await_until

ON_POSTGRESQL = CONCURRENT_DATABASES_HERE[:1]
NEVER = 3600  # a poll interval that no test lives to see
PROMISED_SECONDS = 2.0
SENT_AWAY = 4512


def netra(*arguments: str) -> str:
    out = io.StringIO()
    call_command("netra_queue", *arguments, stdout=out)
    return out.getvalue()


manage = sync_to_async(netra)


async def paused_and_resumed(world: World, kind: str, poll_seconds: float) -> list[float]:
    """A queue with a client on each of two servers. Returns how long its messages took after it was resumed."""
    servers = [world.start(kind, POLL_SECONDS=poll_seconds) for _ in range(2)]
    queue = new_queue()
    clients = [world.client(server, queue, query=f"?client=c{n}") for n, server in enumerate(servers)]
    for client in clients:
        await client.connect()
        await live(client)
    await netra_queue.asend(queue, "before")
    for client in clients:
        assert await client.take(1) == ["before"]
        await answers(client)
    await manage("pause", queue, "--reason", "test")
    await asyncio.sleep(PROMISED_SECONDS)
    late = world.client(servers[0], queue, query="?client=late")
    await late.connect()
    await connected(f"{queue}/late", 1)
    await netra_queue.asend_many([(queue, number) for number in range(3)])
    for client in clients:
        await client.send({"send": 1})  # its consumer echoes: what it sends itself is held, too
    await has_looked_again()
    await asyncio.sleep(1.5)  # own sends are stored by then
    assert [len(client.received) for client in (*clients, late)] == [1, 1, 0]
    assert late.frames("netra.live") == [], "it has not caught up"
    for line in ("c0", "c1"):
        await holds(f"{queue}/{line}", 4)
    assert (await stat(queue)).pause is not None
    began = time.monotonic()
    await manage("resume", queue)
    delays = []
    for client, count in ((clients[0], 5), (clients[1], 5), (late, 3)):
        await client.take(count, PROMISED_SECONDS)
        delays.append(time.monotonic() - began)
    await live(late)
    for client in clients:
        assert distinct(client) == ["before", 0, 1, 2, {"own": 0}]
    assert distinct(late) == [0, 1, 2]
    for client in (*clients, late):
        await client.disconnect()
    return delays


@needs_redis
@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE)
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_a_queue_is_paused_and_resumed(make_world: Callable[..., World], alias: str, kind: str) -> None:
    world = make_world(alias, REDIS_URL)
    delays = play(paused_and_resumed(world, kind, NEVER))
    assert max(delays) < 1.0, f"{delays}: without a bell it takes up to 1.5 s to find out"


def test_a_queue_is_paused_and_resumed_without_a_bell(sqlite_world: World) -> None:
    """The in-process channel layer of the embedded defaults reaches no other process."""
    play(paused_and_resumed(sqlite_world, "daphne", 1.0))


def test_a_pause_ends_by_itself(sqlite_world: World) -> None:
    server = sqlite_world.start("daphne", POLL_SECONDS=NEVER)

    async def ended() -> None:
        queue = new_queue()
        await manage("pause", queue, "--minutes", str(3 / 60))
        await netra_queue.asend(queue, "at last")
        async with sqlite_world.client(server, queue) as client:
            await has_looked_again()
            assert client.received == []
            assert await client.take(1, 5) == ["at last"]
            await live(client)

    play(ended())


async def sent_away(world: World, kind: str) -> None:
    servers = [world.start(kind, POLL_SECONDS=NEVER) for _ in range(2)]
    queue, other = new_queue(), new_queue()
    first, second = (world.client(server, queue, query=f"?client=c{n}") for n, server in enumerate(servers))
    raw, bystander = world.client(servers[0], queue, raw=True), world.client(servers[1], other)
    for client in (first, second, raw, bystander):
        await client.connect()
    for client in (first, second, bystander):
        await live(client)
    await connected(queue, 1)
    began = time.monotonic()
    assert await manage("disconnect", f"{queue}/c1", "--after", "0.2") == f"connections of {queue}/c1: 1 are closed\n"
    assert await second.closed(PROMISED_SECONDS + 1) == SENT_AWAY
    assert time.monotonic() - began < PROMISED_SECONDS + 1
    (retry,) = second.frames("netra.retry")
    assert 0.2 <= retry["after"] <= 0.3
    await answers(first)
    await netra_queue.asend(queue, "meanwhile")
    await second.connect()
    assert await second.take(1) == ["meanwhile"], "nothing was lost"
    await manage("disconnect", queue)
    for client in (first, second, raw):
        assert await client.closed(PROMISED_SECONDS + 1) == SENT_AWAY
    assert 5 <= first.frames("netra.retry")[0]["after"] <= 7.5
    await answers(bystander)
    await first.connect()
    await answers(first)
    await asyncio.sleep(PROMISED_SECONDS)
    await answers(first)  # a new connection is not sent away for what was said of the one before
    for client in (first, bystander):
        await client.disconnect()


@needs_redis
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_clients_are_sent_away(make_world: Callable[..., World], alias: str, kind: str) -> None:
    play(sent_away(make_world(alias, REDIS_URL), kind))


def test_clients_are_sent_away_without_a_bell(sqlite_world: World) -> None:
    play(sent_away(sqlite_world, "daphne"))


def test_a_connected_device_is_forgotten(sqlite_world: World) -> None:
    server = sqlite_world.start("daphne", POLL_SECONDS=NEVER)

    async def forgotten() -> None:
        queue = new_queue()
        stays, goes = (sqlite_world.client(server, queue, query=f"?client={id}", acks=False) for id in ("a", "b"))
        async with stays, goes:
            for client in (stays, goes):
                await live(client)
            await netra_queue.asend(queue, 1)
            await holds(f"{queue}/b", 1)
            assert await manage("forget", f"{queue}/b", "--yes") == f"{queue}/b: 1 messages removed; it is forgotten\n"
            assert await goes.closed() == SENT_AWAY
            await answers(stays)
        lines = await sync_to_async(current_store().lines)(queue)
        assert [line.name for line in lines] == [f"{queue}/a"]

    play(forgotten())


def test_recover_after_a_server_was_killed(sqlite_world: World, settings: Any) -> None:
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "SERVER_HEARTBEAT_SECONDS": 1}
    dies = sqlite_world.start("daphne", POLL_SECONDS=NEVER, SERVER_HEARTBEAT_SECONDS=1)

    async def recovered() -> None:
        queue = new_queue()
        client = sqlite_world.client(dies, queue, acks=False)
        await client.connect()
        await live(client)
        await netra_queue.asend(queue, "kept")
        await client.take(1)
        await asyncio.to_thread(dies.stop, signal.SIGKILL)
        await client.closed()
        assert (await stat(queue)).connections == 1, "nobody has noticed yet"
        await await_until(has_missed_its_heartbeats)
        assert json.loads(await manage("recover", "--dry-run", "--json"))["connections"] == 1
        report = json.loads(await manage("recover", "--json"))
        assert report == {
            "connections": 1,
            "queues": 1,
            "messages": 1,
            "resized": 0,
            "lost": 0,
            "dry_run": False,
        }
        assert (await stat(queue)).connections == 0
        lives = await asyncio.to_thread(sqlite_world.start, "daphne", SERVER_HEARTBEAT_SECONDS=1)
        async with sqlite_world.client(lives, queue) as back:
            assert await back.take(1) == ["kept"]

    async def has_missed_its_heartbeats() -> bool:
        return await sync_to_async(current_store().servers)() == []

    play(recovered())


@needs_redis
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
def test_recover_and_resend_ring_for_what_no_bell_was_rung_for(make_world: Callable[..., World], alias: str) -> None:
    """As with rows from a restored backup, or when the layer was away."""
    world = make_world(alias, REDIS_URL)
    server = world.start("daphne", POLL_SECONDS=NEVER)

    async def rung() -> None:
        store = current_store()
        async with world.client(server) as client:
            queue = client.url.rpartition("/")[2]
            await live(client)
            await has_looked_again()
            for count, verb in enumerate((("recover",), ("resend", queue)), 1):
                await sync_to_async(put)(store, make_draft(queue))
                await answers(client)
                assert len(client.received) == count - 1
                await manage(*verb)
                await client.take(count, PROMISED_SECONDS)

    play(rung())
