"""How a consumer's life goes on without its socket: the task it lives in, and what comes before it is told.

run --> the consumer's task --ends--> run returns, or raises what it raised
             `-- its client goes, and it lingers --> run returns; the hub holds the task
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from .hub import Hub
from .lingering import Departure, Stay, check_seconds
from .link import Link
from .mailbox import Pulse

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
HOOK_SECONDS = 10.0


class Parting:
    """Belongs to one consumer and one event loop."""

    def __init__(self, departure: Departure) -> None:
        self._departure = departure
        self._seconds = 0.0
        self._asked = 0
        self._asks = Pulse()
        self._life: asyncio.Task[None] | None = None
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # it is over, or lingers
        self._stay: Stay | None = None
        self._hub: Hub | None = None

    @property
    def lingers(self) -> bool:
        """Whether the consumer has begun to linger; also when that is over."""
        return self._stay is not None

    def choose(self) -> None:
        """Ask the consumer for how long it would linger. Raises ValueError for an impossible time."""
        self._seconds = check_seconds(self._departure.seconds())

    def asks_again(self) -> None:
        """The consumer asks for an event. Channels does so again when the one before has been handled."""
        self._asked += 1
        self._asks.beat()

    async def connected(self) -> None:
        """Return when the consumer's ``connect()`` is done, or takes long: it may join its groups after it accepts."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                while self._asked < 2:
                    await self._asks.next()
        except TimeoutError:
            logger.debug("connect() takes long", extra={"action": "slow_connect"})

    async def run(self, life: Coroutine[Any, Any, None]) -> None:
        """Return when ``life`` is over, or when it lingers. Raises what it raises. Cancelling this cancels it, unless
        it lingers."""
        task = self._life = asyncio.create_task(life)
        task.add_done_callback(lambda _: self._leave())
        try:
            await self._left
        except asyncio.CancelledError:
            if self.lingers:
                raise
            if not task.cancelling():
                task.cancel()
        if task.done() or not self.lingers:
            await task

    def _leave(self) -> None:
        if not self._left.done():
            self._left.set_result(None)

    def may_linger(self, hub: Hub, link: Link) -> bool:
        """Whether there is something to stay for, and nobody else here to hear it; the store knows of other servers."""
        if self._life is None or self._life.done() or self._life.cancelling():
            return False
        is_attached = link.connection.reads and link.connection.standing.keeps
        wants_to = self._seconds > 0 and self._departure.has_joined()
        return is_attached and wants_to and not hub.is_attached(link.queue, besides=link)

    def begin_to_linger(self, hub: Hub, link: Link, told: int | None) -> None:
        """Release the connection, and have the consumer stay. ``told``: see ``Endpoint``."""
        assert self._life is not None
        self._hub = hub
        hub.release(link, told, lingers=True)
        self._stay = Stay(presence=link.presence, seconds=self._seconds, leave=self._departure.leave)
        hub.lingering.begin(self._stay, self._life)
        self._leave()

    def end(self) -> None:
        """The consumer lingers no longer. Idempotent, and nothing if it does not."""
        if self._hub is not None and self._stay is not None:
            self._hub.lingering.end(self._stay)

    @property
    def takes_time(self) -> bool:
        """Whether there is anything to wait for before the consumer is told."""
        return self.lingers or self._departure.on_disconnected is not None

    async def wait(self, code: int | None) -> None:
        """Return when the consumer is to be told that its client is gone. ``code``: the close code."""
        if self._departure.on_disconnected is not None:
            try:
                async with asyncio.timeout(HOOK_SECONDS):
                    await self._departure.on_disconnected(code)
            except Exception:
                logger.exception("queue_disconnected() failed", extra={"action": "hook_failed"})
        if self._stay is not None:
            await self._stay.farewell()
