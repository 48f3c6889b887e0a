"""(i) The same work with much and with little stored; (j) the sweep; (k) memory and disk."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from benchmarks import live, places
from benchmarks.clients import Client, open_all
from benchmarks.report import Figure, alternating, percentile

FEW_MESSAGES, MANY_MESSAGES = 1_000, 5_000_000
FEW_QUEUES, MANY_QUEUES = 100, 1_000_000
EXPIRED = 1_000_000
IDLE = 1_000
REPEATS = 300
SWEEP = 1_000  # messages in one batch
PAYLOAD = {"type": "bench.message", "filling": "x" * 215}
FILL_QUEUES = """
INSERT INTO netra_queue_queue (id, name, policy, created_at, idle_since)
SELECT n, 'other.' || n, '', now(), now() FROM generate_series(1, %s) n"""
FILL_MESSAGES = """
INSERT INTO netra_queue_message (queue_id, uid, priority, kind, payload, size, created_at, expires_at)
SELECT 1 + n %% %s, md5(n::text), n %% 4, 0, '{{"n":1}}', 7, now(), now() + interval '{age} hours'
FROM generate_series(1, %s) n"""


def figures() -> Iterator[Figure]:
    yield from growth()
    yield from sweeping()
    yield meanwhile()
    yield from sizes()


def fill(queues: int, messages: int, age: int = 24) -> None:
    places.empty()
    places.execute(FILL_QUEUES, [queues])
    places.execute(FILL_MESSAGES.format(age=age), [queues, messages])
    places.execute("VACUUM ANALYZE")
    places.execute("CHECKPOINT")


def growth() -> Iterator[Figure]:
    few, many = [], []
    fill(FEW_QUEUES, FEW_MESSAGES)
    few = [costs() for _ in range(3)]
    fill(MANY_QUEUES, MANY_MESSAGES)
    many = [costs() for _ in range(3)]
    for name in few[0]:
        theirs, ours = (sorted(run[name] for run in runs)[1] for runs in (few, many))
        yield Figure(
            letter="i",
            what=f"{name} beside {MANY_MESSAGES:,} messages of {MANY_QUEUES:,} queues",
            ours=ours,
            theirs=theirs,
            unit="ms",
            than=f"beside {FEW_MESSAGES:,} of {FEW_QUEUES}",
            bound=1.25,
            is_cost=True,
        )


def costs() -> dict[str, float]:
    """Milliseconds that each takes, of a queue of its own."""
    import netra_queue
    from netra_queue import conf
    from netra_queue.core.actions import ReadRequest
    from netra_queue.stores import current_store
    from netra_queue.stores.base import Presence, Server

    store, policy = current_store(), conf.policy("default")
    server = Server(id="bench", host="bench", pid=1)
    store.heartbeat(server)
    queues = [f"mine.{number}" for number in range(REPEATS)]
    presences = [Presence(id=queue, queue=queue, server=server, policy="") for queue in queues]
    netra_queue.send_many([(queue, PAYLOAD) for queue in queues])
    request = ReadRequest(256, 1 << 20, frozenset())
    found = dict(zip(queues, store.read([(queue, request) for queue in queues]), strict=True))
    works: dict[str, Callable[[int], Any]] = {
        "send": lambda n: netra_queue.send(queues[n], PAYLOAD),
        "connect to a queue": lambda n: store.attach(presences[n], policy),
        "ack": lambda n: store.ack({queues[n]: [message.position for message in found[queues[n]].messages]}),
    }
    times = {name: timed(work) for name, work in works.items()}
    store.detach(presences)
    for queue in queues:
        store.purge(queue, 10)
    return times


def timed(work: Callable[[int], Any]) -> float:
    seconds = []
    for number in range(REPEATS):
        started = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[REPEATS // 2] * 1000


def sweeping() -> Iterator[Figure]:
    ours, theirs = alternating(sweep, delete)
    yield Figure(
        letter="j",
        what=f"sweep of {EXPIRED:,} expired messages",
        ours=ours,
        theirs=theirs,
        unit="/s",
        than=f"DELETE in batches of {SWEEP}",
        bound=0.5,
    )


def sweep() -> float:
    from netra_queue import maintenance

    fill(10_000, EXPIRED, age=-1)
    started = time.perf_counter()
    assert maintenance.sweep(budget_seconds=600).count == EXPIRED
    return EXPIRED / (time.perf_counter() - started)


def delete() -> float:
    fill(10_000, EXPIRED, age=-1)
    started = time.perf_counter()
    batch = f"SELECT id FROM netra_queue_message WHERE expires_at <= now() ORDER BY expires_at LIMIT {SWEEP}"
    while places.execute(f"DELETE FROM netra_queue_message WHERE id IN ({batch}) RETURNING id"):
        pass
    return EXPIRED / (time.perf_counter() - started)


def meanwhile() -> Figure:
    delay(0)  # after whatever the disk was busy with before
    ours, theirs = alternating(lambda: delay(EXPIRED), lambda: delay(0))
    return Figure(
        letter="j",
        what=f"delay at {live.PACED}/s, 1 client, p99, while {EXPIRED:,} are swept",
        ours=ours,
        theirs=theirs,
        unit="ms",
        than="without a sweep",
        bound=1.5,
        is_cost=True,
    )


def delay(expired: int) -> float:
    """Milliseconds, at the 99th percentile, beside the command that removes so many."""
    fill(10_000, expired, age=-1)
    sweeper = [sys.executable, "manage.py", "netra_queue", "sweep", "--budget-seconds", "300"]
    with places.server() as server:
        sweeping = subprocess.Popen(sweeper, cwd=places.ROOT, stdout=subprocess.DEVNULL) if expired else nullcontext()
        with sweeping:
            count = live.PACED * live.PACED_SECONDS
            _, delays, _ = asyncio.run(live.deliver(server, "durable", 1, count, live.PACED))
    return percentile(delays, 99) * 1000


def sizes() -> Iterator[Figure]:
    ours, theirs = alternating(lambda: asyncio.run(idle("durable")), lambda: asyncio.run(idle("plain")))
    yield Figure(
        letter="k",
        what="memory of an idle connection",
        ours=ours,
        theirs=theirs,
        unit="KiB",
        than="plain Channels",
        bound=(theirs + 6) / theirs,
        is_cost=True,
    )
    fill(1, 1)
    places.empty()
    import netra_queue

    netra_queue.send_many([(f"bench.{number % 100}", PAYLOAD) for number in range(100_000)])
    places.execute("VACUUM ANALYZE")
    total = float(places.execute("SELECT pg_total_relation_size('netra_queue_message') / 100000.0")[0][0])
    payload = float(places.execute("SELECT avg(size) FROM netra_queue_message")[0][0])
    yield Figure(
        letter="k",
        what="bytes of a waiting message, indexes included",
        ours=total,
        theirs=payload,
        unit="bytes",
        than="its payload",
        bound=(payload + 150) / payload,
        is_cost=True,
    )


async def idle(kind: str) -> float:
    """KiB of the server's resident memory for each of many connections."""
    await asyncio.to_thread(places.empty)
    with places.server() as server:
        urls = [server.url(f"bench.{number}", consumer=kind) for number in range(2 * IDLE)]
        clients = [Client(url, kind == "durable") for url in urls]
        await open_all(clients[:IDLE])  # what a server needs for the first ones it keeps
        await asyncio.sleep(1)
        before = server.memory_bytes()
        await open_all(clients[IDLE:])
        await asyncio.sleep(1)
        after = server.memory_bytes()
        for client in clients:
            client.cut()
    return (after - before) / IDLE / 1024
