"""What tasks of one event loop wait for, small as long as nobody does.

Every connection has several of these, idle for most of its time: an ``asyncio.Event`` takes 0.8 KB, a ``Queue`` 3 KB.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Pulse:
    """Wakes all who wait at that moment. A beat that nobody waits for is not remembered."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: tuple[asyncio.Future[None], ...] = ()

    def beat(self) -> None:
        waiting, self._waiting = self._waiting, ()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def next(self) -> None:
        """Return at the next beat. May be cancelled."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting += (waiter,)
        try:
            await waiter
        finally:
            self._waiting = tuple(other for other in self._waiting if other is not waiter)


class Mailbox(Generic[Item]):
    """An unbounded queue, first in, first out. A ``get`` that is cancelled takes nothing."""

    __slots__ = ("_filled", "_items")

    def __init__(self) -> None:
        self._items: deque[Item] | None = None
        self._filled = Pulse()

    def put(self, item: Item) -> None:
        if self._items is None:
            self._items = deque()
        self._items.append(item)
        self._filled.beat()

    async def get(self) -> Item:
        while self._items is None:
            await self._filled.next()
        item = self._items.popleft()
        if not self._items:
            self._items = None
        return item
