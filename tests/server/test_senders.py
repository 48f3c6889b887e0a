"""Bugs that other systems for durable delivery have had, one test each: what senders do, and what they send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction

import netra_queue
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.making import rolled_back
from tests.server.conftest import World, answers, has_looked_again, holds, live, new_queue, play, stat
from tests.server.test_ends import told_of_dropped
from tests.settings import REDIS_URL

NEVER = 3600  # a poll interval that no test lives to see
SMALL = {"MAX_MESSAGE_BYTES": 1000}
KILLED = """
import os, signal, sys, django
django.setup()
import netra_queue
from netra_queue import wakeup
wakeup.ring = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
netra_queue.send(sys.argv[1], "committed")
"""


# --- commits and bells ---------------------------------------------------------------------------------------------


@needs_redis
@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE[:1])
def test_the_bell_is_lost_between_commit_and_send(make_world: Callable[..., World], alias: str) -> None:
    """The sender's process is killed there. The message comes with the next poll."""
    world = make_world(alias, REDIS_URL)
    server = world.start(POLL_SECONDS=1)

    async def arrives() -> None:
        queue = new_queue()
        async with world.client(server, queue) as client:
            await live(client)
            environment = {**os.environ, **world.environment}
            sender = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, queue, env=environment)
            assert await sender.wait() == -signal.SIGKILL
            assert await client.take(1) == ["committed"]
            await holds(queue, 0)

    play(arrives())


class Slow:
    """A sender with a transaction that stays open until it is told to end."""

    def __init__(self, queue: str, alias: str) -> None:
        self._queue, self._alias = queue, alias
        self._has_written, self._may_end = threading.Event(), threading.Event()

    @contextlib.asynccontextmanager
    async def sending(self, *payloads: Any, roll_back: bool = False) -> AsyncIterator[None]:
        """The transaction has written these, and ends with the ``async with`` block."""
        ending = asyncio.ensure_future(asyncio.to_thread(self._send, payloads, roll_back))
        try:
            assert await asyncio.to_thread(self._has_written.wait, 20)
            yield
        finally:
            self._may_end.set()
            await ending

    def _send(self, payloads: tuple[Any, ...], roll_back: bool) -> None:
        surrounding = rolled_back if roll_back else transaction.atomic
        try:
            with surrounding(using=self._alias):
                for payload in payloads:
                    netra_queue.send(self._queue, payload)
                self._has_written.set()
                assert self._may_end.wait(20)
        finally:
            connections[self._alias].close()


@pytest.fixture
def concurrent_world(concurrent_database: str, make_world: Callable[..., World]) -> World:
    return make_world(concurrent_database, REDIS_URL)


@needs_redis
def test_the_lower_id_commits_last(concurrent_world: World, concurrent_database: str) -> None:
    server = concurrent_world.start(POLL_SECONDS=NEVER)

    async def both_arrive() -> None:
        queue = new_queue()
        async with concurrent_world.client(server, queue) as client:
            await live(client)
            async with Slow(queue, concurrent_database).sending("lower"):
                await netra_queue.asend(queue, "higher")
                assert await client.take(1) == ["higher"]
                await holds(queue, 0)
                await has_looked_again()
            assert await client.take(2) == ["higher", "lower"]
        await holds(queue, 0)

    play(both_arrive())


@needs_redis
def test_a_long_transaction_holds_back_its_own_messages_only(concurrent_world: World, concurrent_database: str) -> None:
    """Others flow, to the same queue and to others, are acked, and a client may come; what is rolled back never was."""
    server = concurrent_world.start(POLL_SECONDS=NEVER)

    async def flow() -> None:
        queue, other = new_queue(), new_queue()
        client, beside = concurrent_world.client(server, queue), concurrent_world.client(server, other)
        slow, undecided = (Slow(queue, concurrent_database) for _ in range(2))
        async with client, beside, undecided.sending("never", roll_back=True):
            await live(client)
            async with slow.sending("held 1", "held 2"):
                for number in range(10):
                    await netra_queue.asend(queue, number)
                    await netra_queue.asend(other, number)
                assert await client.take(10) == await beside.take(10) == list(range(10))
                await holds(queue, 0)
                await client.disconnect()
                await client.connect()
                await live(client)
                await has_looked_again()
            assert (await client.take(12))[10:] == ["held 1", "held 2"]
        await netra_queue.asend(queue, "last")
        async with client:
            assert (await client.take(13))[12:] == ["last"]
        await holds(queue, 0)

    play(flow())


# --- payloads ------------------------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    found: Any = "the innermost"
    for _ in range(depth):
        found = [found]
    return found


PAYLOADS: list[Any] = [
    "Grüße, 你好, مرحبا, 😀, \u2028\u2029\ufeff\uffff",
    "NUL: \x00",
    {"\x00": ["\x00", {"ä\x00": None}]},
    "".join(map(chr, range(32))) + "\x7f\\\"'",
    nested(300),
    [2**53 + 1, 2**63, -(2**64), 10**4000, 1e308, -0.0, 5e-324],
    {"": {}, "null": [None, True, False, [], ""]},
]
REFUSED: list[Any] = ["\ud800", {"\udfff": 1}, ["😀"[:1] + "\udc00"], nested(100_000), 10**5000, float("inf")]
OWN_TEXTS = [*(json.dumps(payload, ensure_ascii=False) for payload in PAYLOADS), "\x00 text \x00", "9" * 5000]
OWN_TEXTS.append("[" * 100_000 + "]" * 100_000)  # as the number above: beyond Python's decoder, and so text to us


def meaning(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def test_what_payloads_may_hold(world: World, database: str) -> None:
    """Sent and replayed, or refused before the store, and so the caller's transaction, has heard of them."""
    server = world.start(POLL_SECONDS=0.2)

    def send_in_a_transaction(queue: str) -> None:
        with transaction.atomic(using=database):
            for refused in REFUSED:
                with pytest.raises(netra_queue.InvalidMessage):
                    netra_queue.send(queue, refused)
            netra_queue.send(queue, "the transaction is as good as before")

    async def sent() -> None:
        queue = new_queue()
        for payload in PAYLOADS:
            await netra_queue.asend(queue, payload)
        for refused in REFUSED:
            with pytest.raises(netra_queue.InvalidMessage):
                await netra_queue.asend(queue, refused)
        await sync_to_async(send_in_a_transaction)(queue)
        async with world.client(server, queue) as client:
            received = await client.take(len(PAYLOADS) + 1)
            assert received == [*PAYLOADS, "the transaction is as good as before"]
            assert list(map(repr, received[:-1])) == list(map(repr, PAYLOADS)), "-0.0 and True are what they were"
        await holds(queue, 0)

    play(sent())


def test_what_a_consumers_own_payloads_may_hold(world: World) -> None:
    """The same from memory and, unacked, from the store."""
    server = world.start(POLL_SECONDS=0.2)

    async def echoed() -> None:
        client = world.client(server, consumer="text", acks=False)
        await client.connect()
        await live(client)
        for text in OWN_TEXTS:
            await client.send(text)
        expected = list(map(meaning, OWN_TEXTS))
        assert await client.take(len(OWN_TEXTS)) == expected
        await client.cut()
        client.received.clear()
        client.acks = True
        async with client:
            assert await client.take(len(OWN_TEXTS)) == expected

    play(echoed())


def test_exactly_at_the_size_limit_and_one_byte_over(sqlite_world: World, settings: Any) -> None:
    """Bytes of the encoded payload, not characters; for what is sent, and for what the consumer sends itself."""
    exact, over = "ä" * 499, "ä" * 498 + "abc"
    assert [len(json.dumps(text, ensure_ascii=False).encode()) for text in (exact, over)] == [1000, 1001]
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": {"small": SMALL}}
    server = sqlite_world.start(POLL_SECONDS=0.2, POLICIES={"small": SMALL})

    async def measured() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, policy="small", consumer="commanded", acks=False)
        await client.connect()
        await live(client)
        await netra_queue.asend(queue, exact)
        with pytest.raises(netra_queue.MessageTooLarge) as refused:
            await netra_queue.asend(queue, over)
        assert (refused.value.size, refused.value.limit) == (1001, 1000)
        await client.take(1)
        assert (await stat(queue)).messages == 1
        for text in (exact, over):
            await client.send({"do": "say", "text": json.dumps(json.dumps(text, ensure_ascii=False))[1:-1]})
        assert await client.take(3) == [exact, exact, over], "the client is there, and gets it"
        await holds(queue, 2)
        await answers(client)
        await client.cut()
        client.received.clear()
        client.acks = True
        async with client:
            assert await client.take(2) == [exact, exact]
            await client.until(lambda: told_of_dropped(client) == 1)
        await holds(queue, 0)

    play(measured())
