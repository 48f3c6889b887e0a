"""Over real sockets: collapse while a client is away, receipts that are waited for, messages that nobody acked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async

import netra_queue
from netra_queue import MessageState, Priority, maintenance
from netra_queue.core.tracking import UndeliveredMessage
from netra_queue.stores import current_store
from tests.server.conftest import STORES, World, distinct, holds, live, new_queue, nobody_holds, play
from tests.waiting import await_until

received: list[UndeliveredMessage] = []


def receive(messages: tuple[UndeliveredMessage, ...]) -> None:
    received.extend(messages)


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_a_client_that_was_away_gets_the_newest_only(world: World, kind: str) -> None:
    server = world.start(kind)

    async def away() -> None:
        queue = new_queue()
        async with world.client(server, queue) as client:
            await netra_queue.asend(queue, {"percent": 0}, collapse="progress")
            await client.take(1)
            await holds(queue, 0)
            await client.cut()
            await nobody_holds(queue)  # what is on its way to a client is left where it is
            for percent in range(1, 51):
                await netra_queue.asend(queue, {"percent": percent}, collapse="progress", track=True)
                if percent == 20:
                    await netra_queue.asend(queue, "in between")
            await netra_queue.asend(queue, "urgent", priority=Priority.HIGH, collapse="state")
            await client.connect()
            await client.take(4)
            await live(client)
            assert client.data == [{"percent": 0}, "urgent", "in between", {"percent": 50}]
            (hello,) = client.frames("netra.hello")
            assert (hello["waiting"], hello["lost"]) == (3, {"expired": 0, "dropped": 0})
        await holds(queue, 0)

    play(away())


def test_a_live_client_gets_each_state_or_a_newer_one(world: World) -> None:
    server = world.start("uvicorn")

    async def stay() -> None:
        queue = new_queue()
        async with world.client(server, queue) as client, world.client(server, queue) as other:
            await live(client)
            await live(other)
            for percent in range(101):
                await netra_queue.asend(queue, percent, collapse="progress")
            for one in (client, other):
                await one.until(lambda one=one: 100 in one.data)  # type: ignore[misc]
                seen = distinct(one)
                assert seen == sorted(seen), "never an older state after a newer one"
        await holds(queue, 0)

    play(stay())


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_a_receipt_is_waited_for(world: World, kind: str) -> None:
    server = world.start(kind)

    async def wait() -> None:
        queue = new_queue()
        receipt = await netra_queue.asend(queue, 1, track=True)
        waiting = asyncio.create_task(receipt.wait("acked", timeout=20))
        status = await receipt.astatus()
        assert status is not None
        assert status.state is MessageState.QUEUED
        async with world.client(server, queue, acks=False) as client:
            await client.take(1)
            assert (await receipt.wait("delivered", timeout=20)).state is MessageState.DELIVERED
            await client.cut()
            assert not waiting.done()
            client.acks = True
            await client.connect()
            acked = await waiting
            assert acked.delivered_at is not None
            assert acked.ended_at is not None
            assert acked.sent_at <= acked.delivered_at <= acked.ended_at

    play(wait())


def test_what_nobody_acked_is_handed_over_and_still_delivered(world: World, settings: Any, database: str) -> None:
    policies = {
        "default": {"UNDELIVERED_SECONDS": {"critical": 1.0}, "ON_UNDELIVERED": f"{__name__}.receive"},
    }
    settings.NETRA_QUEUE = {"STORE": STORES[database], "POLICIES": policies}
    server = world.start("daphne", POLICIES=policies)
    received.clear()

    async def hand_over() -> int:
        return (await sync_to_async(maintenance.hand_over)()).count

    async def stays_away() -> None:
        queue, other = new_queue(), new_queue()
        async with world.client(server, other) as reading:
            for name in (queue, other):
                await netra_queue.asend(name, {"for": name}, priority=Priority.CRITICAL)
            await netra_queue.asend(queue, "not critical")
            await reading.take(1)
            await holds(other, 0)
        await await_until(hand_over)
        assert [(message.queue, message.data) for message in received] == [(queue, {"for": queue})]
        assert await hand_over() == 0
        async with world.client(server, queue) as client:
            assert await client.take(2) == [{"for": queue}, "not critical"]
        await holds(queue, 0)
        assert (await sync_to_async(current_store().due)(10)).undelivered == 0

    play(stays_away())
