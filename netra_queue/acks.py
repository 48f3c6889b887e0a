"""Acks on their way from the connections to the store: one statement for what came in meanwhile."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping


class Acks:
    """Acked positions by queue, until the store has removed them. For one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[int]] = defaultdict(set)
        self._on_their_way: Mapping[str, Collection[int]] = {}
        self._has_waiting = asyncio.Event()
        self._removed = asyncio.Event()

    def add(self, queue: str, positions: Collection[int]) -> None:
        self._waiting[queue].update(positions)
        self._has_waiting.set()

    def of(self, queue: str) -> frozenset[int]:
        """What the queue's connections have acked and the store may still hold: not to be read again."""
        return frozenset(self._waiting.get(queue, ())) | frozenset(self._on_their_way.get(queue, ()))

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
