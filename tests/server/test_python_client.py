"""netra_queue.client with Daphne and Uvicorn: whatever happens to the server or the network, every message once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netra_queue import Priority, asend, asend_many
from netra_queue.client import Lost, Message, NetraQueue, Refused, State, connect
from netra_queue.management.scenarios import server as servers
from netra_queue.management.scenarios.server import Server
from tests.chaos.proxy import Proxy
from tests.server.conftest import World, holds, new_queue, play
from tests.waiting import await_until

ROOT = Path(__file__).resolve().parent.parent.parent
both = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])


async def take(queue: NetraQueue, count: int) -> list[Any]:
    """The data of so many messages, all of them acked."""
    got = []
    async for message in queue:
        got.append(message.data)
        if len(got) == count:
            queue.ack()
            break
    return got


def quick(queue: NetraQueue) -> NetraQueue:
    """Without long pauses."""
    queue._protocol._random = lambda: 0.1
    return queue


def through(proxy: Proxy, url: str) -> str:
    return url.replace(f":{proxy.port}/", f":{proxy.own_port}/")


@both
def test_replay_most_urgent_first_then_live(sqlite_world: World, kind: str) -> None:
    server, name = sqlite_world.start(kind), new_queue()

    async def work() -> None:
        await asend_many([(name, {"low": n}) for n in range(300)], priority=Priority.LOW)
        await asend_many([(name, {"high": n}) for n in range(300)], priority=Priority.HIGH)
        async with connect(server.url(name)) as queue:
            got = await take(queue, 600)
            assert got == [*({"high": n} for n in range(300)), *({"low": n} for n in range(300))]
            await asend(name, "live")
            assert await take(queue, 1) == ["live"]
            await holds(name, 0)
            await queue.send({"echo": "ünï"})
            assert await take(queue, 1) == [{"echo": "ünï"}]

    play(work())


@pytest.mark.parametrize(
    ("kind", "how"), [("daphne", signal.SIGKILL), ("uvicorn", signal.SIGKILL), ("uvicorn", signal.SIGTERM)]
)
def test_a_server_is_ended_and_started_again(
    sqlite_world: World, kind: str, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same address, in the middle of a replay."""
    server, name, got = sqlite_world.start(kind), new_queue(), []
    monkeypatch.setattr(servers, "_free_port", lambda: server.port)
    monkeypatch.setattr("secrets.token_hex", lambda size: server.token)

    async def handler(message: Message) -> None:
        got.append(message.data)
        if message.data == 100:
            await asyncio.to_thread(server.stop, how)
            sqlite_world.may_log_errors = True
            again.append(await asyncio.to_thread(sqlite_world.start, kind))

    async def work() -> None:
        await asend_many([(name, n) for n in range(500)])
        async with quick(connect(server.url(name))) as queue:
            running = asyncio.create_task(queue.run(handler))
            await holds(name, 0, 30)
            await queue.close()
            await running
        assert got == [*range(500)]

    again: list[Server] = []
    play(work())
    assert len(again) == 1


@both
def test_a_half_open_connection_is_noticed(sqlite_world: World, kind: str) -> None:
    server, name = sqlite_world.start(kind, POLICIES={"brisk": {"HEARTBEAT_SECONDS": 1}}), new_queue()

    async def work() -> None:
        async with (
            Proxy("127.0.0.1", server.port) as proxy,
            connect(through(proxy, server.url(name, "brisk"))) as queue,
        ):
            await await_until(lambda: queue.state is State.LIVE)
            proxy.is_silent = True
            await asend(name, "meanwhile")
            await await_until(lambda: queue.state is not State.LIVE, 5)
            proxy.is_silent = False
            assert await take(queue, 1) == ["meanwhile"]
            await holds(name, 0)

    play(work())


def test_resets_without_end(sqlite_world: World) -> None:
    server, name, got = sqlite_world.start("uvicorn"), new_queue(), []

    async def work() -> None:
        await asend_many([(name, n) for n in range(1000)])
        async with Proxy("127.0.0.1", server.port) as proxy, quick(connect(through(proxy, server.url(name)))) as queue:
            async for message in queue:
                got.append(message.data)
                if message.data % 150 == 149:
                    await proxy.reset()
                if message.data == 999:
                    break
            assert got == [*range(1000)]
            assert queue.repeated > 0

    play(work())


def test_a_handler_that_raises(sqlite_world: World) -> None:
    server, name, got = sqlite_world.start("uvicorn"), new_queue(), []

    def handler(message: Message) -> None:
        got.append(message.data)
        if got.count(message.data) <= 2 and message.data == 1:
            raise RuntimeError("not yet")

    async def work() -> None:
        await asend_many([(name, n) for n in range(4)])
        async with connect(server.url(name)) as queue:
            running = asyncio.create_task(queue.run(handler))
            await holds(name, 0)
            await queue.close()
            await running
        assert got == [0, 1, 1, 1, 2, 3]

    play(work())


@both
def test_refused(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind)

    async def work() -> None:
        for consumer, code in [("users", 4401), ("forbidding", 4403)]:
            async with connect(server.url(new_queue(), consumer=consumer)) as queue:
                with pytest.raises(Refused) as caught:
                    await take(queue, 1)
                assert caught.value.code == code

    play(work())


def test_losses_are_told_once(sqlite_world: World) -> None:
    server, name = sqlite_world.start(), new_queue()
    url = server.url(name, "scenario-drop_oldest-3")

    async def work() -> None:
        told = await lost_of(url, lambda queue: None)
        assert told == []
        for number in range(5):
            await asend(name, number)
        assert [dict(lost.counts) for lost in await lost_of(url, lambda queue: take(queue, 3))] == [
            {"expired": 0, "dropped": 2}
        ]
        await holds(name, 0)
        assert await lost_of(url, lambda queue: None) == []

    async def lost_of(url: str, then: Callable[[NetraQueue], Any]) -> list[Lost]:
        told: list[Lost] = []
        async with connect(url) as queue:
            queue.on_lost = told.append
            await await_until(lambda: queue.state is State.LIVE)
            if (waiting := then(queue)) is not None:
                await waiting
        return told

    play(work())


def test_each_client_with_an_id_gets_everything(sqlite_world: World) -> None:
    server, name = sqlite_world.start("uvicorn"), new_queue()

    async def work() -> None:
        url = server.url(name)
        async with connect(url, client="one") as one, connect(url, client="two") as two:
            await await_until(lambda: one.state is two.state is State.LIVE)
            await asend_many([(name, n) for n in range(100)])
            assert await take(one, 100) == await take(two, 100) == [*range(100)]

    play(work())


SERVICE = """
import asyncio, sys
from netra_queue import client

async def main():
    async with client.connect(sys.argv[1], client="service") as queue:
        async for message in queue:
            print(message.data, flush=True)
            queue.ack()
            break
    assert not {"django", "channels", "asgiref"} & {name.partition(".")[0] for name in sys.modules}

asyncio.run(main())
"""


def test_a_service_needs_no_django(sqlite_world: World) -> None:
    server, name = sqlite_world.start(), new_queue()

    async def work() -> None:
        await asend(name, "for the service")
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "error", "-c", SERVICE, server.url(name)],
            cwd=ROOT,
            env={},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.stdout, done.stderr) == ("for the service\n", "")
        await holds(name, 0)

    play(work())
