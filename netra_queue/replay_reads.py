"""The reads of connections that replay: a few at a time and bounded, so that a storm of them starves nobody.

Those that are live have reads of their own (``reads``). Here, one call after the other is made, each for the
connections that have waited longest, and together for no more messages than are dealt with in some milliseconds. What
REPLAY_RATE (of a connection's policy) and PROCESS_REPLAY_RATE allow is what is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from . import conf
from .core.actions import ReadRequest
from .core.rate import Rate, available, take
from .link import Link

LINKS_PER_CALL = 64
MESSAGES_PER_CALL = 1_024
BYTES_PER_CALL = 8_388_608
PAUSE_SECONDS = 0.05  # with nothing that may be read now: whether there is, is looked at so often

Requests = list[tuple[Link, ReadRequest]]


class ReplayReads:
    """For one event loop. ``read`` reads for these, and returns how many messages each has got.

    Raises NotConfigured for a PROCESS_REPLAY_RATE that is no rate.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, read: Callable[[Requests], Awaitable[Sequence[int]]]) -> None:
        self._loop, self._read = loop, read
        self._waiting: dict[Link, None] = {}
        self._has_waiting = asyncio.Event()
        self._rate = conf.process_replay_rate()
        self._full_at = 0.0  # of the process's bucket

    def want(self, link: Link) -> None:
        """This connection replays, and has decided to read."""
        self._waiting[link] = None
        self._has_waiting.set()

    async def step(self) -> None:
        """Wait until there are some, and read for those whose turn it is."""
        await self._has_waiting.wait()
        requests = self._requests(self._loop.time())
        if not self._waiting:
            self._has_waiting.clear()
        elif not requests:
            await asyncio.sleep(PAUSE_SECONDS)
        if not requests:
            return
        counts = await self._read(requests)
        for (link, _), count in zip(requests, counts, strict=True):
            self._spend(link, count)

    def _requests(self, now: float) -> Requests:
        """Of those that may read now, the ones that have waited longest. They wait no more."""
        most = MESSAGES_PER_CALL
        if self._rate is not None:
            most = min(available(self._rate, self._full_at, now), most)
        allowed = {link: _allowed(link, now) for link in self._waiting}
        links = [link for link, count in allowed.items() if count][: min(LINKS_PER_CALL, most)]
        requests: Requests = []
        for link in links:
            del self._waiting[link]
            if (request := link.connection.begin_read()) is not None:
                limit = min(request.limit, allowed[link], most // len(links))
                max_bytes = min(request.max_bytes, BYTES_PER_CALL // len(links))
                requests.append((link, request._replace(limit=limit, max_bytes=max_bytes)))
        return requests

    def _spend(self, link: Link, count: int) -> None:
        now = self._loop.time()
        if count and self._rate is not None:
            self._full_at = take(self._rate, self._full_at, now, count).full_at
        if count and (rate := link.connection.policy.replay_rate) is not None:
            link.replay_full_at = take(rate, link.replay_full_at, now, count).full_at


def _allowed(link: Link, now: float) -> int:
    """How many messages it may get now."""
    rate: Rate | None = link.connection.policy.replay_rate
    return MESSAGES_PER_CALL if rate is None else available(rate, link.replay_full_at, now)
