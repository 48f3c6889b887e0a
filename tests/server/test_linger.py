"""Lingering: what is sent to a group while a client is away reaches it, with consumers that only got the mixin."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from asgiref.sync import sync_to_async

from netra_queue.core.actions import ReadRequest
from netra_queue.management.scenarios.client import Client
from netra_queue.management.scenarios.server import Server
from netra_queue.models import Linger
from netra_queue.stores import current_store
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.server.conftest import World, distinct, holds, live, new_queue, play
from tests.settings import REDIS_URL
from tests.waiting import await_until

pytestmark = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
ON_POSTGRESQL = CONCURRENT_DATABASES_HERE[:1]
TUTORIAL = "tests.server.tutorial.application"
NEVER = 3600  # a poll interval that no test lives to see
users = itertools.count(1)


def chat(server: Server, consumer: str, user: int, room: str) -> str:
    return f"ws://127.0.0.1:{server.port}/{server.token}/{consumer}/{user}/ws/chat/{room}/"


async def lingers(queue: str, using: str) -> None:
    """The store knows that a consumer of this queue lingers."""
    rows = Linger.objects.using(using).filter(queue__name=queue)
    await await_until(sync_to_async(rows.exists))


def new_room() -> str:
    return os.urandom(8).hex()


async def say(client: Client, *messages: str) -> None:
    """One after the other, each when the one before has come back: the layer promises no order."""
    for message in messages:
        await client.send({"message": message})
        await client.until(lambda message=message: {"message": message} in client.data)


def words(client: Client) -> list[str]:
    """What it heard, without repeats."""
    return list(dict.fromkeys(data["message"] for data in client.data))


@pytest.mark.parametrize("raw", [False, True], ids=["v1", "raw"])
@pytest.mark.parametrize("consumer", ["async", "sync"])
def test_the_tutorials_chat_over_a_short_drop(sqlite_world: World, kind: str, consumer: str, raw: bool) -> None:
    server = sqlite_world.start(kind, application=TUTORIAL)
    ann, bob, room = next(users), next(users), new_room()

    async def nothing_is_lost() -> None:
        away = Client(chat(server, consumer, ann, room), raw=raw)
        await away.connect()
        async with Client(chat(server, consumer, bob, room)) as stays:
            await live(stays)
            await say(stays, "before")
            await away.take(1)
            for cycle in "12":
                await away.cut()
                await lingers(f"user.{ann}", "default")
                await say(stays, f"away {cycle}", f"still away {cycle}")
                await away.connect()
                await away.until(lambda cycle=cycle: f"still away {cycle}" in words(away))
                await say(stays, f"back {cycle}")
                await away.until(lambda cycle=cycle: f"back {cycle}" in words(away))
        await away.disconnect()
        assert words(away) == ["before", *(f"{when} {n}" for n in "12" for when in ("away", "still away", "back"))]

    play(nothing_is_lost())


def members(room: str) -> int:
    """How many channels are in the room's group."""
    with redis.Redis.from_url(REDIS_URL) as connection:
        return int(connection.zcard(f"asgi:group:chat_{room}"))


@needs_redis
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.parametrize("consumer", ["async", "sync"])
@pytest.mark.parametrize("word", ["told", "polled"])
def test_the_tutorials_chat_over_a_drop_to_another_process(
    make_world: Callable[..., World], kind: str, alias: str, consumer: str, word: str
) -> None:
    """The lingering consumer learns of the return by a word through Redis, or, when that is lost, by its poll."""
    world = make_world(alias, REDIS_URL)
    options: dict[str, Any] = {"told": {"POLL_SECONDS": NEVER}, "polled": {"CHANNEL_LAYER": "absent"}}[word]
    first, second = (world.start(kind, application=TUTORIAL, **options) for _ in range(2))
    ann, bob, room = next(users), next(users), new_room()

    async def nothing_is_lost() -> None:
        away = Client(chat(first, consumer, ann, room))
        await away.connect()
        async with Client(chat(second, consumer, bob, room)) as stays:
            await live(stays)
            await say(stays, "before")
            await away.take(1)
            for server, other in ((first, second), (second, first)):
                await away.cut()
                await lingers(f"user.{ann}", alias)
                assert members(room) == 2
                await say(stays, f"away from {server.port}", f"still away from {server.port}")
                await away.connect(chat(other, consumer, ann, room))
                await await_until(lambda: members(room) == 2)
                await away.until(lambda server=server: f"still away from {server.port}" in words(away))
                await say(stays, f"back on {other.port}")
                await away.until(lambda other=other: f"back on {other.port}" in words(away))
        await away.disconnect()
        said = ["before"]
        for server, other in ((first, second), (second, first)):
            said += [f"away from {server.port}", f"still away from {server.port}", f"back on {other.port}"]
        assert [data["message"] for data in distinct(away)] == said, "each once, though two consumers heard the group"

    play(nothing_is_lost())


async def stored(queue: str) -> list[str]:
    (batch,) = await sync_to_async(current_store().read)([(queue, ReadRequest(100, 10**6, frozenset()))])
    return [message.payload.text.strip('"') for message in batch.messages]


@pytest.mark.parametrize("consumer", ["leaving", "staying", "syncstaying"])
def test_the_hook_is_called_at_once_and_disconnect_when_the_time_is_over(
    sqlite_world: World, kind: str, consumer: str
) -> None:
    server = sqlite_world.start(kind)

    async def told() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, consumer=consumer)
        await client.connect()
        await live(client)
        await client.cut()
        await holds(queue, 1)
        assert await stored(queue) == ["disconnected"]
        if consumer == "leaving":
            await holds(queue, 2)
            assert await stored(queue) == ["disconnected", "disconnect"]

    play(told())


@pytest.mark.parametrize("consumer", ["staying", "syncstaying"])
def test_the_process_ends_with_consumers_that_linger(sqlite_world: World, kind: str, consumer: str) -> None:
    """Daphne's end tells them. Uvicorn ends its process by a signal, and nothing is waited for."""
    server = sqlite_world.start(kind)

    async def ends() -> int:
        queues = [new_queue() for _ in range(5)]
        for queue in queues:
            client = sqlite_world.client(server, queue, consumer=consumer)
            await client.connect()
            await live(client)
            await client.cut()
            await lingers(queue, "default")
            await holds(queue, 1)
        began = time.monotonic()
        status = await asyncio.to_thread(server.stop)
        assert time.monotonic() - began < 3
        expected = ["disconnected", "disconnect"] if kind == "daphne" else ["disconnected"]
        assert [await stored(queue) for queue in queues] == [expected] * 5
        return status

    assert play(ends()) == (0 if kind == "daphne" else -signal.SIGTERM)
