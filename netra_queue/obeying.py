"""What operators have done to queues and connections that a server holds: for one hub, on its event loop.

Whoever does something changes the version of the controls with it (``stores.base_operators``); so it is looked for when
``adopting`` has seen another version, by a bell or by asking, and costs nothing as long as nobody does anything.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from weakref import WeakSet

from . import controls
from .acks import Call
from .complaints import complain
from .core import wire
from .core.actions import Action, Transmit
from .core.states import State
from .core.wire import CloseCode, Mode
from .link import Link
from .stores.base import Store

logger = logging.getLogger(__name__)

JITTER = 1.5  # the seconds that clients are told are up to so many times those that the operator has asked for
FAREWELL_SECONDS = 1.0  # for what is on its way, and the word when to return; then the connection is closed without it


class Obeying:
    """``carry_out`` does what a connection decides; ``links`` gives the connections that are there."""

    def __init__(
        self,
        server_id: str,
        store: Store,
        call: Call,
        carry_out: Callable[[Link, Iterable[Action]], None],
        background: Callable[[Awaitable[None]], None],
        links: Callable[[], Iterable[Link]],
    ) -> None:
        self._server_id, self._store, self._call = server_id, store, call
        self._carry_out, self._background, self._links = carry_out, background, links
        self._seen = controls.generation()
        self._leaving: WeakSet[Link] = WeakSet()

    async def look(self) -> None:
        """Do what operators have asked for since the last time. What the store could not say is asked for next time."""
        generation = controls.generation()
        if generation == self._seen:
            return
        links = {link.presence.id: link for link in self._links() if link.connection.state is not State.CLOSED}
        lines = sorted({link.queue for link in links.values()})
        try:
            paused, away = await self._call(
                lambda: (self._store.paused(lines), self._store.sent_away(self._server_id)) if lines else ({}, {})
            )
        except Exception as error:
            complain(logger, "not known what operators have done", "orders_not_read", error)
            return
        self._seen = generation
        for link in links.values():
            if link.connection.is_paused != (link.queue in paused):
                self._carry_out(link, link.connection.ring())  # it reads, and finds it out
        for id in away.keys() & links.keys():
            self._send_away(links[id], away[id])

    def _send_away(self, link: Link, seconds: float) -> None:
        if link not in self._leaving:
            self._leaving.add(link)
            self._background(_say_farewell(link, seconds * random.uniform(1, JITTER)))


async def _say_farewell(link: Link, seconds: float) -> None:
    if link.connection.mode is Mode.PROTOCOL and link.connection.is_open:
        link.put(Transmit(wire.retry(seconds)))
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await link.drained()
        except TimeoutError:
            logger.info("sent away before all was written", extra={"action": "farewell_undrained"})
    logger.info("connection sent away", extra={"action": "connection_sent_away", "queue": link.queue})
    link.end(CloseCode.SENT_AWAY, "an operator has closed this connection; come back later")
