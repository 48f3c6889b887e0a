"""Cancelling what swallows a cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from netra_queue import cancelling
from netra_queue.cancelling import LoopStopped, cancel_all, cancellable, on_loop
from netra_queue.hearing import patient
from tests.waiting import await_until

pytestmark = pytest.mark.asyncio


class Stubborn:
    """As channels-redis: it swallows some cancellations, and goes on waiting."""

    def __init__(self, times: int = 2) -> None:
        self.swallows = times
        self.is_waiting = asyncio.Event()
        self.has_ended = asyncio.Event()

    async def wait(self) -> str:
        try:
            while True:
                try:
                    self.is_waiting.set()
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if self.swallows == 0:
                        raise
                    self.swallows -= 1
        finally:
            self.has_ended.set()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "CANCEL_AGAIN_SECONDS", 0.02)


async def nobody() -> None: ...


@pytest.mark.parametrize("wrapped", [cancellable, lambda work: patient(lambda: work, nobody)()])
async def test_who_waits_for_it_ends_at_once(wrapped: Callable[[Awaitable[str]], Awaitable[str]]) -> None:
    stubborn = Stubborn()
    waiting = asyncio.ensure_future(wrapped(stubborn.wait()))
    await stubborn.is_waiting.wait()
    waiting.cancel()
    await asyncio.wait([waiting], timeout=10)
    assert waiting.cancelled()
    assert not stubborn.has_ended.is_set()
    await asyncio.wait_for(stubborn.has_ended.wait(), 10)
    await await_until(lambda: not cancelling._ending)


async def test_what_comes_is_given() -> None:
    async def give() -> str:
        return "this"

    assert await cancellable(give()) == "this"


async def test_an_error_is_raised() -> None:
    async def fail() -> str:
        raise ValueError("that")

    with pytest.raises(ValueError, match="that"):
        await cancellable(fail())


async def test_an_error_after_the_end_is_nobodys() -> None:
    """A warning about it would fail the test."""
    ended = asyncio.Event()

    async def fail_late() -> str:
        try:
            return await asyncio.Event().wait() and ""
        except asyncio.CancelledError as error:
            ended.set()
            raise ValueError("too late") from error

    waiting = asyncio.ensure_future(cancellable(fail_late()))
    await asyncio.sleep(0)
    waiting.cancel()
    await ended.wait()
    await await_until(lambda: not cancelling._ending)


async def test_the_end_of_a_loop_that_cancels_everything_once() -> None:
    stubborn = Stubborn()
    task = asyncio.ensure_future(stubborn.wait())
    await stubborn.is_waiting.wait()
    ending = asyncio.ensure_future(cancel_all([task]))
    await asyncio.sleep(0)
    for each in (task, ending):
        each.cancel()
    await asyncio.wait_for(asyncio.gather(task, ending, return_exceptions=True), 10)
    assert task.cancelled()


async def test_it_gives_up_after_some_time() -> None:
    stubborn = Stubborn(times=100)
    task = asyncio.ensure_future(stubborn.wait())
    await stubborn.is_waiting.wait()
    await cancel_all([task])
    assert not task.done()
    stubborn.swallows = 0
    await cancel_all([task])
    assert task.cancelled()


@pytest.fixture
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    if loop.is_running():
        loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    while pending := asyncio.all_tasks(loop):
        for task in pending:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
    loop.close()


async def test_another_loop_does_it(other_loop: asyncio.AbstractEventLoop) -> None:
    async def where() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert await on_loop(other_loop, where) is other_loop


async def test_what_it_raises_is_raised(other_loop: asyncio.AbstractEventLoop) -> None:
    async def fail() -> str:
        raise ValueError("there")

    with pytest.raises(ValueError, match="there"):
        await on_loop(other_loop, fail)


async def test_a_loop_that_does_not_run() -> None:
    loop = asyncio.new_event_loop()
    with pytest.raises(LoopStopped):
        await on_loop(loop, nobody)
    loop.close()


async def test_a_loop_that_stops_meanwhile(
    other_loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "LOOP_CHECK_SECONDS", 0.02)

    async def stop_and_wait() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.Event().wait()

    with pytest.raises(LoopStopped):
        await asyncio.wait_for(on_loop(other_loop, stop_and_wait), 10)
