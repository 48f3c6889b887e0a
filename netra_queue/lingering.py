"""Consumers whose clients are gone and that go on listening to their groups: for one hub, on its event loop.

    the socket is gone --begin--> lingering --end--> leaving its groups --> told (``websocket.disconnect``) --> over
                                     |
                                     `-- recorded in the store, so that every server learns of the queue's next client

What ends it: the same queue's next connection (here at once; elsewhere by a word through the channel layer), its time,
a consumer that closes, the process's end, or too many others.

**If it fails.** A linger that the store could not record goes on and is offered again. A word that was lost is made
up for by the poll: the next connection has removed the record. So has a store that took this server for dead; then the
linger ends early. Nothing is recorded for a queue that is connected elsewhere, and that linger ends at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from . import conf, wakeup
from .stores.base import Presence, Store

logger = logging.getLogger(__name__)

MAX_LINGERING = 10_000  # in one process
LONGEST_SECONDS = conf.DAY
COLLECT_SECONDS = 0.005
TRY_AGAIN_SECONDS = 1.0
COMPLAIN_SECONDS = 5.0
LEAVE_SECONDS = 10.0  # for leaving the groups, and for what they sent before
FINISH_SECONDS = 1.0  # at the end of the process


def check_seconds(seconds: object) -> float:
    """``queue_linger_seconds`` if that is possible. Raises ValueError."""
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 <= seconds <= LONGEST_SECONDS:  # type: ignore[operator]
        raise ValueError(f"queue_linger_seconds: expected a number from 0 to {LONGEST_SECONDS}, got {seconds!r}")
    return float(seconds)  # type: ignore[arg-type]


async def _nothing() -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Departure:
    """What a consumer does about the end of its connection.

    ``leave`` has it leave its groups, and returns when it has dealt with what they sent. ``on_disconnected`` is called
    with the close code, before anything else is told to the consumer.
    """

    seconds: Callable[[], float] = lambda: 0.0
    has_joined: Callable[[], bool] = lambda: False
    leave: Callable[[], Awaitable[None]] = _nothing
    on_disconnected: Callable[[int | None], Awaitable[None]] | None = None


@dataclass(kw_only=True, eq=False, slots=True)
class Stay:
    """One consumer that lingers. ``over`` is set when it shall end; ``farewell`` waits for that."""

    presence: Presence
    seconds: float
    leave: Callable[[], Awaitable[None]]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    is_recorded: bool = False
    is_hurried: bool = False
    until: float = 0.0
    timer: asyncio.TimerHandle | None = None

    async def farewell(self) -> None:
        """Return when the consumer is to be told that its client is gone."""
        await self.over.wait()
        if self.is_hurried:
            return
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.leave()
        except Exception as error:
            reason = str(error) or type(error).__name__
            logger.warning("a consumer could not leave its groups: %s", reason, extra={"action": "leave_failed"})


class Lingering:
    """``call`` has work done in the hub's threads; ``detach`` tells the store, sooner or later."""

    def __init__(
        self,
        server_id: str,
        store: Store,
        call: Callable[[Callable[[], set[str]]], Awaitable[set[str]]],
        detach: Callable[[Presence], None],
    ) -> None:
        self._server_id, self._store, self._call, self._detach = server_id, store, call, detach
        self._loop = asyncio.get_running_loop()
        self._stays: dict[str, Stay] = {}  # by connection, oldest first
        self._consumers: dict[asyncio.Task[None], Stay] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._unrecorded: list[Stay] = []
        self._has_unrecorded = asyncio.Event()
        self._complained_at = -COMPLAIN_SECONDS

    def __len__(self) -> int:
        return len(self._stays)

    # --- beginning and end ---------------------------------------------------------------------------------------

    def begin(self, stay: Stay, consumer: asyncio.Task[None]) -> None:
        """The socket is gone, and ``consumer`` stays. Its task is held from here on, and its errors are logged."""
        if len(self._stays) >= MAX_LINGERING:
            self._complain("a consumer lingers no longer: there are too many", "linger_dropped")
            self.end(next(iter(self._stays.values())))
        stay.until = self._loop.time() + stay.seconds
        stay.timer = self._loop.call_later(stay.seconds, self.end, stay)
        self._stays[stay.presence.id] = stay
        self._unrecorded.append(stay)
        self._has_unrecorded.set()
        self._consumers[consumer] = stay
        consumer.add_done_callback(self._ended)

    def end(self, stay: Stay) -> None:
        """Idempotent."""
        if self._stays.pop(stay.presence.id, None) is None:
            return
        if stay.timer is not None:
            stay.timer.cancel()
        stay.over.set()
        self._detach(stay.presence)

    def _ended(self, consumer: asyncio.Task[None]) -> None:
        self.end(self._consumers.pop(consumer))
        if not consumer.cancelled() and (error := consumer.exception()) is not None:
            logger.error("a lingering consumer failed", exc_info=error, extra={"action": "linger_failed"})

    def arrived(self, queues: Collection[str], at: float | None = None) -> None:
        """These queues have a client again. ``at``: since then, by the loop's time; who began later lingers on."""
        for stay in [stay for stay in self._stays.values() if stay.presence.queue in queues]:
            if at is None or stay.until - stay.seconds <= at:
                self.end(stay)

    def welcome(self, queue: str, servers: Collection[str], at: float) -> None:
        """This queue's client came here, at this time of the loop's, and may have gone since; these servers held its
        lingering consumers until then."""
        self.arrived([queue], at)
        others = [server for server in servers if server != self._server_id]
        if others:
            telling = asyncio.create_task(wakeup.tell_arrived(queue, others))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    # --- the store -----------------------------------------------------------------------------------------------

    async def record(self) -> None:
        """Have the store know of those that have begun. One step, to be repeated."""
        await self._has_unrecorded.wait()
        await asyncio.sleep(COLLECT_SECONDS)
        self._has_unrecorded.clear()
        stays, self._unrecorded = [stay for stay in self._unrecorded if not stay.over.is_set()], []
        now = self._loop.time()
        wanted = [(stay.presence, max(0.0, stay.until - now)) for stay in stays]
        try:
            recorded = await self._call(lambda: self._store.linger(wanted)) if wanted else set()
        except Exception as error:
            self._complain(f"lingering consumers not recorded yet: {error}", "linger_failed")
            self._unrecorded += stays
            await asyncio.sleep(TRY_AGAIN_SECONDS)
            self._has_unrecorded.set()
            return
        for stay in stays:
            self._was_recorded(stay, stay.presence.id in recorded)

    def _was_recorded(self, stay: Stay, may_linger: bool) -> None:
        stay.is_recorded = may_linger
        if stay.over.is_set():
            self._detach(stay.presence)  # it ended meanwhile, perhaps before the record was there
        elif not may_linger:
            self.end(stay)

    async def look(self) -> None:
        """Ask the store whose client has come back, in one go."""
        stays = {stay.presence.id: stay for stay in self._stays.values() if stay.is_recorded}
        if not stays:
            return
        ids = list(stays)
        try:
            there = await self._call(lambda: self._store.lingering(ids))
        except Exception as error:
            self._complain(f"not known whose clients are back: {error}", "poll_failed")
            return
        for id in stays.keys() - there:
            self.end(stays[id])

    def _complain(self, what: str, action: str) -> None:
        """Once in a while: what happens to one happens to thousands."""
        if self._loop.time() - self._complained_at >= COMPLAIN_SECONDS:
            self._complained_at = self._loop.time()
            logger.warning(what, extra={"action": action})

    # --- the process's end ---------------------------------------------------------------------------------------

    def tasks(self) -> set[asyncio.Task[Any]]:
        return {*self._consumers, *self._telling}

    async def finish(self) -> None:
        """End them all, as far as that is done within FINISH_SECONDS: what they had received and sent is stored."""
        for stay in [*self._stays.values()]:
            stay.is_hurried = True
            self.end(stay)
        if self._consumers:
            await asyncio.wait(self._consumers.keys(), timeout=FINISH_SECONDS)
