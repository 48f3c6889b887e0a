"""Clients that mean harm: each meets its close code or the server's own patience, and nobody else notices.

What a client may get wrong by mistake is in test_bad_input.py, one that never reads in test_outages.py, a thousand
sockets in test_crowd.py, who may open which queue in test_authorization.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

import netra_queue
from netra_queue.core.wire import SUBPROTOCOL, CloseCode
from netra_queue.management.scenarios.client import Client
from netra_queue.management.scenarios.server import Server
from tests.server.conftest import World, connected, holds, live, new_queue, play
from tests.server.test_outages import Deaf, deaf_client

pytestmark = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
ACKS = 20_000
PINGS = 1_000_000
MEGABYTE = 1_048_576
UNLIMITED = {"default": {"CONTROL_FRAMES": None}}


@pytest.fixture
def server(sqlite_world: World, kind: str) -> Server:
    return sqlite_world.start(kind)


@asynccontextmanager
async def somebody_else(world: World, server: Server) -> AsyncIterator[Client]:
    """A client of another queue. At the end it is still there, and gets a message within a second or so."""
    queue = new_queue()
    async with world.client(server, queue) as client:
        await live(client)
        yield client
        await netra_queue.asend(queue, "still here")
        assert (await client.take(1, 5))[-1] == "still here"
        assert len(client.frames("netra.hello")) == 1, "on the same connection"


async def raw_socket(server: Server, queue: str, **options: Any) -> ClientConnection:
    options.setdefault("subprotocols", [Subprotocol(SUBPROTOCOL)])
    url = server.url(queue)
    return await connect(url, compression=None, max_size=None, ping_interval=None, proxy=None, **options)


async def end_of(socket: ClientConnection) -> int | None:
    with suppress(ConnectionClosed):
        async with asyncio.timeout(15):
            while True:
                await socket.recv()
    return socket.close_code


def test_acks_reach_no_other_queue(sqlite_world: World, server: Server) -> None:
    """Numbers of deliveries are a connection's own: an ack names nothing that another client has."""

    async def guess() -> None:
        victim, attacker = new_queue(), new_queue()
        for number in range(5):
            await netra_queue.asend(victim, number)
        await netra_queue.asend(attacker, "mine")
        async with sqlite_world.client(server, attacker, acks=False) as client:
            await client.take(1)
            for frame in ({"seq": 1, "queue": victim}, {"seq": 0, "id": 1}, {"seq": 1, "positions": [1, 2, 3, 4, 5]}):
                await client.send({"type": "netra.ack", **frame})
            await holds(attacker, 0)
            assert client.data == ["mine"]
        await holds(victim, 5)

    play(guess())


@pytest.mark.parametrize("client", ["../victim", "%2e%2e%2fvictim", "a/b", "x" * 65, "a%00b", "a&client=b"])
def test_an_id_leads_to_no_other_queue(sqlite_world: World, server: Server, client: str) -> None:
    async def guess() -> None:
        victim = new_queue()
        await netra_queue.asend(victim, "secret")
        attacker = sqlite_world.client(server, query=f"?client={client}".replace("victim", victim))
        await attacker.connect()
        assert await attacker.closed() == CloseCode.MALFORMED
        assert attacker.data == []
        await holds(victim, 1)

    play(guess())


def test_a_flood_of_acks_and_pings_ends_the_connection(sqlite_world: World, server: Server) -> None:
    """Ten times as many at once as the default policy lets through."""

    async def flood() -> None:
        queue = new_queue()
        async with somebody_else(sqlite_world, server):
            socket = await raw_socket(server, queue)
            ended = asyncio.create_task(end_of(socket))
            with suppress(ConnectionClosed):
                for number in range(5_000):
                    await socket.send('{"type":"netra.ack","seq":0}' if number % 10 else '{"type":"netra.ping"}')
                    await asyncio.sleep(0)  # Daphne waits a second for the answer to its close, then it cuts
            assert await ended == CloseCode.TOO_MANY_CONNECTIONS

    play(flood())


def test_a_flood_of_acks_and_pings_without_a_limit(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind, POLICIES=UNLIMITED)

    async def flood() -> float:
        queue, before = new_queue(), server.memory_bytes()
        async with somebody_else(sqlite_world, server):
            await netra_queue.asend(queue, "kept")
            socket = await raw_socket(server, queue)
            draining = asyncio.create_task(end_of(socket))
            started = time.monotonic()
            for number in range(ACKS):
                await socket.send('{"type":"netra.ack","seq":0}' if number % 10 else '{"type":"netra.ping"}')
            await netra_queue.asend(queue, "after the flood")
            spent = time.monotonic() - started
            await socket.close()
            await draining
            await holds(queue, 2)
            assert server.memory_bytes() - before < 10 * MEGABYTE
            return spent

    assert play(flood()) < 60


def test_a_flood_of_pings_by_a_client_that_never_reads(sqlite_world: World, kind: str) -> None:
    """Their answers fill what the system takes, then the connection's outbox, and that has an end."""
    server = sqlite_world.start(kind, WRITE_TIMEOUT_SECONDS=600, POLICIES=UNLIMITED)

    def ping_on(deaf: Deaf) -> bool:
        with suppress(OSError):
            for _ in range(PINGS // 100):
                deaf.say('{"type":"netra.ping"}', times=100)
        return deaf.is_ended(CloseCode.NOT_RESPONDING)

    async def flood() -> None:
        before = server.memory_bytes()
        queue = new_queue()
        async with somebody_else(sqlite_world, server):
            with deaf_client(server.url(queue)) as deaf:
                assert await asyncio.to_thread(ping_on, deaf)
            await connected(queue, 0)
        assert server.memory_bytes() - before < 20 * MEGABYTE

    play(flood())


def test_megabytes_and_binary_garbage(sqlite_world: World, server: Server) -> None:
    """The application's own affair, as long as they are no control frames; what is too much, the server refuses."""
    frames: list[str | bytes] = [
        os.urandom(65_536),
        "x" * 900_000,
        "\x00" * 1000,
        '{"type":"netra.' + "x" * 500_000,
        "[" * 50_000,
    ]

    async def garbage() -> int:
        before = server.memory_bytes()
        async with somebody_else(sqlite_world, server):
            for frame in frames:
                socket = await raw_socket(server, new_queue())
                with suppress(ConnectionClosed):
                    await socket.send(frame)
                await socket.close()
        return server.memory_bytes() - before

    sqlite_world.may_log_errors = True  # the consumer decodes JSON, and raises
    assert play(garbage()) < 60 * MEGABYTE


def test_subprotocols_that_nobody_knows(sqlite_world: World, server: Server) -> None:
    async def offer() -> None:
        queue = new_queue()
        await netra_queue.asend(queue, "kept")
        for names in (["netra-queue.v2"], ["graphql-ws", "netra-queue.v9"], ["NETRA-QUEUE.V1"]):
            with suppress(ConnectionClosed, InvalidStatus):
                socket = await raw_socket(server, queue, subprotocols=[Subprotocol(name) for name in names])
                assert socket.subprotocol is None
                assert json.loads(await socket.recv()) == "kept", "it gets plain frames"
                socket.transport.abort()
        async with somebody_else(sqlite_world, server), sqlite_world.client(server, queue) as client:
            assert await client.take(1) == ["kept"]

    play(offer())


def test_a_crowd_of_devices_of_one_user(sqlite_world: World, kind: str) -> None:
    """Those who come too late may come when the others have left, all at once."""
    server = sqlite_world.start(kind, POLICIES={"few": {"MAX_LINES": 3}})

    async def crowd() -> None:
        queue = new_queue()
        async with somebody_else(sqlite_world, server):
            devices = [sqlite_world.client(server, queue, policy="few", query=f"?client=d{n}") for n in range(8)]
            for device in devices[:3]:
                await device.connect()
                await live(device)
            for device in devices[3:]:
                await device.connect()
                assert await device.closed() == CloseCode.TOO_MANY_CONNECTIONS
            assert len(await netra_queue.adevices(queue)) == 3
            await asyncio.gather(*(device.cut() for device in devices[:3]))
            for n in range(3):
                await connected(f"{queue}/d{n}", 0)
            for device in devices[3:6]:
                await device.connect()
                await live(device)
            for device in devices[3:6]:
                await device.disconnect()

    play(crowd())


def test_handshakes_that_are_never_finished(sqlite_world: World, server: Server) -> None:
    async def slow() -> None:
        async with somebody_else(sqlite_world, server):
            writers = []
            for _ in range(50):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n")
                writers.append(writer)
            for writer in writers:
                await writer.drain()
        for writer in writers:
            writer.transport.abort()

    play(slow())
