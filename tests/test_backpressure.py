"""Producers that wait for room."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from asgiref.sync import async_to_sync

import netra_queue
from netra_queue import InvalidMessage, Outcome, QueueFull, backpressure, testing
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from netra_queue.stores.memory import MemoryStore
from tests.conftest import DATABASES_HERE
from tests.making import get, ids
from tests.server.conftest import STORES

Answer = TypeVar("Answer")
pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")


@pytest.fixture(params=["memory", *DATABASES_HERE])
def store(request: Any, settings: Any) -> Iterator[Store]:
    """Two messages fit."""
    kind = "netra_queue.stores.memory.MemoryStore" if request.param == "memory" else STORES[request.param]
    settings.NETRA_QUEUE = {"STORE": kind, "POLICIES": {"default": {"MAX_MESSAGES": 2}}}
    yield current_store()
    testing.shutdown()


def play(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(work())  # type: ignore[arg-type]


async def aside(store: Store, work: Callable[[Store], Answer]) -> Answer:
    """In a thread that leaves no connection behind."""

    def done() -> Answer:
        try:
            return work(store)
        finally:
            store.leave_thread()

    return await asyncio.to_thread(done)


def waiting(store: Store) -> list[str]:
    return ids(get(store))


def ack_first(store: Store) -> None:
    store.ack({"user.1": [get(store).messages[0].position]})


def test_it_waits_until_the_client_has_acked(store: Store) -> None:
    async def waits() -> None:
        first = await netra_queue.asend("user.1", 1, overflow="wait")
        second = await netra_queue.asend("user.1", 2, overflow="wait")
        third = asyncio.create_task(netra_queue.asend("user.1", 3, overflow="wait"))
        await asyncio.sleep(0.2)
        assert not third.done()
        assert await aside(store, waiting) == [first.id, second.id]
        await aside(store, ack_first)
        receipt = await asyncio.wait_for(third, 10)
        assert receipt.outcome is Outcome.QUEUED
        assert await aside(store, waiting) == [second.id, receipt.id]

    play(waits)


def test_it_does_not_wait_for_ever(store: Store) -> None:
    async def gives_up() -> None:
        await netra_queue.asend_many([("user.1", 1), ("user.1", 2)])
        for timeout in (0.1, timedelta(seconds=0.1)):
            with pytest.raises(QueueFull):
                await netra_queue.asend("user.1", 3, overflow="wait", timeout=timeout)
        assert len(await aside(store, waiting)) == 2

    play(gives_up)


def test_others_get_what_the_policy_says(store: Store) -> None:
    async def dropped() -> None:
        first, second = await netra_queue.asend_many([("user.1", 1), ("user.1", 2)])
        task = asyncio.create_task(netra_queue.asend("user.1", 3, overflow="wait", timeout=30))
        await asyncio.sleep(0.1)
        other = await netra_queue.asend("user.1", 4)
        assert other.outcome is Outcome.QUEUED
        assert await aside(store, waiting) == [second.id, other.id]
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert first.outcome is Outcome.QUEUED

    play(dropped)


def test_others_of_the_same_moment_have_limits_of_their_own(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for room shares no batch with what drops the oldest."""
    settings.NETRA_QUEUE = {
        "STORE": "netra_queue.stores.memory.MemoryStore",
        "POLICIES": {"default": {"MAX_MESSAGES": 2}},
    }
    may_go_on, append = threading.Event(), MemoryStore.append

    def slow(self: MemoryStore, drafts: Any, limits: Any) -> Any:
        assert drafts[0].queue != "user.9" or may_go_on.wait(10)
        return append(self, drafts, limits)

    monkeypatch.setattr(MemoryStore, "append", slow)

    async def sends() -> None:
        _, second = await netra_queue.asend_many([("user.1", 1), ("user.1", 2)])
        await netra_queue.asend_many([("user.8", 1)])
        busy = asyncio.create_task(netra_queue.asend("user.9", 0))
        await asyncio.sleep(0.1)
        task = asyncio.create_task(netra_queue.asend("user.1", 3, overflow="wait", timeout=30))
        other = asyncio.create_task(netra_queue.asend("user.1", 4))
        await asyncio.sleep(0.1)
        may_go_on.set()
        receipt = await other
        await busy
        assert ids(get(current_store())) == [second.id, receipt.id]
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    play(sends)
    testing.shutdown()


def test_beyond_so_many_nobody_waits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "_places", backpressure.threading.BoundedSemaphore(1))

    async def refused() -> None:
        await netra_queue.asend_many([("user.1", 1), ("user.1", 2)])
        task = asyncio.create_task(netra_queue.asend("user.1", 3, overflow="wait", timeout=30))
        await asyncio.sleep(0.2)
        with pytest.raises(QueueFull):
            await asyncio.wait_for(netra_queue.asend("user.1", 4, overflow="wait", timeout=30), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await aside(store, ack_first)
        await netra_queue.asend("user.1", 5, overflow="wait")

    play(refused)


def test_a_key_is_used_once_it_is_accepted(store: Store) -> None:
    async def once() -> None:
        await netra_queue.asend_many([("user.1", 1), ("user.1", 2)])
        with pytest.raises(QueueFull):
            await netra_queue.asend("user.1", 3, overflow="wait", timeout=0.1, key="run-1")
        await aside(store, ack_first)
        first = await netra_queue.asend("user.1", 3, overflow="wait", key="run-1")
        again = await netra_queue.asend("user.1", 3, overflow="wait", key="run-1")
        assert (first.outcome, again.outcome, again.id) == (Outcome.QUEUED, Outcome.DUPLICATE, first.id)

    play(once)


def test_below_synchronous_code_it_gives_up_as_well(store: Store) -> None:
    netra_queue.send_many([("user.1", 1), ("user.1", 2)])
    with pytest.raises(QueueFull):
        async_to_sync(netra_queue.asend)("user.1", 3, overflow="wait", timeout=0.1)
    assert len(get(store).messages) == 2


def test_a_thread_does_not_wait(store: Store) -> None:
    with pytest.raises(InvalidMessage, match="overflow: expected None, or asend"):
        netra_queue.send("user.1", 1, overflow="wait")


@pytest.mark.parametrize(
    "options",
    [
        {"overflow": "drop_oldest"},
        {"timeout": 5},
        {"overflow": "wait", "timeout": 0},
        {"overflow": "wait", "timeout": float("nan")},
        {"overflow": "wait", "timeout": True},
        {"overflow": "wait", "timeout": timedelta(days=1)},
    ],
)
def test_impossible_options(options: dict[str, Any], store: Store) -> None:
    with pytest.raises(InvalidMessage):
        asyncio.run(netra_queue.asend("user.1", 1, **options))
    assert get(store).messages == ()
