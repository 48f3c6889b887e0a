"""What the client sends to the consumer: in order, over any number of connections, or with an error."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from netra_queue.client import OutboxFull, QueueClosed, State, StateChange, connect
from tests.client.making import ended, stub, take
from tests.client.test_queue import alone
from tests.waiting import await_until


@alone
async def test_what_is_sent_reaches_the_consumer_in_order() -> None:
    async with stub() as server, server.queue() as queue:
        sending = [asyncio.create_task(queue.send({"n": n})) for n in range(50)]
        await asyncio.gather(*sending)
        await queue.send('{"as": "it is"}')
        await await_until(lambda: len(server.heard) == 51)
        assert server.heard == [*({"n": n} for n in range(50)), {"as": "it is"}]


@alone
async def test_what_is_sent_while_offline_waits_and_goes_first() -> None:
    async with stub() as server, server.queue() as queue:
        await await_until(lambda: queue.state is State.LIVE)
        offline = asyncio.Event()
        queue.on_state = lambda change: offline.set()
        server.cut()
        await offline.wait()
        sending = [asyncio.create_task(queue.send(n)) for n in range(5)]
        await asyncio.sleep(0)
        sending[2].cancel()
        await await_until(lambda: len(server.heard) == 4)
        await queue.send(5)
        await await_until(lambda: len(server.heard) == 5)
        assert server.heard == [0, 1, 3, 4, 5]
        assert sending[2].cancelled()


@alone
async def test_what_a_stalled_connection_did_not_take_goes_by_the_next_one() -> None:
    async with stub() as server, server.queue() as queue:
        await await_until(lambda: queue.state is State.LIVE)
        server.connections[0].transport.pause_reading()
        sending = [asyncio.create_task(queue.send([n, "x" * 100_000])) for n in range(200)]
        written, before = 0, -1
        while written != before:
            await asyncio.sleep(0.1)
            before, written = written, sum(task.done() for task in sending)
        assert 0 < written < 199, "some are in buffers, some are not"
        sending[-1].cancel()
        server.cut()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*sending)
        await await_until(lambda: server.heard and server.heard[-1][0] == 198)
        later = [frame[0] for frame in server.heard if frame[0] > written]
        assert later == [*range(written + 1, 199)], "one was being written"


@alone
async def test_too_much() -> None:
    async with connect("ws://127.0.0.1:9/") as queue:
        sending = [asyncio.create_task(queue.send(n)) for n in range(1000)]
        await asyncio.sleep(0)
        with pytest.raises(OutboxFull, match="1000 frames of 2890 characters"):
            await queue.send(1000)
        for task in sending[1:]:
            task.cancel()
        await asyncio.sleep(0.01)
        with pytest.raises(OutboxFull, match="1 frames of 1 characters"):
            await queue.send("x" * 1_000_000)
    with pytest.raises(QueueClosed):
        await sending[0]


@alone
async def test_after_the_end() -> None:
    async with stub() as server:
        queue = server.queue()
        with pytest.raises(QueueClosed):
            await queue.send("before the beginning")
        async with queue:
            await queue.send(["now"])
        with pytest.raises(QueueClosed):
            await queue.send("after the end")
        await ended(server)
        assert server.heard == [["now"]]


@pytest.mark.parametrize("data", [{"type": "netra.ack", "seq": 5}, float("nan"), "\ud800", object()])
@alone
async def test_what_cannot_be_sent(data: Any) -> None:
    async with stub() as server, server.queue() as queue:
        with pytest.raises((TypeError, ValueError)):
            await queue.send(data)
        await queue.send({"type": "netraless"})
        await await_until(lambda: server.heard)
        assert server.heard == [{"type": "netraless"}]


@alone
async def test_a_server_that_goes_silent_is_noticed() -> None:
    changes: list[StateChange] = []
    async with stub("a", heartbeat=0.4) as server, server.queue() as queue:
        queue.on_state = changes.append
        assert await take(queue, 1) == ["a"]
        await asyncio.sleep(0.6)
        assert len(server.connections) == 1, "as long as it answers"
        server.is_silent = True
        await await_until(lambda: len(server.connections) == 2)
        assert [change.reason for change in changes if change.state is State.WAITING] == ["the server went silent"]
        await ended(server)
