"""Connections that are served without the store, until it takes them: for one hub, on its event loop.

Either their queues are not durable (any more, or yet), or the store is away and their policies do without it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from .complaints import complain
from .core.rollout import Standing
from .core.states import State
from .core.wire import CloseCode
from .exceptions import TooManyDevices
from .link import Link

logger = logging.getLogger(__name__)

TRY_EVERY_SECONDS = 1.0
TOGETHER = 200  # a store that comes back is not met by all at once


class Joining:
    def __init__(self) -> None:
        self._waiting: dict[Link, Callable[[], Awaitable[None]]] = {}

    def add(self, link: Link, join: Callable[[], Awaitable[None]]) -> None:
        """Call ``join``, which makes the connection known to the store, until it raises nothing. A connection for which
        there is no room is closed."""
        self._waiting[link] = join

    async def step(self) -> None:
        """Wait a moment, then try with some of them."""
        await asyncio.sleep(TRY_EVERY_SECONDS * random.uniform(0.5, 1))
        for link in [link for link in self._waiting if link.connection.state is State.CLOSED]:
            del self._waiting[link]
        ready = [link for link in self._waiting if link.connection.standing is not Standing.OFF]
        await asyncio.gather(*map(self._try, ready[:TOGETHER]))

    async def _try(self, link: Link) -> None:
        join = self._waiting.pop(link)
        try:
            await join()
        except TooManyDevices as error:
            link.end(CloseCode.TOO_MANY_CONNECTIONS, str(error))
        except Exception as error:
            complain(logger, "connection served without the store", "attach_failed", error)
            self._waiting[link] = join  # behind the others
