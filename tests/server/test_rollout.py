"""Rollout, kill switch and shadow mode on real servers: what is queued, what is delivered live, what is replayed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async

import netra_queue
from netra_queue import operating
from netra_queue.core.message import Outcome
from netra_queue.core.rollout import place_of
from netra_queue.core.statistics import Event, Figures
from netra_queue.stores import current_store
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.server.conftest import World, connected, holds, live, new_queue, play
from tests.settings import REDIS_URL
from tests.waiting import await_until

KINDS = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
ON_POSTGRESQL = pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE[:1])
PROMISED_SECONDS = 2.0
NOBODY, EVERYBODY = {"PERCENT": 0}, {"PERCENT": 100}

pytestmark = needs_redis
MakeWorld = Callable[..., World]


async def set_rollout(rollout: dict[str, Any]) -> None:
    await sync_to_async(operating.carry_out)(operating.policy_changed("default", {"ROLLOUT": rollout}))


async def switch(*, is_off: bool) -> None:
    await sync_to_async(operating.carry_out)(operating.switched(is_off=is_off))


async def outcome(queue: str, payload: Any) -> Outcome:
    return (await netra_queue.asend(queue, payload)).outcome


async def reaches(queue: str, client: Any) -> None:
    """Connections on other servers are found by what reaches them: a message is given to whoever is connected then."""

    async def did() -> bool:
        await netra_queue.asend(queue, "is anybody there?")
        await asyncio.sleep(0.05)
        return bool(client.received)

    await await_until(did)
    await netra_queue.asend(queue, "now")
    await client.until(lambda: client.data[-1] == "now")
    client.received.clear()


@KINDS
@ON_POSTGRESQL
@pytest.mark.parametrize("raw", [False, True])
def test_outside_of_the_rollout_it_is_plain_channels(make_world: MakeWorld, alias: str, kind: str, raw: bool) -> None:
    world = make_world(alias, REDIS_URL)

    async def is_plain() -> None:
        await set_rollout(NOBODY)
        queue, server = new_queue(), world.start(kind)
        client = world.client(server, queue, raw=raw)
        async with client:
            await reaches(queue, client)
            assert [await outcome(queue, number) for number in range(5)] == [Outcome.LIVE_ONLY] * 5
            assert await client.take(5) == list(range(5))
            await client.send({"send": 2})
            assert await client.take(7) == [*range(5), {"own": 0}, {"own": 1}]
        await connected(queue, 0)
        await netra_queue.asend(queue, "nobody is there")
        await holds(queue, 0)
        async with client:
            await reaches(queue, client)
            await netra_queue.asend(queue, "last")
            assert (await client.take(1))[-1] == "last"

    play(is_plain())


@ON_POSTGRESQL
def test_lowering_it_drains(make_world: MakeWorld, alias: str) -> None:
    world = make_world(alias, REDIS_URL)

    async def drains() -> None:
        queue = new_queue()
        client = world.client(world.start("daphne"), queue)
        await netra_queue.asend_many([(queue, number) for number in range(3)])
        await set_rollout(NOBODY)
        assert await outcome(queue, "gone") is Outcome.LIVE_ONLY
        async with client:
            assert await client.take(3) == [0, 1, 2]
            await holds(queue, 0)
            await netra_queue.asend(queue, "live")
            assert (await client.take(4))[-1] == "live"
            await set_rollout({"PERCENT": 0, "ALLOW": [queue]})
            await client.cut()
        assert await outcome(queue, "kept") is Outcome.QUEUED
        async with client:
            assert (await client.take(5))[-1] == "kept"

    play(drains())


@ON_POSTGRESQL
def test_who_is_in_stays_in(make_world: MakeWorld, alias: str) -> None:
    make_world(alias, REDIS_URL)

    async def grows() -> None:
        queues = [new_queue() for _ in range(60)]
        before: set[str] = set()
        for percent in (10, 50, 100):
            await set_rollout({"PERCENT": percent})
            receipts = await netra_queue.asend_many([(queue, percent) for queue in queues])
            inside = {receipt.queue for receipt in receipts if receipt.outcome is Outcome.QUEUED}
            assert inside == {queue for queue in queues if place_of(queue) < percent * 100}
            assert before <= inside
            before = inside

    play(grows())


@ON_POSTGRESQL
def test_the_kill_switch_on_two_servers(make_world: MakeWorld, alias: str) -> None:
    """In both within two seconds; what waits stays, and reaches the clients that are connected when it is back on."""
    world = make_world(alias, REDIS_URL)

    async def is_killed() -> None:
        servers = [world.start("daphne"), world.start("uvicorn")]
        queues = [new_queue(), new_queue()]
        clients = [world.client(server, queue, acks=False) for server, queue in zip(servers, queues, strict=True)]
        late = world.client(servers[1], queues[0] + "")
        for client in clients:
            await client.connect()
            await live(client)
        await netra_queue.asend_many([(queue, number) for queue in queues for number in range(300)])
        for client in clients:
            await client.take(256)
        started = time.monotonic()
        await switch(is_off=True)
        for queue, client in zip(queues, clients, strict=True):
            assert await outcome(queue, "live") is Outcome.LIVE_ONLY
            await client.until(lambda client=client: client.data[-1] == "live")
        assert time.monotonic() - started < PROMISED_SECONDS
        for client in clients:
            client.acks = True
            await client.ack(257)
        async with late:
            await live(late)
            assert late.frames("netra.hello")[0]["waiting"] == 0
            await late.send({"send": 1})
            assert await late.take(1) == [{"own": 0}]
        assert all(len(client.received) == 257 for client in clients), "nothing is read"
        started = time.monotonic()
        await switch(is_off=False)
        for client in clients:
            await client.until(lambda client=client: len(client.received) == 301, PROMISED_SECONDS + 1)
            await client.disconnect()

    play(is_killed())


@ON_POSTGRESQL
def test_clients_that_came_while_it_was_off_get_what_waits_without_coming_again(
    make_world: MakeWorld, alias: str
) -> None:
    world = make_world(alias, REDIS_URL)

    async def is_back() -> None:
        queue, server = new_queue(), world.start("daphne")
        await netra_queue.asend(queue, "before")
        await switch(is_off=True)
        async with world.client(server, queue) as client:
            await live(client)
            await netra_queue.asend(queue, "meanwhile")
            assert await client.take(1) == ["meanwhile"]
            await switch(is_off=False)
            assert await client.take(2) == ["meanwhile", "before"]
            assert await outcome(queue, "after") is Outcome.QUEUED
            assert (await client.take(3))[-1] == "after"
            assert len(client.frames("netra.hello")) == 1
        await holds(queue, 0)

    play(is_back())


@ON_POSTGRESQL
def test_groups_reach_members_outside_of_the_rollout_live(make_world: MakeWorld, alias: str) -> None:
    world = make_world(alias, REDIS_URL)

    async def reaches_both() -> None:
        inside, outside, group = new_queue(), new_queue(), new_queue()
        await set_rollout({"PERCENT": 0, "ALLOW": [inside]})
        for queue in (inside, outside):
            await netra_queue.asubscribe(queue, group)
        server = world.start("daphne")
        async with world.client(server, outside) as client:
            await reaches(outside, client)
            receipt = await netra_queue.agroup_send(group, "to all")
            assert receipt.recipients == 1
            assert await client.take(1) == ["to all"]
        await holds(inside, 1)
        await holds(outside, 0)

    play(reaches_both())


@ON_POSTGRESQL
def test_shadow_mode_counts_what_it_would_have_replayed(make_world: MakeWorld, alias: str) -> None:
    world = make_world(alias, REDIS_URL)

    def events() -> list[int]:
        """Of all processes."""
        store = current_store()
        buckets = store.statistics(store.now() - timedelta(minutes=10), store.now(), 600)
        figures = Figures()
        for bucket in buckets:
            figures.add(bucket.figures)
        return [figures.count(event) for event in (Event.MISSED, Event.UNCONFIRMED)]

    async def is_counted() -> None:
        await set_rollout({"SHADOW": True})
        queue, server = new_queue(), world.start("daphne")
        client = world.client(server, queue)
        async with client:
            await live(client)
            assert await outcome(queue, "live") is Outcome.QUEUED
            assert await client.take(1) == ["live"]
            await holds(queue, 0)
            client.acks = False
            await netra_queue.asend(queue, "unconfirmed")
            await client.take(2)
            await client.cut()
        await connected(queue, 0)
        for number in range(3):
            await netra_queue.asend(queue, number)
        client.acks = True
        async with client:
            await live(client)
            assert client.frames("netra.hello")[0]["waiting"] == 0
            await netra_queue.asend(queue, "live again")
            assert (await client.take(3))[-1] == "live again"
        await holds(queue, 0)
        counted = sync_to_async(events)

        async def are() -> bool:
            return await counted() == [3, 1]

        await await_until(are, 30)

    play(is_counted())
