"""Outages on real servers, looked at closely: losses told once, SIGKILL, the database away, clients that never read."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

import netra_queue
from netra_queue.core.wire import SUBPROTOCOL, CloseCode
from netra_queue.management.scenarios.client import Client
from netra_queue.management.scenarios.server import Server
from tests.chaos.proxy import Proxy
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.server.conftest import World, answers, connected, holds, live, new_queue, play, stat
from tests.settings import REDIS_URL
from tests.waiting import await_until

ON_POSTGRESQL = CONCURRENT_DATABASES_HERE[:1]
KINDS = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
MEGABYTE = 1_048_576


# --- losses --------------------------------------------------------------------------------------------------------


def told(client: Client) -> int:
    return sum(frame["dropped"] for frame in client.frames("netra.lost"))


@KINDS
def test_a_connected_client_is_told_of_a_loss_once_and_again_on_the_next_connection(
    sqlite_world: World, kind: str
) -> None:
    policy = {"MAX_MESSAGES": 3, "WINDOW": 1}
    server = sqlite_world.start(kind, POLL_SECONDS=0.2, POLICIES={"scenario-drop_oldest-3": policy})

    async def is_told() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, policy="scenario-drop_oldest-3", acks=False)
        await client.connect()
        await live(client)
        assert client.frames("netra.hello")[0]["lost"] == {"expired": 0, "dropped": 0}
        for number in range(10):
            await netra_queue.asend(queue, number)
        await client.until(lambda: told(client) == 7)
        await netra_queue.asend(queue, 10)
        await client.until(lambda: told(client) >= 8)
        assert told(client) == 8, "what it was told of before is not told again on this connection"
        await client.cut()
        client.acks = True  # from here on: that of the losses too
        async with client:
            await live(client)
            hello = client.frames("netra.hello")[0]["lost"]
            assert hello["dropped"] == 8
            assert not client.frames("netra.lost"), "the hello has said it"
        await holds(queue, 0)
        async with client:
            await live(client)
            assert client.frames("netra.hello")[0]["lost"] == {"expired": 0, "dropped": 0}

    play(is_told())


# --- SIGKILL -------------------------------------------------------------------------------------------------------


@KINDS
def test_sigkill_takes_at_most_the_own_sends_of_the_last_second(sqlite_world: World, kind: str) -> None:
    first, second = sqlite_world.start(kind), sqlite_world.start(kind)
    queue = new_queue()

    async def survives() -> None:
        client = sqlite_world.client(first, queue, acks=False)
        await client.connect()
        await live(client)
        await client.send({"send": 20})
        await client.take(20)
        await holds(queue, 20, 5)  # about a second, and then they are stored
        for number in range(20):
            await netra_queue.asend(queue, number)
        await client.take(40)
        older = {message["id"]: message["data"] for message in client.received}
        await client.send({"send": 5})
        await client.take(45)
        await asyncio.to_thread(first.stop, signal.SIGKILL)
        await client.disconnect()
        transmitted = {message["id"]: message["data"] for message in client.received}
        client.received.clear()
        client.acks = True
        await client.connect(second.url(queue))
        await live(client)
        await client.disconnect()
        kept = {message["id"]: message["data"] for message in client.received}
        assert list(kept.items())[:40] == list(older.items()), "nothing older is lost, and the order is that of sending"
        assert kept.items() <= transmitted.items(), "and what is kept of the last second is what was sent then"

    play(survives())


# --- the database --------------------------------------------------------------------------------------------------


def through(proxy: Proxy, url: str) -> str:
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{proxy.own_port}"))


@KINDS
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.parametrize("is_silent", [False, True], ids=["refuses", "silent"])
def test_the_database_is_away_for_a_while(
    make_world: Callable[..., World], alias: str, kind: str, is_silent: bool
) -> None:
    """Acks wait for it, own sends go on up to the window, and nothing that was accepted is lost."""
    world = make_world(alias)
    parts = urlsplit(world.environment["DATABASE_URL"])
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    queue, window = new_queue(), 8

    async def goes_on() -> None:
        async with proxy:
            world.environment["DATABASE_URL"] = through(proxy, world.environment["DATABASE_URL"])
            server = world.start(
                kind, POLL_SECONDS=0.3, STORE_TIMEOUT_SECONDS=1.5, POLICIES={"narrow": {"WINDOW": window}}
            )
            async with world.client(server, queue, policy="narrow", acks=False) as client:
                await live(client)
                for number in range(3):
                    await netra_queue.asend(queue, number)
                await client.take(3)
                proxy.is_silent = is_silent
                if not is_silent:
                    await proxy.cut()
                await client.ack(3)
                await client.send({"send": window})
                await client.take(3 + window)
                await client.send({"send": 1, "echo": "held"})
                await netra_queue.asend(queue, 3)
                expected = "poll failed" if is_silent else "own sends not stored yet"
                await await_until(lambda: expected in world.log.read_text())
                await answers(client)
                assert len(client.received) == 3 + window, "the window is full"
                assert (await stat(queue)).messages == 4, "no ack is written yet"
                await proxy.restore()
                await holds(queue, 1 + window + 2)
                await client.ack(3 + window)
                client.acks = True
                await client.take(3 + window + 3)
                await answers(client)
                assert len(client.frames("netra.hello")) == 1, "the same connection"
                own = [data for data in client.data if isinstance(data, dict)]
                assert own == [*({"own": n} for n in range(window)), {"own": 0}, {"send": 1, "echo": "held"}]
                assert [data for data in client.data if isinstance(data, int)] == [0, 1, 2, 3]
                await holds(queue, 0)

    play(goes_on())


IS_OPEN, IS_CLOSED = "the breaker around the message store is open", "the breaker around the message store is closed"


@KINDS
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.parametrize("how", ["refuses", "silent", "flaps"])
def test_the_breaker_opens_and_closes_with_the_database(
    make_world: Callable[..., World], alias: str, kind: str, how: str
) -> None:
    """Connected clients are served meanwhile, new ones are told at once, and then all is as before."""
    world = make_world(alias)
    parts = urlsplit(world.environment["DATABASE_URL"])
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    queue = new_queue()

    async def goes_away() -> None:
        proxy.is_silent = how == "silent"
        while how != "silent":
            await proxy.cut()
            if how == "refuses" or IS_OPEN in world.log.read_text():
                return
            await asyncio.sleep(1.5)
            await proxy.restore()
            await asyncio.sleep(0.2)

    async def goes_on() -> None:
        async with proxy:
            world.environment["DATABASE_URL"] = through(proxy, world.environment["DATABASE_URL"])
            server = world.start(kind, POLL_SECONDS=0.2, STORE_TIMEOUT_SECONDS=4.0, BREAKER_SLOW_SECONDS=1.0)
            late = world.client(server)
            async with world.client(server, queue) as client:
                await live(client)
                going = asyncio.create_task(goes_away())
                await await_until(lambda: IS_OPEN in world.log.read_text(), 30)
                await going
                await netra_queue.asend(queue, "while it was away")
                await answers(client)
                await client.send({"send": 3})
                await client.take(3)
                await late.connect()
                assert (await late.closed()) == CloseCode.STORE_UNAVAILABLE
                await proxy.restore()
                await await_until(lambda: IS_CLOSED in world.log.read_text(), 30)
                await client.until(lambda: "while it was away" in client.data)
                await holds(queue, 0)
                assert len(client.frames("netra.hello")) == 1, "the same connection"
            async with world.client(server) as other:
                await live(other)

    play(goes_on())


@pytest.mark.parametrize("alias", ON_POSTGRESQL)
def test_a_server_that_ends_just_when_the_database_is_back(make_world: Callable[..., World], alias: str) -> None:
    """Uvicorn ends without exit handlers, as soon as the consumers that are left are over."""
    world = make_world(alias)
    parts = urlsplit(world.environment["DATABASE_URL"])
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    queue = new_queue()

    async def survives() -> None:
        async with proxy:
            world.environment["DATABASE_URL"] = through(proxy, world.environment["DATABASE_URL"])
            server, second = world.start("uvicorn"), world.start("uvicorn")
            client, other = world.client(server, queue, acks=False), world.client(server)
            await client.connect()
            await other.connect()
            await live(client)
            await proxy.cut()
            await client.send({"send": 5})
            await client.take(5)
            await client.disconnect()
            await await_until(lambda: "own sends not stored yet" in world.log.read_text())
            await proxy.restore()
            await asyncio.to_thread(server.stop)
            client.received.clear()
            client.acks = True
            await client.connect(second.url(queue))
            assert await client.take(5) == [{"own": number} for number in range(5)]
            await client.disconnect()

    play(survives())


# --- clients that do not read --------------------------------------------------------------------------------------


class Deaf:
    """A client that completes the handshake and then never reads. Writes frames, as a browser would."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def say(self, text: str, *, times: int = 1) -> None:
        """Blocks while the server does not read."""
        data = text.encode()
        is_long = len(data) > 65_535
        size = bytes([0x80 | (127 if is_long else 126)]) + len(data).to_bytes(8 if is_long else 2, "big")
        self._socket.sendall((b"\x81" + size + bytes(4) + data) * times)  # a mask of zeros leaves the data as it is

    def is_ended(self, code: int) -> bool:
        """Read, at last. Whether there is a close with this code (two bytes that no other frame has), or just the end:
        Daphne gives a close a second to be written."""
        wanted, tail = code.to_bytes(2, "big"), b""
        self._socket.settimeout(10)
        with suppress(ConnectionError):
            while True:
                try:
                    data = self._socket.recv(MEGABYTE)
                except TimeoutError:
                    return False
                tail = tail[-1:] + data
                if not data or wanted in tail:
                    return True
        return True


@contextmanager
def deaf_client(url: str) -> Iterator[Deaf]:
    parts = urlsplit(url)
    with socket.socket() as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.settimeout(20)
        connected.connect((parts.hostname, parts.port))
        lines = [
            f"GET {parts.path} HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}",
        ]
        connected.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connected.recv(1)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        yield Deaf(connected)


@dataclass(slots=True)
class Peak:
    """The most memory that a server had while it was watched."""

    server: Server
    bytes_: int = 0

    async def watch(self) -> None:
        while True:
            self.bytes_ = max(self.bytes_, self.server.memory_bytes())
            await asyncio.sleep(0.02)


@KINDS
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="this system does not tell a process's memory")
def test_a_client_that_never_reads_costs_bounded_memory_and_loses_nothing(
    make_world: Callable[..., World], settings: Any, alias: str, kind: str
) -> None:
    world = make_world(alias)
    wide = {"MAX_MESSAGES": 10_000, "MAX_BYTES": 10**9, "ACK_TIMEOUT_SECONDS": 4}
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": {"wide": wide}}
    server = world.start(kind, POLL_SECONDS=0.2, POLICIES={"wide": wide})
    queue, count, size = new_queue(), 300, 100_000

    async def bounded() -> None:
        async with world.client(server, policy="wide", consumer="commanded") as warm:
            await warm.send({"do": "large", "size": size})
            await warm.take(1)
        peak, before = Peak(server), server.memory_bytes()
        watching = asyncio.create_task(peak.watch())
        with deaf_client(server.url(queue, "wide", "commanded")) as deaf:
            for _ in range(count):
                await asyncio.to_thread(deaf.say, json.dumps({"do": "large", "size": size}).ljust(126))
            await holds(queue, count)
            for number in range(count):
                await netra_queue.asend(queue, [number, "x" * size])
            await connected(queue, 0)
            assert await asyncio.to_thread(deaf.is_ended, CloseCode.NOT_RESPONDING)
        watching.cancel()
        found = await stat(queue)
        assert (found.messages, bool(found.losses)) == (2 * count, False)
        assert peak.bytes_ - before < 30 * MEGABYTE

    play(bounded())


def test_a_write_that_takes_too_long_ends_the_connection(sqlite_world: World, settings: Any) -> None:
    """Long before anything else would. Daphne takes every frame at once, so that no write to it takes long."""
    patient = {"ACK_TIMEOUT_SECONDS": 3600, "HEARTBEAT_SECONDS": 3600, "WINDOW_BYTES": 64 * MEGABYTE}
    policies = {"patient": {**patient, "MAX_BYTES": 64 * MEGABYTE}}
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": policies}
    server = sqlite_world.start("uvicorn", WRITE_TIMEOUT_SECONDS=0.5, POLICIES=policies)

    async def ends() -> None:
        queue, count = new_queue(), 100
        with deaf_client(server.url(queue, "patient")) as deaf:
            await connected(queue, 1)
            await netra_queue.asend_many([(queue, [number, "x" * 200_000]) for number in range(count)])
            await connected(queue, 0)
            assert await asyncio.to_thread(deaf.is_ended, CloseCode.NOT_RESPONDING)
        await holds(queue, count)

    play(ends())


@KINDS
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
def test_a_synchronous_consumer_with_a_client_that_never_reads_holds_up_nobody(
    make_world: Callable[..., World], alias: str, kind: str
) -> None:
    """All synchronous consumers of a process share one thread."""
    world = make_world(alias)
    server = world.start(kind)

    async def others_go_on() -> None:
        queue = new_queue()
        async with world.client(server, consumer="synctext") as sync, world.client(server, consumer="text") as other:
            with deaf_client(server.url(queue, consumer="synctext")) as deaf:
                for number in range(40):
                    await asyncio.to_thread(deaf.say, json.dumps([number, "x" * 200_000]))
                    await sync.send([number])
                    await other.send([number])
                    await sync.take(number + 1, 5)
                    await other.take(number + 1, 5)
                await holds(queue, 40)

    play(others_go_on())


def unprotected(*clients: Client) -> int:
    """As what the clients of one queue were told."""
    return max(sum(frame["unprotected"] for frame in client.frames("netra.lost")) for client in clients)


@KINDS
@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@needs_redis
def test_a_policy_does_without_the_database(make_world: Callable[..., World], alias: str, kind: str) -> None:
    """What is sent while the breaker is open reaches clients that are there or come, and they are told of the gap."""
    policies = {"live": {"WHILE_UNAVAILABLE": "live"}}
    world = make_world(alias, REDIS_URL)
    parts = urlsplit(world.environment["DATABASE_URL"])
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    queue = new_queue()

    async def goes_on() -> None:
        async with proxy:
            world.environment["DATABASE_URL"] = through(proxy, world.environment["DATABASE_URL"])
            server = world.start(kind, POLL_SECONDS=0.2, POLICIES=policies)
            client, late = (world.client(server, queue, policy="live", consumer="teller") for _ in range(2))
            async with client:
                await live(client)
                await netra_queue.asend(queue, "before")
                await client.take(1)
                await proxy.cut()
                await await_until(lambda: IS_OPEN in world.log.read_text(), 30)
                await client.send({"tell": "unprotected"})
                await client.take(3)
                assert "unprotected" in client.data
                assert {"outcome": "live_only"} in client.data
                async with late:
                    await live(late)
                    assert late.frames("netra.hello")[0]["waiting"] == 0
                    await late.send({"tell": "to both"})
                    await late.take(2)
                    await client.until(lambda: "to both" in client.data)
                    await proxy.restore()
                    await await_until(lambda: IS_CLOSED in world.log.read_text(), 30)
                    await connected(queue, 2)
                    await await_until(lambda: unprotected(client, late) == 2, 30)
                    await netra_queue.asend(queue, "after")
                    for one in (client, late):
                        await one.until(lambda one=one: one.data[-1] == "after")
                        assert len(one.frames("netra.hello")) == 1

    play(goes_on())


@KINDS
@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE)
def test_a_server_ends_although_its_database_answers_nothing(
    make_world: Callable[..., World], alias: str, kind: str
) -> None:
    """It gives up what only its memory has: whoever stops it would kill it otherwise."""
    world = make_world(alias)
    world.may_log_errors = True
    parts = urlsplit(world.environment["DATABASE_URL"])
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)

    async def ends() -> None:
        async with proxy:
            world.environment["DATABASE_URL"] = through(proxy, world.environment["DATABASE_URL"])
            server = world.start(kind, POLL_SECONDS=0.2, STORE_TIMEOUT_SECONDS=1.0)
            clients = [world.client(server, acks=False) for _ in range(4)]
            for client in clients:
                await client.connect()
                await live(client)
            proxy.is_silent = True
            for client in clients:
                await client.send({"send": 3})
                await client.take(3)
            await asyncio.to_thread(server.stop)

    play(ends())
