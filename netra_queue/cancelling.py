"""Cancelling what does not always listen: channels-redis may swallow a cancellation while it waits for Redis.

It goes on waiting then, for a message that may never come, and whoever waits for the cancelled task waits with it: an
ASGI server for a consumer whose client is long gone, and the end of the process for the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
CANCEL_AGAIN_SECONDS = 0.5
CANCEL_TIMES = 6
LOOP_CHECK_SECONDS = 1.0

_ending: set[asyncio.Task[None]] = set()  # held, so that none is collected


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel these tasks and wait until they have ended, for about three seconds, again and again.

    When it is cancelled itself, it goes on all the same: it ends soon.
    """
    pending: Collection[asyncio.Task[Any]] = set(tasks)
    for _ in range(CANCEL_TIMES):
        for task in pending:
            task.cancel()
        if not pending:
            return
        try:
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_SECONDS)
        except asyncio.CancelledError:
            pending = {task for task in pending if not task.done()}


async def cancellable(work: Awaitable[Result]) -> Result:
    """Wait for ``work``. When the wait is cancelled it ends at once, and ``work`` soon after, whatever it swallows."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            _end(task)
        raise


async def on_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Do ``work`` on another thread's event loop. Raises LoopStopped when that does not run (any more)."""
    if not loop.is_running():
        raise LoopStopped
    future = asyncio.run_coroutine_threadsafe(work(), loop)
    answer = asyncio.wrap_future(future)
    while not answer.done():
        await asyncio.wait([answer], timeout=LOOP_CHECK_SECONDS)
        if not answer.done() and not loop.is_running():
            future.cancel()
            raise LoopStopped
    return await answer


class LoopStopped(RuntimeError):
    """Nobody would ever answer."""


def _end(task: asyncio.Future[Any]) -> None:
    assert isinstance(task, asyncio.Task)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else looks at it
    ending = asyncio.create_task(cancel_all([task]))
    _ending.add(ending)
    ending.add_done_callback(_ending.discard)
