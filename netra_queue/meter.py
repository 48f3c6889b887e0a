"""What one hub counts of its connections, a few times a second, and when it has that written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from . import statistics, tracing
from .acks import Call
from .complaints import complain
from .core.deliveries import Delivery
from .core.statistics import Event, Figures, Gauge, Timing
from .core.wire import Mode
from .counting import adder
from .link import Link

logger = logging.getLogger(__name__)

BELL_TIME = timedelta(seconds=1)  # when a poll finds a younger message, its bell may be on its way


class Meter:
    """For one event loop. ``now`` gives the store's time, ``links`` all connections."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        call: Call,
        now: Callable[[], datetime],
        links: Callable[[], Iterable[Link]],
    ) -> None:
        self._loop, self._call, self._now, self._links = loop, call, now, links
        self._sampled_at = loop.time()
        self._is_writing = False

    def read(self, link: Link) -> None:
        """Count what has happened on this connection since the last call."""
        account = link.connection.window.take_account()
        if not account:
            return
        if account.transmitted:
            adder.count(Event.TRANSMITTED, account.transmitted)
        if link.was_polled and account.stored_at is not None:
            link.was_polled = False
            if self._now() - account.stored_at > BELL_TIME:
                adder.add(Event.BELL_MISSED)
        if account.live_seconds is not None:
            adder.observe(Timing.LIVE, [account.live_seconds])
        if account.acked:
            self._read_acked(link, account.acked)

    def trace(self, link: Link) -> None:
        """The same, if somebody takes spans."""
        if tracing.is_on():
            self.read(link)

    def read_last(self, link: Link) -> None:
        """The same, of a connection that has ended."""
        self.read(link)
        tracing.left(link.queue, link.connection.window, self._loop.time())

    def _read_acked(self, link: Link, acked: Iterable[tuple[Delivery, float]]) -> None:
        """The store counts what it removes; it never hears of an own send that is acked before it was to be stored."""
        tracing.acked(link.queue, acked, self._loop.time())
        own = [delivery.priority for delivery, _ in acked if delivery.own is not None and not delivery.persisting]
        if own:
            adder.count(Event.ACCEPTED, own)
            adder.count(Event.ACKED, own)
        if link.connection.mode is Mode.RAW:  # nobody knows when such a client has read what
            return
        loop_began = self._now().timestamp() - self._loop.time()
        opened_at = link.opened_at.timestamp() if link.opened_at is not None else 0.0
        live: list[float] = []
        replayed: list[float] = []
        for delivery, acked_at in acked:
            if delivery.sent_at is not None:
                sent_at = delivery.sent_at.timestamp()
                (replayed if sent_at < opened_at else live).append(loop_began + acked_at - sent_at)
        for timing, some in ((Timing.ACK, live), (Timing.REPLAY_ACK, replayed)):
            if some:
                adder.observe(timing, some)

    async def write(self) -> None:
        """Wait until a bucket is over, and have the store record it. Errors reach the log only."""
        await asyncio.sleep(statistics.seconds_to_next(statistics.ledger.now()))
        self.sample()
        await self._write()

    async def write_last(self) -> None:
        """Have it recorded at once if no connection is left: Uvicorn may be ending its process, by a signal."""
        if not self._is_writing and not any(self._links()):
            await self._write()

    async def _write(self) -> None:
        self._is_writing = True
        try:
            await self._call(statistics.ledger.try_to_write)
        except Exception as error:  # it takes too long, and goes on meanwhile
            complain(logger, "statistics not written yet", "statistics_failed", error)
        finally:
            self._is_writing = False

    def sample(self) -> None:
        """Count what there is: as if it had been so since the last time."""
        seconds = self._loop.time() - self._sampled_at
        self._sampled_at += seconds
        now = {Gauge.CONNECTIONS: 0, Gauge.IN_FLIGHT: 0, Gauge.OWN_SENDS: 0}
        for link in self._links():
            window = link.connection.window
            now[Gauge.CONNECTIONS] += link.connection.is_open
            now[Gauge.IN_FLIGHT] += len(window.deliveries) * link.connection.is_open
            now[Gauge.OWN_SENDS] += window.own_sends + link.connection.held
        statistics.ledger.note_gauges(id(self), now)
        if any(now.values()):
            adder.add_figures(Figures(gauges=[now[gauge] * seconds for gauge in Gauge]))
