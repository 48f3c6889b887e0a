"""(c) One ``send()`` at a time beside a plain ``Model.objects.create``; (d) many of them beside raw INSERTs."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from benchmarks import places
from benchmarks.report import Figure, alternating

ONE_BY_ONE = 500
AT_ONCE = 10_000
TASKS = 50
ROWS = 500  # of one INSERT
QUEUE = "bench.away"
PAYLOAD = {"type": "bench.message", "filling": "x" * 215}
COLUMNS = "queue_id, uid, priority, kind, payload, size, created_at, expires_at, body_id, flags, deliveries"


def figures() -> Iterator[Figure]:
    from django.db import transaction

    for where, around in (("outside of a transaction", nullcontext), ("each in a transaction", transaction.atomic)):
        ours, theirs = alternating(lambda: each(send_one, around), lambda: each(create_one, around))  # noqa: B023
        yield Figure(
            letter="c",
            what=f"send(), {where}",
            ours=ours,
            theirs=theirs,
            unit="ms",
            than="Model.objects.create",
            bound=1.5,
            is_cost=True,
        )
    ours, theirs = alternating(lambda: asyncio.run(asend_all()), insert_all)
    yield Figure(
        letter="d",
        what=f"asend, {TASKS} tasks, nobody there",
        ours=ours,
        theirs=theirs,
        unit="/s",
        than=f"INSERT of {ROWS} rows",
        bound=0.5,
    )
    ours, theirs = alternating(send_many, insert_all)
    yield Figure(
        letter="d",
        what=f"send_many of {AT_ONCE}",
        ours=ours,
        theirs=theirs,
        unit="/s",
        than=f"INSERT of {ROWS} rows",
        bound=0.5,
    )


def each(work: Callable[[int], object], around: Callable[[], Any]) -> float:
    """Milliseconds that each of many takes."""
    places.empty()
    started = time.perf_counter()
    for number in range(ONE_BY_ONE):
        with around():
            work(number)
    return (time.perf_counter() - started) * 1000 / ONE_BY_ONE


def send_one(number: int) -> None:
    import netra_queue

    netra_queue.send(QUEUE, PAYLOAD)


def create_one(number: int) -> None:
    from netra_queue.models import Message, queue_id

    text, now = json.dumps(PAYLOAD), datetime.now(UTC)
    Message.objects.create(
        queue_id=queue_id(QUEUE),
        uid=f"{number:032x}",
        priority=2,
        kind=0,
        payload=text,
        size=len(text),
        created_at=now,
        expires_at=now + timedelta(days=1),
    )


async def asend_all() -> float:
    import netra_queue

    await asyncio.to_thread(places.empty)
    numbers = iter(range(AT_ONCE))

    async def work() -> None:
        for _ in numbers:
            await netra_queue.asend(QUEUE, PAYLOAD)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    return AT_ONCE / (time.perf_counter() - started)


def send_many() -> float:
    import netra_queue

    places.empty()
    started = time.perf_counter()
    netra_queue.send_many([(QUEUE, PAYLOAD)] * AT_ONCE)
    return AT_ONCE / (time.perf_counter() - started)


def insert_all() -> float:
    """The same rows, into the same table with its indexes, in one transaction."""
    from netra_queue.models import queue_id

    places.empty()
    text, now = json.dumps(PAYLOAD, separators=(",", ":")), datetime.now(UTC)
    row: Sequence[Any] = (queue_id(QUEUE), "", 2, 0, text, len(text), now, now + timedelta(days=1), None, 0, 0)
    started = time.perf_counter()
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        for start in range(0, AT_ONCE, ROWS):
            rows = [(row[0], f"{number:032x}", *row[2:]) for number in range(start, start + ROWS)]
            values = ",".join([f"({','.join(['%s'] * len(row))})"] * ROWS)
            parameters = [value for some in rows for value in some]
            connection.execute(f"INSERT INTO netra_queue_message ({COLUMNS}) VALUES {values}", parameters)  # type: ignore[arg-type]
    return AT_ONCE / (time.perf_counter() - started)
