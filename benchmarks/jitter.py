"""(g) Sockets that are killed again and again under a steady stream, beside plain Channels and Socket.IO."""

from __future__ import annotations

import asyncio
import bisect
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks import places
from benchmarks.clients import Client
from benchmarks.live import all_acked
from benchmarks.replaying import PEERS, lacks, skip, socketio, socketio_server
from benchmarks.report import Figure, percentile
from netra_queue.management.scenarios.server import Server

CLIENTS = 300
RATE = 2 * CLIENTS  # messages a second: two for each client
SECONDS = 60
KILL_EVERY_SECONDS = 15
AWAY_SECONDS = 2
TASKS = 50
SETTLE_SECONDS = 10


class Wanderer:
    """A client that loses its connection now and then. ``away``: when it was, from and until, by ``time.time()``."""

    def __init__(self, url: str, is_durable: bool) -> None:
        self.client = Client(url, is_durable, keeps=is_durable)
        self.away: list[tuple[float, float]] = []

    async def wander(self, until: float) -> None:
        await self.client.open()
        while True:
            await asyncio.sleep(random.uniform(0, 2 * KILL_EVERY_SECONDS))
            if time.time() > until:
                return
            since = time.time()
            self.client.cut()
            await asyncio.sleep(AWAY_SECONDS)
            self.client.is_live.clear()
            await self.client.open()
            self.away.append((since, time.time()))

    def delays(self) -> list[float]:
        """From sending to receiving, without the time that the client was away."""
        ends = [end for _, end in self.away]
        found = []
        for sent_at, delay in zip(self.client.sent_at, self.client.delays, strict=True):
            number = bisect.bisect_left(ends, sent_at)
            since, end = self.away[number] if number < len(self.away) else (sent_at + delay, sent_at + delay)
            away = max(0.0, min(end, sent_at + delay) - max(since, sent_at))
            found.append(delay - away)
        return found


def figures() -> Iterator[Figure]:
    delivered: dict[str, float] = {}
    delays: dict[str, float] = {}
    repeats = 0
    for kind in ("plain", "durable"):
        places.empty()
        with places.server() as server:
            wanderers = asyncio.run(roam(server, kind))
        delivered[kind] = sum(wanderer.client.received for wanderer in wanderers) / (RATE * SECONDS) * 100
        delays[kind] = percentile([delay for wanderer in wanderers for delay in wanderer.delays()], 99) * 1000
        repeats = sum(wanderer.client.repeats for wanderer in wanderers)
    what = f"{CLIENTS} clients, each killed every {KILL_EVERY_SECONDS} s and away for {AWAY_SECONDS} s"
    note = f"{repeats} came twice over the wire, none to the application"
    yield Figure(
        letter="g",
        what=f"delivered; {what}",
        ours=delivered["durable"],
        theirs=delivered["plain"],
        unit="%",
        than="plain Channels",
        bound=100 / delivered["plain"],
        note=note,
    )
    yield Figure(
        letter="g",
        what="p99 from sending to receiving, without the time away",
        ours=delays["durable"],
        theirs=delays["plain"],
        unit="ms",
        than="plain Channels, of what it delivered",
        is_cost=True,
    )
    if (missing := lacks(socketio)) is None or skip("Socket.IO recovery, in memory", missing):
        yield beside_socketio(delays["durable"])


def beside_socketio(delay: float) -> Figure:
    theirs = peer()
    return Figure(
        letter="g",
        what="p99 from sending to receiving, without the time away",
        ours=delay,
        theirs=theirs["p99"],
        unit="ms",
        than="Socket.IO recovery, in memory",
        bound=1,
        is_cost=True,
        note=f"it delivered {theirs['delivered']:.2f} %, and sends from its own process",
    )


def peer() -> dict[str, float]:
    """What Socket.IO's clients say of the same."""
    with socketio_server("jitter.mjs", CLIENTS, SECONDS, KILL_EVERY_SECONDS, AWAY_SECONDS) as arguments:
        clients = subprocess.run(
            ["node", "jitter.mjs", "clients", *arguments], cwd=PEERS, check=True, capture_output=True, timeout=300
        )
    answer: dict[str, float] = json.loads(clients.stdout)
    return answer


async def roam(server: Server, kind: str) -> list[Wanderer]:
    queues = [f"bench.{number}" for number in range(CLIENTS)]
    wanderers = [Wanderer(server.url(queue, consumer=kind), kind == "durable") for queue in queues]
    until = time.time() + SECONDS + SETTLE_SECONDS
    roaming = [asyncio.create_task(wanderer.wander(until)) for wanderer in wanderers]
    await asyncio.gather(*(wanderer.client.is_live.wait() for wanderer in wanderers))
    command = [sys.executable, "-m", "benchmarks.sender", kind, str(RATE * SECONDS), str(TASKS), str(RATE), *queues]
    sender = await asyncio.create_subprocess_exec(*command, cwd=places.ROOT, stdout=asyncio.subprocess.PIPE)
    output, _ = await sender.communicate()
    assert json.loads(output)["seconds"] < SECONDS * 1.5, "the sender could not hold the rate"
    await asyncio.gather(*roaming)
    if kind == "durable":
        await asyncio.to_thread(all_acked)
    for wanderer in wanderers:
        wanderer.client.cut()
    return wanderers
