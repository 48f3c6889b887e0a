"""The end of a process whose event loop was left: nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from netra_queue import process

SECONDS = 20


@pytest.fixture
def loop(settings: Any) -> Iterator[asyncio.AbstractEventLoop]:
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore"}
    loop = asyncio.new_event_loop()
    yield loop
    process.close()
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class Consumer:
    """A synchronous one: its thread hands something to the loop, and waits for that."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_send, self.has_handed_over = threading.Event(), threading.Event()
        self.ended: Future[BaseException] = Future()
        self._loop, self._monkeypatch = loop, monkeypatch

    async def begin(self) -> None:
        process.current_hub()
        self._task = asyncio.create_task(sync_to_async(self._work)())
        await asyncio.sleep(0.05)

    def _work(self) -> None:
        try:
            assert self.may_send.wait(SECONDS)
            hand_over = self._loop.call_soon_threadsafe

            def handing_over(*args: Any, **kwargs: Any) -> Any:
                handle = hand_over(*args, **kwargs)
                self.has_handed_over.set()
                return handle

            self._monkeypatch.setattr(self._loop, "call_soon_threadsafe", handing_over)
            async_to_sync(self._send)()
        except BaseException as error:
            self.ended.set_result(error)

    async def _send(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("asgiref found no loop to hand this to")
        await asyncio.sleep(SECONDS)


def test_a_thread_that_had_just_handed_something_to_the_loop(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asgiref tells it nothing when that is cancelled before its first step."""
    consumer = Consumer(loop, monkeypatch)
    loop.run_until_complete(consumer.begin())
    consumer.may_send.set()
    assert consumer.has_handed_over.wait(SECONDS)
    process.close()
    assert isinstance(consumer.ended.result(SECONDS), asyncio.CancelledError)


def test_a_thread_that_hands_something_to_the_loop_later(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = Consumer(loop, monkeypatch)
    loop.run_until_complete(consumer.begin())
    threading.Timer(0.3, consumer.may_send.set).start()
    process.close()
    assert isinstance(consumer.ended.result(SECONDS), asyncio.CancelledError)


def test_a_thread_that_takes_longer_is_told_that_the_loop_is_closed(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "EXIT_SECONDS", 0.1)
    consumer = Consumer(loop, monkeypatch)
    loop.run_until_complete(consumer.begin())
    process.close_at_exit()
    assert loop.is_closed()
    consumer.may_send.set()
    assert isinstance(consumer.ended.result(SECONDS), RuntimeError)


def test_a_store_that_swallows_everything_does_not_hold_the_end(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    may_answer = threading.Event()
    monkeypatch.setattr(process, "REST_SECONDS", 0.1)

    async def register() -> None:
        hub = process.current_hub()
        await hub._register()
        monkeypatch.setattr(hub.store, "retire", lambda server: may_answer.wait(SECONDS))

    loop.run_until_complete(register())
    ending = threading.Thread(target=process.close)
    ending.start()
    ending.join(SECONDS / 2)
    assert not ending.is_alive()
    may_answer.set()
    assert "not everything is written at exit" in caplog.text
