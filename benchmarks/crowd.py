"""(f) A thousand clients come back at once; (h) their server ends, and another takes them. Beside plain Channels."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator

from websockets.asyncio.client import connect

from benchmarks import places
from benchmarks.clients import Client, open_all
from benchmarks.report import Figure, alternating
from netra_queue.management.scenarios.server import Server

CLIENTS = 1_000
WAITING = 50
AT_A_TIME = 200  # handshakes of one client machine
PAYLOAD = {"type": "bench.message", "filling": "x" * 215}


def figures() -> Iterator[Figure]:
    ours, theirs = alternating(lambda: come_back("durable"), lambda: come_back("plain"))
    yield Figure(
        letter="f",
        what=f"{CLIENTS} clients come back, {WAITING} messages for each",
        ours=ours,
        theirs=theirs,
        unit="s",
        than="connects without messages",
        bound=1.3,
        is_cost=True,
    )
    yield Figure(
        letter="f",
        what="statements on the database for each of them",
        ours=statements(),
        theirs=1,
        unit="",
        than="1",
        bound=2,
        is_cost=True,
    )
    ours, theirs = alternating(lambda: move("durable"), lambda: move("plain"))
    yield Figure(
        letter="h",
        what=f"SIGTERM of a server with {CLIENTS} clients, until all are live on another",
        ours=ours,
        theirs=theirs,
        unit="s",
        than="plain Channels",
        bound=1.3,
        is_cost=True,
    )


def clients_of(server: Server, kind: str) -> list[Client]:
    return [Client(server.url(f"bench.{number}", consumer=kind), kind == "durable") for number in range(CLIENTS)]


def come_back(kind: str) -> float:
    """Seconds until all are live and have got what waited."""
    fill(kind)
    with places.server() as server:
        return asyncio.run(connect_all(clients_of(server, kind), WAITING if kind == "durable" else 0))


def fill(kind: str) -> None:
    import netra_queue

    places.empty()
    if kind == "durable":
        for number in range(CLIENTS):
            netra_queue.send_many([(f"bench.{number}", PAYLOAD)] * WAITING)
        places.execute("VACUUM ANALYZE")


async def connect_all(clients: list[Client], waiting: int) -> float:
    started = time.perf_counter()
    await open_all(clients, AT_A_TIME)
    while any(client.received < waiting for client in clients):  # noqa: ASYNC110  counted, not signalled
        await asyncio.sleep(0.01)
    seconds = time.perf_counter() - started
    while any(client.acked < waiting for client in clients):  # noqa: ASYNC110  counted, not signalled
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)  # the last acks are on their way
    for client in clients:
        client.cut()
    return seconds


def statements() -> float:
    """As the server counts them, from before the first connect to after the last ack. A transaction's begin and end
    are none."""
    fill("durable")
    with places.server() as server:
        asyncio.run(connect_all(clients_of(server, "durable"), WAITING))
        while places.execute("SELECT count(*) FROM netra_queue_message")[0][0]:
            time.sleep(0.05)
        return asyncio.run(ask_for_statements(server)) / CLIENTS


async def ask_for_statements(server: Server) -> int:
    async with connect(server.url("bench.counting", consumer="plain"), proxy=None) as socket:
        assert json.loads(await socket.recv())["type"] == "ready"
        await socket.send(json.dumps({"statements": True}))
        counted: int = json.loads(await socket.recv())["statements"]
        return counted


def move(kind: str) -> float:
    places.empty()
    with places.server() as first, places.server() as second:
        return asyncio.run(flee(first, second, kind))


async def flee(first: Server, second: Server, kind: str) -> float:
    clients = clients_of(first, kind)
    await open_all(clients, AT_A_TIME)
    started = time.perf_counter()
    first.process.send_signal(signal.SIGTERM)
    turns = asyncio.Semaphore(AT_A_TIME)

    async def follow(client: Client, url: str) -> None:
        await client.ended()
        client.url = url
        client.is_live.clear()
        async with turns:
            await client.open()
        await client.is_live.wait()

    urls = [client.url for client in clients_of(second, kind)]
    await asyncio.gather(*(follow(client, url) for client, url in zip(clients, urls, strict=True)))
    seconds = time.perf_counter() - started
    for client in clients:
        client.cut()
    return seconds
