"""The nine scenarios. Each one plays against a server with a client of its own, and says what it saw.

A play raises nothing for a scenario that fails: its result names what was wrong.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from asgiref.sync import sync_to_async

from ... import maintenance, sending
from ...core.message import Outcome, Priority
from ...exceptions import QueueFull
from ...stores import current_store
from ...stores.base import QueueStat
from .client import Client
from .server import Server, resident_bytes


@dataclass(slots=True)
class Result:
    """One line of the table. ``problems``: what did not hold; empty if the scenario does."""

    scenario: str
    sent: int = 0
    received: int = 0
    lost: int = 0
    repeated: int = 0
    out_of_order: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def expect(self, what: str, expected: object, got: object) -> None:
        if expected != got:
            self.problems.append(f"{what}: expected {expected}, got {got}")

    def expect_below(self, what: str, limit: float, got: float) -> None:
        if got >= limit:
            self.problems.append(f"{what}: expected below {limit}, got {got:.3f}")

    def compare(self, expected: Sequence[Any], client: Client) -> None:
        """Add what a client received to the line, measured against what it should have received, in that order."""
        got, ids = client.data, [message.get("id", number) for number, message in enumerate(client.received)]
        self.received += len(got)
        self.lost += sum(item not in got for item in expected)
        distinct = [item for number, item in enumerate(got) if item not in got[:number]]
        self.repeated += max(len(ids) - len(set(ids)), len(got) - len(distinct))
        right = [item for item in expected if item in got]
        self.out_of_order += sum(a != b for a, b in zip((i for i in distinct if i in right), right, strict=True))
        self.expect("what arrived", list(expected), got)


@dataclass(frozen=True, slots=True)
class Stage:
    """What a play needs: the server, whether its client is raw, and queue names of its own."""

    server: Server
    raw: bool

    def client(self, policy: str = "default") -> Client:
        return Client(self.server.url(f"scenario.{uuid.uuid4().hex}", policy), raw=self.raw)


WARM_UP_BATCHES, DROPPED_BATCHES, DROPPED_AT_ONCE, DROPPED_BYTES = 3, 20, 50, 50_000  # 50 MB after the warm-up
BACKLOG_ROUNDS = 3
Play = Callable[[Stage, Result], Awaitable[None]]


async def one_message(stage: Stage, result: Result) -> None:
    client, queue = await _away(stage)
    content = {"text": "Grüße", "number": 1}
    await sending.asend(queue, content)
    sent_at = time.time()
    result.sent = 1
    began = time.monotonic()
    await _replay(client, 1)
    result.expect_below("seconds from reconnect to delivery", 1.0, time.monotonic() - began)
    result.compare([content], client)
    if not stage.raw:
        _expect_time(result, client.received[0]["sent_at"], sent_at)
        result.expect("replayed", True, client.received[0]["replayed"])
    await _empties(result, queue, client)


async def a_sequence(stage: Stage, result: Result) -> None:
    client, queue = await _away(stage)
    for number in range(10):
        await sending.asend(queue, number)
    result.sent = 10
    await _replay(client, 10)
    result.compare(list(range(10)), client)
    await _empties(result, queue, client)


async def overflow(stage: Stage, result: Result) -> None:
    for limit, count in ((3, 5), (10, 15)):
        for mode, kept in (
            ("drop_oldest", range(count - limit, count)),
            ("drop_newest", range(limit)),
            ("reject", range(limit)),
        ):
            await _overflow(stage, result, f"scenario-{mode}-{limit}", count, list(kept))


async def _overflow(stage: Stage, result: Result, policy: str, count: int, kept: list[int]) -> None:
    client, queue = await _away(stage, policy)
    rejected = dropped = 0
    for number in range(count):
        try:
            receipt = await sending.asend(queue, number)
        except QueueFull:
            rejected += 1
        else:
            dropped += receipt.outcome is Outcome.DROPPED
    is_reject = "reject" in policy
    result.sent += count
    result.expect(f"{policy}: rejected", count - len(kept) if is_reject else 0, rejected)
    result.expect(f"{policy}: receipts saying dropped", count - len(kept) if "newest" in policy else 0, dropped)
    await _replay(client, len(kept))
    result.compare(kept, client)
    if not stage.raw:
        told = client.frames("netra.hello")[0]["lost"]["dropped"]
        result.expect(f"{policy}: the client is told", 0 if is_reject else count - len(kept), told)
    await _empties(result, queue, client)


async def mixed_priorities(stage: Stage, result: Result) -> None:
    client, queue = await _away(stage)
    order = ("normal", "high", "normal", "critical", "low", "high", "normal")
    for number, name in enumerate(order):
        await sending.asend(queue, [name, number], priority=Priority[name.upper()])
    result.sent = len(order)
    await _replay(client, len(order))
    result.compare(sorted(([n, i] for i, n in enumerate(order)), key=lambda e: Priority[e[0].upper()]), client)
    await _empties(result, queue, client)


async def expiry(stage: Stage, result: Result) -> None:
    client, queue = await _away(stage)
    for number in range(3):
        await sending.asend(queue, number, ttl=2)
    await asyncio.sleep(2.5)  # the scenario itself: time passes
    for number in (3, 4):
        await sending.asend(queue, number, ttl=60)
    result.sent = 5
    await _replay(client, 2)
    result.compare([3, 4], client)
    if not stage.raw:
        result.expect("the client is told", 3, client.frames("netra.hello")[0]["lost"]["expired"])
    await _empties(result, queue, client)
    await _sweep_alone(result)


async def _sweep_alone(result: Result) -> None:
    """Clean-up empties a queue that nobody connects to."""
    queue = f"scenario.{uuid.uuid4().hex}"
    await sending.asend(queue, "old", ttl=0.1)
    await asyncio.sleep(0.2)  # it expires
    await sync_to_async(maintenance.sweep)()
    stat = await _stat(queue)
    result.expect("left after a sweep", 0, stat.messages)


async def rapid_cycles(stage: Stage, result: Result) -> None:
    client, queue = await _away(stage)
    took: list[float] = []
    for cycle in range(5):
        for number in (0, 1):
            await sending.asend(queue, [cycle, number])
        began = time.monotonic()
        await _replay(client, 2 * cycle + 2)
        took.append(time.monotonic() - began)
        await client.disconnect()
    result.sent = 10
    result.compare([[cycle, number] for cycle in range(5) for number in (0, 1)], client)
    result.expect_below("longest reconnect in seconds", 0.5, max(took))
    result.expect_below("mean reconnect in seconds", 0.3, sum(took) / len(took))


async def several_agents(stage: Stage, result: Result) -> None:
    client, queue = await _away(stage)

    async def agent(name: str, count: int) -> None:
        for number in range(count):
            await sending.asend(queue, [name, number])

    agents = {"a": 3, "b": 3, "c": 2}
    await asyncio.gather(*(agent(name, count) for name, count in agents.items()))
    result.sent = sum(agents.values())
    await _replay(client, result.sent)
    sent = [[name, number] for name, count in agents.items() for number in range(count)]
    client.received.sort(key=lambda message: message["data"][0])  # stable: between agents any order is right
    result.compare(sent, client)
    await _empties(result, queue, client)


async def resource_limits(stage: Stage, result: Result) -> None:
    client, queue = await _away(stage, "scenario-drop_oldest-5")
    most = 0
    for number in range(10):
        await sending.asend(queue, number)
        most = max(most, (await _stat(queue)).messages)
    grown = await _growth_by_drops(queue)
    result.sent = 10
    result.expect("most messages kept", 5, most)
    await _replay(client, 5)
    result.compare([5, 6, 7, 8, 9], client)
    limit = DROPPED_BATCHES * DROPPED_AT_ONCE * DROPPED_BYTES / 2
    result.expect_below("growth of the sender's memory in bytes", limit, grown)
    await _empties(result, queue, client)


async def _growth_by_drops(queue: str) -> int:
    """What stays in this process, which drops them, of messages that a full queue drops. The first batches warm up."""
    before = 0
    for batch in range(WARM_UP_BATCHES + DROPPED_BATCHES):
        if batch == WARM_UP_BATCHES:
            before = _memory_bytes()
        await sending.asend_many([(queue, "x" * DROPPED_BYTES)] * DROPPED_AT_ONCE, priority=Priority.LOW)
    return _memory_bytes() - before


async def backlogs(stage: Stage, result: Result) -> None:
    """The fastest of several rounds is compared: one pause of the machine is no cost of a backlog."""
    took: dict[int, list[float]] = {1: [], 5: [], 10: [], 25: [], 50: []}
    for _ in range(BACKLOG_ROUNDS):
        for count, seconds in took.items():
            seconds.append(await _backlog(stage, result, count))
    for count, seconds in took.items():
        result.expect_below(f"seconds for {count} messages", 1.0, min(seconds))
    result.expect_below("cost of 50 in costs of 1", 25.0, min(took[50]) / min(took[1]))


async def _backlog(stage: Stage, result: Result, count: int) -> float:
    """Seconds from reconnect to the last of ``count`` messages."""
    client, queue = await _away(stage)
    for number in range(count):
        await sending.asend(queue, number)
    began = time.monotonic()
    await _replay(client, count)
    seconds = time.monotonic() - began
    result.sent += count
    result.compare(list(range(count)), client)
    await _empties(result, queue, client)
    return seconds


PLAYS: dict[str, Play] = {
    "1 one message while away": one_message,
    "2 a sequence while away": a_sequence,
    "3 overflow": overflow,
    "4 mixed priorities": mixed_priorities,
    "5 expiry": expiry,
    "6 five rapid cycles": rapid_cycles,
    "7 several agents at once": several_agents,
    "8 resource limits": resource_limits,
    "9 backlogs of 1 to 50": backlogs,
}


async def play(name: str, stage: Stage) -> Result:
    """Play one scenario. What it raises is a problem of the result."""
    result = Result(name)
    began = time.monotonic()
    try:
        await PLAYS[name](stage, result)
    except Exception as error:
        result.problems.append(f"{type(error).__name__}: {error}")
    result.seconds = time.monotonic() - began
    return result


async def _away(stage: Stage, policy: str = "default") -> tuple[Client, str]:
    """A client that was connected and has gone, and its queue's name."""
    client = stage.client(policy)
    queue = client.url.rpartition("/")[2]
    async with client:
        await client.send({"echo": "here"})
        await client.take(1)
    client.received.clear()
    return client, queue


async def _replay(client: Client, count: int) -> None:
    """Connect and wait for ``count`` messages in all. Those that do not come are counted by ``compare``."""
    await client.connect()
    with suppress(TimeoutError):
        await client.take(count)


async def _empties(result: Result, queue: str, client: Client) -> None:
    """The acks reach the store; in raw mode, when the client closes."""
    await client.disconnect()
    deadline = time.monotonic() + 5
    while (stat := await _stat(queue)).messages and time.monotonic() < deadline:  # noqa: ASYNC110  not ours to signal
        await asyncio.sleep(0.02)
    result.expect("left in the queue", 0, stat.messages)


async def _stat(queue: str) -> QueueStat:
    return await sync_to_async(current_store().stat)(queue)


def _memory_bytes() -> int:
    return resident_bytes(os.getpid())


def _expect_time(result: Result, text: str, sent_at: float) -> None:
    difference = abs(datetime.fromisoformat(text).timestamp() - sent_at)
    result.expect_below("seconds between sending and sent_at", 1.0, difference)
