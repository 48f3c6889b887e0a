"""Connections on their way into the store: one call for all that came meanwhile. For one hub, on its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .acks import Call
from .core.policy import Policy
from .deadline import in_time
from .exceptions import NetraQueueError
from .stores.base import Opened, Presence, Store

COLLECT_SECONDS = 0.001
ARRIVALS_PER_CALL = 100  # so that live traffic has its turn between them
CONCURRENT_CALLS = 2

_Waiting = tuple[Presence, Policy, asyncio.Future[Opened]]


class Arrivals:
    """``on_late`` is called for a connection that was attached when nobody waited for that any more."""

    def __init__(
        self,
        store: Store,
        call: Call,
        background: Callable[[Awaitable[None]], None],
        on_late: Callable[[Presence], None],
    ) -> None:
        self._store, self._call, self._background, self._on_late = store, call, background, on_late
        self._waiting: list[_Waiting] = []
        self._has_waiting = asyncio.Event()
        self._turns = asyncio.Semaphore(CONCURRENT_CALLS)

    async def attach(self, presence: Presence, policy: Policy) -> Opened:
        """``Store.attach``. Raises what that raises, and StoreUnavailable after STORE_TIMEOUT_SECONDS."""
        future: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()
        self._waiting.append((presence, policy, future))
        self._has_waiting.set()
        return await in_time(future)

    async def begin(self) -> None:
        """Wait until some have come, and begin to attach them."""
        await self._has_waiting.wait()
        await asyncio.sleep(COLLECT_SECONDS)
        await self._turns.acquire()
        some, self._waiting = self._waiting[:ARRIVALS_PER_CALL], self._waiting[ARRIVALS_PER_CALL:]
        if not self._waiting:
            self._has_waiting.clear()
        self._background(self._attach([waiting for waiting in some if not waiting[2].done()]))

    async def _attach(self, arrivals: list[_Waiting]) -> None:
        wanted = [(presence, policy) for presence, policy, _ in arrivals]
        answers: list[Opened | NetraQueueError] | list[Exception]
        try:
            answers = await self._call(lambda: self._store.attach_all(wanted))
        except Exception as error:
            answers = [error] * len(wanted)
        finally:
            self._turns.release()
        for (presence, _, future), answer in zip(arrivals, answers, strict=True):
            if future.done():
                self._on_late(presence)
            elif isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
