"""Has queues read when the turn of a message comes that was sent above its rate. For one hub, on its event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta

SLACK = timedelta(milliseconds=2)  # what is known of the store's clock may be a little behind


class Turns:
    """``ring`` has a queue read, ``now`` tells the store's time."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ring: Callable[[Collection[str]], None],
        now: Callable[[], datetime],
    ) -> None:
        self._loop, self._ring, self._now = loop, ring, now
        self._timers: dict[str, tuple[datetime, asyncio.TimerHandle]] = {}

    def expect(self, due: Mapping[str, datetime]) -> None:
        """When the next turn of each of these queues comes. An earlier one than was known takes its place."""
        for queue, at in due.items():
            known = self._timers.get(queue)
            if known is not None and known[0] <= at:
                continue
            if known is not None:
                known[1].cancel()
            seconds = (at + SLACK - self._now()).total_seconds()
            self._timers[queue] = at, self._loop.call_later(max(0.0, seconds), self._has_come, queue)

    def _has_come(self, queue: str) -> None:
        """The read that follows finds out about the next one."""
        self._timers.pop(queue, None)
        self._ring([queue])
