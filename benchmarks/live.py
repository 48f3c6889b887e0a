"""(a) Messages to connected clients, sent one by one, beside Channels' own ``group_send``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator

from benchmarks import places
from benchmarks.clients import Client, open_all, quiet
from benchmarks.report import Figure, alternating, percentile
from benchmarks.sender import WARMING_UP
from netra_queue.management.scenarios.server import Server

TASKS = 50
COUNTS = {"plain": 6_000, "durable": 20_000}
PACED = 300  # messages a second, which both can hold
PACED_SECONDS = 10


async def deliver(
    server: Server, kind: str, clients: int, count: int, rate: float = 0
) -> tuple[float, list[float], int]:
    """Messages delivered (and acked) a second, the delays in seconds, and how many did not arrive."""
    queues = [f"bench.{number}" for number in range(clients)]
    sockets = [Client(server.url(queue, consumer=kind), kind == "durable") for queue in queues]
    warm = Client(server.url(WARMING_UP, consumer=kind), kind == "durable")
    await open_all([warm, *sockets])
    command = [sys.executable, "-m", "benchmarks.sender", kind, str(count), str(TASKS), str(rate), *queues]
    sender = await asyncio.create_subprocess_exec(*command, cwd=places.ROOT, stdout=asyncio.subprocess.PIPE)
    output, _ = await sender.communicate()
    answer = json.loads(output)
    await quiet(sockets, count)
    received = sum(socket.received for socket in sockets)
    seconds = max(socket.last_at for socket in sockets) - answer["began_at"]
    if kind == "durable":
        await asyncio.to_thread(all_acked)
    for socket in (warm, *sockets):
        await socket.close()
    return received / seconds, [delay for socket in sockets for delay in socket.delays], count - received


def all_acked() -> None:
    from netra_queue.models import queue_id

    others = [queue_id(WARMING_UP)]
    while places.execute("SELECT count(*) FROM netra_queue_message WHERE queue_id <> %s", others)[0][0]:
        time.sleep(0.02)


def run(kind: str, clients: int, rate: float = 0) -> tuple[float, list[float], int]:
    places.empty()
    count = int(rate * PACED_SECONDS) or COUNTS[kind]
    with places.server() as server:
        return asyncio.run(deliver(server, kind, clients, count, rate))


def figures() -> Iterator[Figure]:
    for clients in (1, 50):
        lost: dict[str, int] = {}

        def speed(kind: str, clients: int = clients, lost: dict[str, int] = lost) -> float:
            delivered, _, lost[kind] = run(kind, clients)
            return delivered

        ours, theirs = alternating(lambda: speed("durable"), lambda: speed("plain"))
        what = f"delivered to {clients} client{'s' if clients > 1 else ''}, {TASKS} senders, as fast as it goes"
        note = f"of {COUNTS['durable']} lost {lost['durable']}; of {COUNTS['plain']} lost {lost['plain']}"
        yield Figure(letter="a", what=what, ours=ours, theirs=theirs, unit="/s", than="group_send", bound=10, note=note)
        yield from paced(clients)


def paced(clients: int) -> Iterator[Figure]:
    delays: dict[str, list[list[float]]] = {"plain": [], "durable": []}
    for _ in range(3):
        for kind in delays:
            delays[kind].append(run(kind, clients, PACED)[1])
    for percent in (50, 99):
        ours, theirs = (
            sorted(percentile(some, percent) * 1000 for some in delays[kind])[1] for kind in ("durable", "plain")
        )
        what = f"delay at {PACED}/s, {clients} client{'s' if clients > 1 else ''}, p{percent}"
        yield Figure(
            letter="a", what=what, ours=ours, theirs=theirs, unit="ms", than="group_send", bound=1, is_cost=True
        )
