"""A client is cancelled, wherever it is: opening, waiting, handling, sending, closing. Nothing of it is left behind.

How many turns of the event loop a whole life takes is measured first; then a life is cancelled after each number of
turns.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from pathlib import Path
from types import CoroutineType

import pytest

from netra_queue import client
from netra_queue.client import NetraQueue
from tests.client.making import Stub, finish, stub
from tests.waiting import await_until

CLIENT = Path(client.__file__).parent
DESCRIPTORS = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(not DESCRIPTORS.exists(), reason="the system does not tell which sockets are open")


def sockets() -> int:
    found = 0
    for descriptor in DESCRIPTORS.iterdir():
        with suppress(OSError):
            found += os.readlink(descriptor).startswith("socket:")
    return found


def clients_tasks() -> list[asyncio.Task[object]]:
    """Those that the client has started."""
    return [task for task in asyncio.all_tasks() if _file(task).parent == CLIENT]


def _file(task: asyncio.Task[object]) -> Path:
    coroutine = task.get_coro()
    return Path(coroutine.cr_code.co_filename if isinstance(coroutine, CoroutineType) else "")


async def say(queue: NetraQueue, what: str) -> None:
    await queue.send([what])


async def whole_life(queue: NetraQueue) -> None:
    async with queue:
        sending = asyncio.create_task(say(queue, "hello"))
        try:
            async for message in queue:
                await asyncio.sleep(0)
                if message.data == "reset":
                    queue.ack()
                    break
            await say(queue, "the end")
        finally:
            sending.cancel()


async def live(server: Stub, turns: int | None = None, *, again: int = 0) -> int:
    """Cancel a life after so many turns of the loop, and again a few turns later. Returns how many turns it lived."""
    server.removed = 0
    life = asyncio.create_task(whole_life(server.queue()))
    lived = 0
    while not life.done() and lived != turns:
        await asyncio.sleep(0)
        lived += 1
    life.cancel()
    for _ in range(again):
        await asyncio.sleep(0)
        life.cancel()
    with suppress(asyncio.CancelledError):
        await life
    assert not clients_tasks(), f"cancelled after {turns} turns"
    return lived


@pytest.mark.parametrize("again", [0, 1, 2, 5])
def test_nothing_is_left_wherever_it_is_cancelled(again: int) -> None:
    async def plays() -> None:
        async with stub("a", "b", "reset") as server:
            threads, before = threading.active_count(), sockets()
            async with server.queue():
                assert len(clients_tasks()) == 1, "the test sees them"
            whole = max([await live(server) for _ in range(3)])
            assert whole > 10
            for turns in range(1, whole + 10):
                await live(server, turns, again=again)
                await await_until(lambda: sockets() == before)
            assert threading.active_count() == threads
            assert len(server.connections) > whole / 4, "some were cancelled when they were connected"

    finish(plays, 120)
