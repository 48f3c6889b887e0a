"""What nobody keeps, on its way to the connections of one hub: see ``passing``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from . import conf, passing, permission, wakeup
from .core.actions import Action
from .core.message import Message
from .core.wire import CloseCode
from .link import Link
from .links import Links

logger = logging.getLogger(__name__)


class Giving:
    """For one event loop. ``carry_out`` does what a connection decides, ``background`` keeps a task."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        links: Links,
        carry_out: Callable[[Link, Iterable[Action]], None],
        background: Callable[[Awaitable[None]], None],
    ) -> None:
        self._loop, self._links = loop, links
        self._carry_out, self._background = carry_out, background

    def take(self, notes: Sequence[wakeup.Note]) -> None:
        """Transmit these to the connections here that they are for. What is no note is logged, and left out."""
        for note in notes:
            try:
                queue, group, message = passing.read(note)
            except (KeyError, TypeError, ValueError) as error:
                logger.warning("not given: %r", error, extra={"action": "bell_failed"})
                continue
            for link in self._links.addressed(queue) if group is None else self._members(group):
                self._give(link, message)

    def _members(self, group: str) -> list[Link]:
        return [link for link in self._links if group in link.groups]

    def _give(self, link: Link, message: Message) -> None:
        if link.may_deliver is None:
            self._transmit(link, message)
        else:
            self._background(self._give_permitted(link, message, link.may_deliver))

    async def _give_permitted(self, link: Link, message: Message, may_deliver: permission.MayDeliver) -> None:
        """In the order of giving: each waits until the consumer has answered for those before."""
        async with link.asking:
            try:
                allowed, _ = await permission.ask(may_deliver, [message], conf.get("STORE_TIMEOUT_SECONDS"))
            except Exception as error:
                logger.warning("not known what may be delivered", exc_info=error, extra={"action": "permission_failed"})
                link.end(CloseCode.STORE_UNAVAILABLE, "it is not known what may be delivered")
                return
            for one in allowed:
                self._transmit(link, one)

    def _transmit(self, link: Link, message: Message) -> None:
        self._carry_out(link, link.connection.give(message, self._loop.time()))
