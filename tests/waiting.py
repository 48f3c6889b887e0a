"""Waiting for a condition, and for threads, with a deadline."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from django.db import connections

POLL_SECONDS = 0.01
Result = TypeVar("Result")


def wait_until(condition: Callable[[], object], timeout: float = 10, pause: float = POLL_SECONDS) -> None:
    """Return when ``condition`` is true. AssertionError when it is not within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout} s: {condition}"
        time.sleep(pause)


async def await_until(condition: Callable[[], object], timeout: float = 10) -> None:  # noqa: ASYNC109  polls
    """The same on an event loop; ``condition`` may be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if await value if isinstance(value, Awaitable) else value:
            return
        assert time.monotonic() < deadline, f"not true within {timeout} s: {condition}"
        await asyncio.sleep(POLL_SECONDS)


def together(*calls: Callable[[], Result], timeout: float = 60) -> list[Result]:
    """Make these calls at the same time, each in a thread of its own. Returns their results in order.

    Each thread closes its database connections. Raises the first error; AssertionError when a thread does not end.
    """
    barrier = threading.Barrier(len(calls))
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def run(number: int, call: Callable[[], Result]) -> None:
        try:
            barrier.wait(timeout)
            results[number] = call()
        except BaseException as error:
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), f"threads still busy after {timeout} s"
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(calls))]
