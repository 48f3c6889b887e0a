"""(b) What a consumer sends itself, to a client that is there, beside the same consumer without the mixin."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from benchmarks import places
from benchmarks.clients import Client, open_all, quiet
from benchmarks.report import Figure, alternating

COUNT = 20_000
FILLING = 220


def figures() -> Iterator[Figure]:
    ours, theirs = alternating(lambda: run("durable"), lambda: run("plain"))
    what = "a consumer's own sends, on_disconnect"
    yield Figure(letter="b", what=what, ours=ours, theirs=theirs, unit="/s", than="without the mixin", bound=0.8)


def run(kind: str) -> float:
    places.empty()
    with places.server() as server:
        return asyncio.run(receive(Client(server.url("bench.1", consumer=kind), kind == "durable")))


async def receive(client: Client) -> float:
    await open_all([client])
    before = client.received
    started = time.perf_counter()
    await client.say({"send": COUNT, "filling": FILLING})
    await quiet([client], before + COUNT)
    seconds = time.perf_counter() - started
    assert client.received - before == COUNT
    await client.close()
    return COUNT / seconds
