"""Bugs that other systems for durable delivery have had, one test each: how clients come, go, ack and come back.

Those that are about senders and payloads are in test_senders.py, about crowds and harm in test_hostile.py.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

import netra_queue
from netra_queue import maintenance
from netra_queue.core.message import LossReason, Outcome, Priority
from netra_queue.management.scenarios.client import Client
from netra_queue.management.scenarios.server import Server
from netra_queue.stores import current_store
from tests.chaos.proxy import Proxy
from tests.server.conftest import World, answers, connected, holds, live, new_queue, play, stat
from tests.server.test_event_loop import CALLS
from tests.waiting import await_until

KINDS = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
POLL_SECONDS = 0.2
POLICIES: dict[str, Any] = {
    "hasty": {"HEARTBEAT_SECONDS": 0.4, "ACK_TIMEOUT_SECONDS": 0.8, "LINE_SECONDS": 0.5},
    "impatient": {"ACK_TIMEOUT_SECONDS": 2},
    "narrow": {"WINDOW": 50},
    "pair": {"WINDOW": 2},
    "four": {"MAX_MESSAGES": 4},
    "wide": {"WINDOW": 2000, "MAX_MESSAGES": 2000, "CONTROL_FRAMES": None},  # a client that says everything twice
}


@pytest.fixture
def start(sqlite_world: World, settings: Any) -> Callable[..., Server]:
    """Starts a server; it and the test have the policies above."""
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": POLICIES}

    def start(kind: str = "daphne", **overrides: Any) -> Server:
        return sqlite_world.start(kind, **{"POLL_SECONDS": POLL_SECONDS, "POLICIES": POLICIES, **overrides})

    return start


def through(proxy: Proxy, server: Server, url: str) -> str:
    return url.replace(f":{server.port}/", f":{proxy.own_port}/")


def lost(client: Client, reason: str) -> int:
    """How many of the queue's messages this connection was told of as lost."""
    hello = sum(frame["lost"][reason] for frame in client.frames("netra.hello"))
    return int(hello + sum(frame[reason] for frame in client.frames("netra.lost")))


# --- coming back ---------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("raw", [False, True], ids=["v1", "raw"])
def test_recover_twice_in_a_row_with_no_traffic_between(
    sqlite_world: World, start: Callable[..., Server], kind: str, raw: bool
) -> None:
    """What was not acked comes each time, what was acked never again; and afterwards messages flow."""
    server = start(kind)

    async def recover() -> None:
        queue = new_queue()
        for number in range(5):
            await netra_queue.asend(queue, number)
        client = sqlite_world.client(server, queue, raw=raw, acks=False)
        for _ in range(3):
            client.received.clear()
            await client.connect()
            assert await client.take(5) == list(range(5))
            await client.cut()
        client.acks = True
        client.received.clear()
        async with client:
            assert await client.take(5) == list(range(5))
        await holds(queue, 0)
        for _ in range(2):
            async with client:
                await client.send({"echo": "nothing but this"})
                await client.until(lambda: {"echo": "nothing but this"} in client.data)
            assert client.data.count({"echo": "nothing but this"}) == 1
            client.received.remove(client.received[-1])
            assert client.data == list(range(5))
        async with client:
            await netra_queue.asend(queue, 5)
            assert await client.take(6) == list(range(6))

    play(recover())


def test_recover_after_a_silence_longer_than_every_timeout(sqlite_world: World, start: Callable[..., Server]) -> None:
    """The heartbeat's, the ack's, the write's, and that after which the client's line expires."""
    server = start(WRITE_TIMEOUT_SECONDS=0.5, SERVER_HEARTBEAT_SECONDS=0.3)

    async def recover() -> None:
        queue = new_queue()
        async with Proxy("127.0.0.1", server.port) as proxy:
            client = sqlite_world.client(server, queue, policy="hasty", query="?client=phone")
            await client.connect(through(proxy, server, client.url))
            await live(client)
            await netra_queue.asend(queue, "before")
            await client.take(1)
            await holds(f"{queue}/phone", 0)
            proxy.is_silent = True
            await netra_queue.asend(queue, "during")
            await connected(f"{queue}/phone", 0)
            await netra_queue.asend(queue, "after")
            await await_until(sync_to_async(lambda: maintenance.expire_lines().count))
            assert (await stat(queue)).messages == 2, "the last line leaves its messages to the next"
            await netra_queue.asend(queue, "later")
            await client.cut()
            await proxy.restore()
            async with client:
                assert await client.take(4) == ["before", "during", "after", "later"]
        await holds(f"{queue}/phone", 0)

    play(recover())


@KINDS
def test_come_back_before_the_old_connection_is_noticed_dead(
    sqlite_world: World, start: Callable[..., Server], kind: str
) -> None:
    """Both are served until the old one is noticed; its end takes nothing from the new one."""
    server = start(kind)

    async def come_back() -> None:
        queue = new_queue()
        old, new = (sqlite_world.client(server, queue, policy="impatient", acks=False) for _ in range(2))
        async with Proxy("127.0.0.1", server.port) as proxy:
            await old.connect(through(proxy, server, old.url))
            await live(old)
            for number in range(5):
                await netra_queue.asend(queue, number)
            await old.take(5)
            proxy.is_silent = True
            async with new:
                assert await new.take(5) == list(range(5))
                assert [message["id"] for message in new.received] == [message["id"] for message in old.received]
                assert (await stat(queue)).connections == 2
                await new.ack(5)
                await holds(queue, 0)
                new.acks = True
                await netra_queue.asend(queue, 5)
                await new.take(6)
                await connected(queue, 1)
                await netra_queue.asend(queue, 6)
                assert await new.take(7) == list(range(7))
                await answers(new)
                assert len(new.frames("netra.hello")) == 1, "on the same connection"
            await old.cut()
        await holds(queue, 0)

    play(come_back())


@KINDS
def test_two_sockets_on_one_queue(sqlite_world: World, start: Callable[..., Server], kind: str) -> None:
    """Each has its own numbers and gets every message; what the first one to ack removed, the other one may ack too."""
    server = start(kind)

    async def both() -> None:
        queue = new_queue()
        await netra_queue.asend(queue, 0)
        one = sqlite_world.client(server, queue, acks=False)
        async with one, sqlite_world.client(server, queue, acks=False) as two:
            await one.take(1)
            await two.take(1)
            await one.ack(1)
            await holds(queue, 0)
            for number in range(1, 6):
                await netra_queue.asend(queue, number)
            assert await one.take(6) == await two.take(6) == list(range(6))
            await two.ack(6)
            await holds(queue, 0)
            await one.ack(6)
            await answers(one)
            await netra_queue.asend(queue, 6)
            assert await one.take(7) == await two.take(7) == list(range(7))
            await one.ack(7)
            await holds(queue, 0)

    play(both())


@KINDS
def test_killed_during_the_replay_and_again_during_the_replay_of_the_replay(
    sqlite_world: World, start: Callable[..., Server], kind: str
) -> None:
    count, acked = 300, 25

    async def replayed() -> None:
        queue = new_queue()
        await netra_queue.asend_many([(queue, number) for number in range(count)])
        *dying, last = (start(kind) for _ in range(3))
        client = sqlite_world.client(last, queue, policy="narrow", acks=False)
        for death, server in enumerate(dying, 1):
            client.received.clear()
            await client.connect(server.url(queue, "narrow"))
            await client.take(50)
            await client.ack(acked)
            await client.take(50 + acked)
            await holds(queue, count - death * acked)
            await asyncio.to_thread(server.stop, signal.SIGKILL)
            await client.disconnect()
            assert client.data == list(range((death - 1) * acked, death * acked + 50))
        client.received.clear()
        client.acks = True
        await client.connect(last.url(queue, "narrow"))
        try:
            assert await client.take(count - 2 * acked) == list(range(2 * acked, count))
        finally:
            await client.disconnect()
        await holds(queue, 0)

    play(replayed())


# --- acks ----------------------------------------------------------------------------------------------------------


def test_an_ack_for_a_delivery_that_was_removed_meanwhile(sqlite_world: World, start: Callable[..., Server]) -> None:
    """By an operator. An ack for one that never was is in test_bad_input.py, for a foreign one in test_hostile.py."""
    server = start()

    async def acked() -> None:
        queue = new_queue()
        await netra_queue.asend_many([(queue, number) for number in range(4)])
        async with sqlite_world.client(server, queue, policy="pair", acks=False) as client:
            await client.take(2)
            assert await sync_to_async(current_store().purge)(queue, 10) == 4
            await netra_queue.asend(queue, 4)
            for seq in (1, 2, 1, 2, 0):
                await client.ack(seq)
            assert await client.take(3) == [0, 1, 4]
            await answers(client)
            await holds(queue, 1)
            await client.ack(3)
            await holds(queue, 0)

    play(acked())


def test_an_ack_storm_after_a_large_replay(sqlite_world: World, start: Callable[..., Server], tmp_path: Path) -> None:
    """One ack for each delivery, and old ones between: the store is asked for far fewer times, and nothing repeats."""
    calls, count = tmp_path / "calls", 2000
    sqlite_world.environment[CALLS] = str(calls)
    server = start(STORE="tests.server.test_event_loop.RecordingDatabaseStore")

    async def storm() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, policy="wide", acks=False)
        async with client:
            await live(client)
        await netra_queue.asend_many([(queue, number) for number in range(count)])
        async with client:
            assert await client.take(count) == list(range(count))
            for seq in range(1, count + 1):
                await client.ack(seq)
                await client.ack(max(seq - 7, 0))
            await holds(queue, 0)
            await netra_queue.asend(queue, count)
            assert (await client.take(count + 1))[-1] == count
            await answers(client)

    play(storm())
    assert 0 < calls.read_text().count("ack netra-store") < count / 4


# --- limits and time -----------------------------------------------------------------------------------------------


def test_a_time_to_live_that_passes_while_in_flight(sqlite_world: World, start: Callable[..., Server]) -> None:
    """It is told as lost, its place in the window is freed by its ack, and it does not come again."""
    server = start()

    async def pass_away() -> None:
        queue = new_queue()
        async with sqlite_world.client(server, queue, policy="pair", acks=False) as client:
            await live(client)
            await netra_queue.asend_many([(queue, "brief"), (queue, "brief, too")], ttl=1.5)
            await netra_queue.asend(queue, "lasting")
            await client.take(2)
            assert lost(client, "expired") == 0
            await await_until(sync_to_async(lambda: maintenance.sweep().count))
            await client.until(lambda: lost(client, "expired") == 2)
            await client.ack(2)
            assert (await client.take(3))[2] == "lasting"
            await client.ack(3)
            await holds(queue, 0)
            await answers(client)
        async with client:
            await live(client)
            assert (len(client.received), lost(client, "expired")) == (3, 0)

    play(pass_away())


def test_a_time_to_live_that_passes_before_there_is_room(sqlite_world: World, start: Callable[..., Server]) -> None:
    """Nobody has swept it when the window opens: it is not delivered then, and told as lost when it is swept."""
    server = start()

    async def pass_away() -> None:
        queue = new_queue()
        async with sqlite_world.client(server, queue, policy="pair", acks=False) as client:
            await live(client)
            await netra_queue.asend_many([(queue, 0), (queue, 1)])
            await client.take(2)
            await netra_queue.asend(queue, "brief", ttl=0.5)
            await netra_queue.asend(queue, "lasting")
            await await_until(sync_to_async(lambda: current_store().due(10).expired))
            await client.ack(2)
            assert await client.take(3) == [0, 1, "lasting"]
            assert await sync_to_async(lambda: maintenance.sweep().count)() == 1
            await client.until(lambda: lost(client, "expired") == 1)
            assert client.data == [0, 1, "lasting"]

    play(pass_away())


def test_the_limit_reached_exactly_with_mixed_priorities(sqlite_world: World, start: Callable[..., Server]) -> None:
    """Four fit. The fifth removes the least urgent and oldest, or goes itself when everything is more urgent."""
    server = start()
    fits = [Priority.NORMAL, Priority.LOW, Priority.CRITICAL, Priority.HIGH]
    beyond = [(Priority.HIGH, True), (Priority.LOW, False), (Priority.CRITICAL, True), (Priority.NORMAL, False)]

    async def reach() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, policy="four")
        async with client:
            await live(client)
        for number, (priority, is_kept) in enumerate([*((priority, True) for priority in fits), *beyond]):
            receipt = await netra_queue.asend(queue, number, priority=priority)
            assert (receipt.outcome is Outcome.QUEUED) is is_kept, number
            found = await stat(queue)
            assert (found.messages, found.losses.total(LossReason.DROPPED)) == (min(number + 1, 4), max(number - 3, 0))
        async with client:
            assert await client.take(4) == [2, 6, 3, 4]
            hello = client.frames("netra.hello")[0]
            assert (hello["waiting"], hello["lost"]["dropped"]) == (4, 4)
            assert hello["lost"]["by_priority"]["dropped"] == {"normal": 2, "low": 2}
        await holds(queue, 0)

    play(reach())
