"""Devices over real sockets: a client with an id has a line of its own under its user's queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction

import netra_queue
from netra_queue.core.wire import CloseCode
from netra_queue.management.scenarios.client import Client
from netra_queue.management.scenarios.server import Server
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.server.conftest import World, has_looked_again, holds, live, new_queue, play
from tests.settings import REDIS_URL
from tests.waiting import await_until


@pytest.fixture(params=["daphne", "uvicorn"])
def server(request: pytest.FixtureRequest, world: World) -> Server:
    return world.start(request.param)


def device(world: World, server: Server, queue: str, id: str, **options: Any) -> Client:
    return world.client(server, queue, query=f"?client={id}" if id else "", **options)


async def visit(client: Client) -> None:
    """Come, be known, and leave."""
    async with client:
        await live(client)


def test_every_device_gets_its_own_copy(world: World, server: Server) -> None:
    async def each() -> None:
        queue = new_queue()
        phone, tab, nameless = (device(world, server, queue, id) for id in ("phone", "tab", ""))
        for client, line in ((phone, f"{queue}/phone"), (tab, f"{queue}/tab"), (nameless, queue)):
            await visit(client)
            assert client.frames("netra.hello")[0]["queue"] == line
        await netra_queue.asend(queue, "away")
        async with phone, nameless:
            await netra_queue.asend(queue, "live")
            for client in (phone, nameless):
                assert await client.take(2) == ["away", "live"]
        async with tab:
            assert await tab.take(2) == ["away", "live"]
        for line in (queue, f"{queue}/phone", f"{queue}/tab"):
            await holds(line, 0)

    play(each())


def test_a_raw_client_with_an_id_has_a_line(world: World, server: Server) -> None:
    async def raw() -> None:
        queue = new_queue()
        phone, tab = device(world, server, queue, "phone", raw=True), device(world, server, queue, "tab")
        await netra_queue.asend(queue, 1)
        async with phone:
            assert await phone.take(1) == [1]
        await visit(tab)
        await netra_queue.asend(queue, 2)
        async with phone, tab:
            assert await tab.take(1) == [2]
            assert await phone.take(2) == [1, 2]

    play(raw())


def test_an_ack_is_for_its_own_line(world: World, server: Server) -> None:
    async def only_one() -> None:
        queue = new_queue()
        phone, tab = device(world, server, queue, "phone"), device(world, server, queue, "tab", acks=False)
        async with phone, tab:
            await live(phone)
            await live(tab)
            await netra_queue.asend(queue, "both")
            await phone.take(1)
            await tab.take(1)
            await holds(f"{queue}/phone", 0)
            assert phone.received[0]["id"] == tab.received[0]["id"]
            await holds(f"{queue}/tab", 1)
        tab.received.clear()
        tab.acks = True
        async with tab:
            assert await tab.take(1) == ["both"]

    play(only_one())


def test_two_devices_that_appear_at_once_share_what_waited_without_repeats(world: World, server: Server) -> None:
    async def once() -> None:
        for _ in range(5):
            queue = new_queue()
            await netra_queue.asend_many([(queue, number) for number in range(20)])
            clients = [device(world, server, queue, id) for id in ("a", "b")]
            await asyncio.gather(*(client.connect() for client in clients))

            def has_all(clients: list[Client] = clients) -> bool:
                return sum(len(client.received) for client in clients) >= 20

            await await_until(has_all)
            assert sorted([*clients[0].data, *clients[1].data]) == list(range(20))
            for client in clients:
                await client.disconnect()

    play(once())


def test_what_the_consumer_sends_itself_is_for_that_device(world: World, server: Server) -> None:
    async def own() -> None:
        queue = new_queue()
        phone, tab = device(world, server, queue, "phone", acks=False), device(world, server, queue, "tab")
        async with tab:
            await live(tab)
            await phone.connect()
            await phone.send({"send": 3})
            await phone.take(3)
            await phone.cut()
            await holds(f"{queue}/phone", 3)
            phone.received.clear()
            phone.acks = True
            async with phone:
                assert await phone.take(3) == [{"own": number} for number in range(3)]
            assert tab.data == []

    play(own())


def test_the_first_device_takes_it_off_the_others(world: World, server: Server) -> None:
    async def first() -> None:
        queue = new_queue()
        phone, tab = device(world, server, queue, "phone"), device(world, server, queue, "tab")
        await visit(phone)
        await visit(tab)
        await netra_queue.asend(queue, "once", deliver="first")
        await netra_queue.asend(queue, "all")
        async with phone:
            assert await phone.take(2) == ["once", "all"]
            await holds(f"{queue}/phone", 0)
        async with tab:
            assert await tab.take(1) == ["all"]

    play(first())


def test_devices_can_be_listed_and_forgotten(world: World, server: Server) -> None:
    async def listed() -> None:
        queue = new_queue()
        phone, tab = device(world, server, queue, "phone"), device(world, server, queue, "tab")
        await visit(phone)

        async def has_left() -> bool:
            return not any(found.is_connected for found in await netra_queue.adevices(queue))

        await await_until(has_left)
        async with tab:
            await live(tab)
            found = await netra_queue.adevices(queue)
            assert [(d.client, d.queue, d.is_connected) for d in found] == [
                ("tab", f"{queue}/tab", True),
                ("phone", f"{queue}/phone", False),
            ]
            await netra_queue.asend(queue, "hello")
            await tab.take(1)
            assert await netra_queue.aforget_device(queue, "phone") == 1
            assert [d.client for d in await netra_queue.adevices(queue)] == ["tab"]
        async with phone:
            await live(phone)
            lost = phone.frames("netra.hello")[0]["lost"]
            assert (lost["dropped"], phone.data) == (1, [])

    play(listed())


def test_one_device_can_be_sent_to(world: World, server: Server) -> None:
    async def direct() -> None:
        queue = new_queue()
        phone, tab = device(world, server, queue, "phone"), device(world, server, queue, "tab")
        async with phone, tab:
            await live(phone)
            await live(tab)
            await netra_queue.asend(f"{queue}/tab", "for you")
            await netra_queue.asend(queue, "for both")
            assert await tab.take(2) == ["for you", "for both"]
            assert await phone.take(1) == ["for both"]

    play(direct())


def test_too_many_connected_devices(world: World) -> None:
    server = world.start(POLICIES={"few": {"MAX_LINES": 1}})

    async def refused() -> None:
        queue = new_queue()
        phone, tab = (device(world, server, queue, id, policy="few") for id in ("phone", "tab"))
        async with phone:
            await live(phone)
            await tab.connect()
            assert await tab.closed() == CloseCode.TOO_MANY_CONNECTIONS
            await netra_queue.asend(queue, "still here")
            assert await phone.take(1) == ["still here"]

        async def is_idle() -> bool:
            return not any(found.is_connected for found in await netra_queue.adevices(queue))

        await await_until(is_idle)
        await visit(tab)
        assert [found.client for found in await netra_queue.adevices(queue)] == ["tab"]

    play(refused())


@asynccontextmanager
async def sent_before_it_came(alias: str, queue: str, client: Client) -> AsyncIterator[None]:
    """A sender writes "late" before the client comes, and commits when it is live."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def send_slowly() -> None:
        try:
            with transaction.atomic(using=alias):
                netra_queue.send(queue, "late")
                loop.call_soon_threadsafe(begun.set)
                asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(30)
        finally:
            connections[alias].close()

    sending = asyncio.create_task(sync_to_async(send_slowly, thread_sensitive=False)())
    await begun.wait()
    async with client:
        await live(client)
        await has_looked_again()
        go_on.set()
        await sending
        yield


@pytest.mark.parametrize("concurrent_database", CONCURRENT_DATABASES_HERE, indirect=True)
def test_a_sender_that_knew_of_no_device(concurrent_database: str, make_world: Callable[..., World]) -> None:
    """It began before the device came, and commits after: the device gets the message within a poll."""
    world = make_world(concurrent_database)
    server = world.start(POLL_SECONDS=0.3)

    async def late() -> None:
        queue = new_queue()
        phone = device(world, server, queue, "phone")
        async with sent_before_it_came(concurrent_database, queue, phone):
            assert await phone.take(1) == ["late"]
        await holds(queue, 0)
        await holds(f"{queue}/phone", 0)

    play(late())


@needs_redis
@pytest.mark.parametrize("concurrent_database", CONCURRENT_DATABASES_HERE, indirect=True)
def test_what_it_sends_next_does_not_overtake(concurrent_database: str, make_world: Callable[..., World]) -> None:
    world = make_world(concurrent_database, REDIS_URL)
    server = world.start(POLL_SECONDS=5)

    async def in_order() -> None:
        queue, other = new_queue(), new_queue()
        async with world.client(server, other) as listener:  # the server polls once, when it can hear bells
            await live(listener)
            await netra_queue.asend(other, "heard")
            await listener.take(1)
        phone = device(world, server, queue, "phone")
        async with sent_before_it_came(concurrent_database, queue, phone):
            await netra_queue.asend(queue, "next")
            assert await phone.take(2) == ["late", "next"]

    play(in_order())
