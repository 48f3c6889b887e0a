"""What a server says of its connections when an operator looks at their queue: for one hub, on its event loop.

How much of its window a connection has in use, and when its client acked last, is in memory alone, and changes with
each frame. So it is written only when somebody asks, by a word through the channel layer (``details``), for all
connections of the queues that were asked about in one call. Questions that come meanwhile are answered by the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta

from .acks import Call
from .complaints import complain
from .link import Link
from .links import Links
from .stores.base import Store
from .stores.values import Detail

logger = logging.getLogger(__name__)

MOST_QUEUES = 1000  # that wait to be described; the operator's page asks for a hundred at most


class Describing:
    """``now`` gives the store's time, as far as it is known without asking."""

    def __init__(
        self,
        store: Store,
        call: Call,
        now: Callable[[], datetime],
        background: Callable[[Awaitable[None]], None],
        links: Links,
    ) -> None:
        self._store, self._call, self._now, self._background, self._links = store, call, now, background, links
        self._loop = asyncio.get_running_loop()
        self._asked: set[str] = set()
        self._is_answering = False

    def asked(self, lines: Collection[str]) -> None:
        """An operator looks at these queues or lines. Returns at once."""
        mine = {line for line in lines if self._links.of(line)}
        if len(self._asked | mine) > MOST_QUEUES:
            logger.warning("not described: too many queues are asked about", extra={"action": "description_dropped"})
            return
        self._asked |= mine
        if self._asked and not self._is_answering:
            self._is_answering = True
            self._background(self._answer())

    async def _answer(self) -> None:
        try:
            while self._asked:
                lines, self._asked = self._asked, set()
                details = [self._detail(link) for line in lines for link in self._links.of(line)]
                await self._call(lambda: self._store.tell_details(details))  # noqa: B023  called before the next
        except Exception as error:
            complain(logger, "connections not described", "description_failed", error)
        finally:
            self._is_answering = False

    def _detail(self, link: Link) -> Detail:
        window = link.connection.window
        return Detail(
            connection=link.presence.id,
            window=link.connection.policy.window,
            unacked=len(window.deliveries),
            acked_at=self._moment(window.acked_at),
        )

    def remember(self, link: Link) -> None:
        """Its connection ends: what it says last goes to the store with the word that it is gone."""
        link.presence = replace(link.presence, acked_at=self._moment(link.connection.window.acked_at))

    def _moment(self, at: float | None) -> datetime | None:
        """A time of the loop's, as the store has it."""
        return None if at is None else self._now() - timedelta(seconds=self._loop.time() - at)
