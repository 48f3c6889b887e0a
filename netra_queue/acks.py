"""Messages on their way out of the store, acked or withheld: one statement for what came in meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar

from . import tracing
from .complaints import complain

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Positions = Mapping[str, Collection[int]]  # by queue
NOTHING: frozenset[int] = frozenset()
COLLECT_SECONDS = 0.025  # nobody waits for these, and the fewer the statements, the more room for what is waited for
LEFT_OVER_SECONDS = 0.05
TRY_AGAIN_SECONDS = 1.0


class Call(Protocol):
    """Does something with the store in another thread, within a time."""

    async def __call__(self, work: Callable[[], Result]) -> Result: ...


class Acks:
    """Positions by queue, until the store has removed them. For one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[int]] = defaultdict(set)
        self._on_their_way: Mapping[str, Collection[int]] = {}
        self._has_waiting = asyncio.Event()
        self._removed = asyncio.Event()

    def add(self, queue: str, positions: Collection[int]) -> None:
        self._waiting[queue].update(positions)
        self._has_waiting.set()

    async def write(self, call: Call, remove: Callable[[Positions], Positions]) -> None:
        """Wait until there are some, and have the store remove them. What is left or failed is tried again."""
        await self.some()
        await asyncio.sleep(COLLECT_SECONDS)
        left: Positions = (mine := self.take())
        pause = LEFT_OVER_SECONDS
        try:
            left = await call(lambda: remove(mine))
            tracing.removed(mine, left)
        except Exception as error:
            complain(logger, "acks not written yet", "ack_failed", error)
            pause = TRY_AGAIN_SECONDS
        finally:
            self.put_back(left)
        if left:
            await asyncio.sleep(pause)

    def of(self, queue: str) -> frozenset[int]:
        """What the queue's connections have acked and the store may still hold: not to be read again."""
        waiting, on_their_way = self._waiting.get(queue), self._on_their_way.get(queue)
        return frozenset().union(waiting or (), on_their_way or ()) if waiting or on_their_way else NOTHING

    async def some(self) -> None:
        """Return when there is something to take."""
        await self._has_waiting.wait()

    def take(self) -> Mapping[str, Collection[int]]:
        """All that is waiting, now on its way to the store: call ``put_back`` with what was not removed."""
        self._has_waiting.clear()
        self._on_their_way = dict(self._waiting)
        self._waiting.clear()
        return self._on_their_way

    def put_back(self, left: Mapping[str, Collection[int]]) -> None:
        for queue, positions in left.items():
            self.add(queue, positions)
        self._on_their_way = {}
        self._removed.set()
        self._removed.clear()  # those who wait have been woken; the next ones wait for the next time

    def unwritten(self) -> dict[str, frozenset[int]]:
        return {queue: self.of(queue) for queue in {*self._waiting, *self._on_their_way}}

    async def written(self, queue: str) -> None:
        """Return when the store has nothing left of what this queue's connections acked."""
        while self.of(queue):
            await self._removed.wait()
