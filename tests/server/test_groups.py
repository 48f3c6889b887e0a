"""Durable groups over real sockets: who is connected, who is away, and who has two devices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

import netra_queue
from netra_queue.stores import current_store
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.server.conftest import World, distinct, holds, live, new_queue, play
from tests.settings import REDIS_URL

ON_POSTGRESQL = CONCURRENT_DATABASES_HERE[:1]
NEVER = 3600  # a poll interval that no test lives to see


def member(world: World, server: object, queue: str, client: str = "", consumer: str = "member"):  # type: ignore[no-untyped-def]
    return world.client(server, queue, consumer=consumer, query=f"?client={client}" if client else "")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_the_connected_the_absent_and_every_device_get_it(world: World, kind: str) -> None:
    server = world.start(kind)
    here, away, devices = new_queue(), new_queue(), new_queue()

    async def all_get_it() -> None:
        async with AsyncExitStack() as stack:
            absent = member(world, server, away, consumer="syncmember")
            async with absent:
                await live(absent)
            one = await stack.enter_async_context(member(world, server, here))
            phone = await stack.enter_async_context(member(world, server, devices, "phone"))
            tab = member(world, server, devices, "tab")
            async with tab:
                await live(tab)
            await live(one)
            await live(phone)
            receipt = await netra_queue.agroup_send("members", {"n": 1})
            assert receipt.recipients == 3, "a user's devices are one recipient"
            for client in (one, phone):
                assert await client.take(1) == [{"n": 1}]
            await tab.connect()
            await absent.connect()
            for client in (tab, absent):
                assert await client.take(1) == [{"n": 1}]
                await client.disconnect()
            assert [len(distinct(client)) for client in (one, phone, tab, absent)] == [1] * 4
            assert {m["id"] for client in (one, phone, tab, absent) for m in client.received} == {receipt.id}
            for line in (here, away, devices, f"{devices}/phone", f"{devices}/tab"):
                await holds(line, 0)

    play(all_get_it())


def test_a_member_stays_one_until_it_is_unsubscribed(sqlite_world: World) -> None:
    world = sqlite_world
    server = world.start()
    queue = new_queue()

    async def comes_and_goes() -> None:
        client = member(world, server, queue)
        async with client:
            await live(client)
        assert (await netra_queue.agroup_send("members", 1)).recipients == 1
        assert await netra_queue.aunsubscribe(queue, "members")
        assert (await netra_queue.agroup_send("members", 2)).recipients == 0
        async with client:
            await live(client)
            assert await client.take(1) == [1]
            assert (await netra_queue.agroup_send("members", 3)).recipients == 1, "it came again"
            assert await client.take(2) == [1, 3]

    play(comes_and_goes())


@needs_redis
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.parametrize("most_queues", ["names", "everything"])
def test_a_bell_reaches_the_members_of_every_process(
    make_world: Callable[..., World], alias: str, most_queues: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a poll to help: by name, and told to look at everything."""
    if most_queues == "everything":
        monkeypatch.setattr("netra_queue.wakeup.MOST_QUEUES", 0)
    world = make_world(alias, REDIS_URL)
    servers = [world.start(kind, POLL_SECONDS=NEVER) for kind in ("daphne", "uvicorn")]
    queues = [new_queue() for _ in range(4)]

    async def all_are_rung() -> None:
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(member(world, servers[number % 2], queue, "tab" if number > 1 else ""))
                for number, queue in enumerate(queues)
            ]
            for client in clients:
                await live(client)
            assert (await netra_queue.agroup_send("members", "hello")).recipients == 4
            for client in clients:
                assert await client.take(1) == ["hello"]

    play(all_are_rung())
    assert sorted(current_store().members("members", 10)) == sorted(queues)
