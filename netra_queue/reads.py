"""Reads for the connections of one hub: one call of the store for all that have been rung meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from . import conf, permission
from .acks import Acks
from .complaints import complain
from .core.actions import Action, ReadRequest
from .core.message import base_of, client_of
from .core.policy import Policy
from .core.states import State
from .core.wire import CloseCode
from .link import Link
from .replay_reads import ReplayReads
from .stores.base import Batch, Store
from .turns import Turns

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
SHORTEST_PAUSE_SECONDS = 0.002  # the first bell is followed at once, and those that come meanwhile share a read
PAUSE_SECONDS_EACH = 0.0004  # about what a frame and its acks cost, twice
LONGEST_PAUSE_SECONDS = 0.02
READS_PER_CALL = 500
CONCURRENT_READS = 2
LATE_ROUNDS = 3
PROBE = ReadRequest(1, 1, frozenset(), is_tentative=True)  # whether there is anything


def pause_after(connections: int) -> float:
    """How long after a read for so many connections the next one begins, in seconds.

    A frame costs nearly the same whatever it carries. With more connections to write to than there is time for, more
    messages are to share one; below 2,500 of them a second, nobody waits longer than for one.
    """
    return min(max(SHORTEST_PAUSE_SECONDS, PAUSE_SECONDS_EACH * connections), LONGEST_PAUSE_SECONDS)


class Host(Protocol):
    """What carries the reads out: the hub."""

    loop: asyncio.AbstractEventLoop
    store: Store
    acks: Acks
    withheld: Acks

    async def call(self, work: Callable[[], Result]) -> Result: ...

    def carry_out(self, link: Link, actions: Iterable[Action]) -> None: ...

    def background(self, work: Awaitable[None]) -> None: ...

    def ring(self, queues: Collection[str] | None) -> None: ...

    def now(self) -> datetime: ...


class Reads:
    """For one event loop."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._rung: dict[Link, None] = {}
        self._has_rung = asyncio.Event()
        self._turns = asyncio.Semaphore(CONCURRENT_READS)
        self._next_at = 0.0
        self.replays = ReplayReads(host.loop, self._read_some)
        self._turns_to_come = Turns(host.loop, host.ring, host.now)

    def want(self, link: Link) -> None:
        """This connection has decided to read."""
        if link.connection.state is State.REPLAYING:
            self.replays.want(link)
        else:
            self._rung[link] = None
            self._has_rung.set()

    async def begin(self) -> None:
        """Wait until some are wanted, and begin to read for all of them."""
        await self._has_rung.wait()
        await asyncio.sleep(self._next_at - self._host.loop.time())
        await self._turns.acquire()
        self._next_at = self._host.loop.time() + pause_after(len(self._rung))
        self._has_rung.clear()
        rung, self._rung = self._rung, {}
        requests = [(link, request) for link in rung if (request := link.connection.begin_read()) is not None]
        self._host.background(self._read(requests))

    async def _read(self, requests: list[tuple[Link, ReadRequest]]) -> None:
        try:
            for start in range(0, len(requests), READS_PER_CALL):
                await self._read_some(requests[start : start + READS_PER_CALL])
        finally:
            self._turns.release()

    async def _read_some(self, requests: list[tuple[Link, ReadRequest]]) -> Sequence[int]:
        """Returns how many messages each of them has got."""
        wanted = [(link.queue, self._wanted(link, request)) for link, request in requests]
        lines = {link.queue: link.connection.policy for link, _ in requests if client_of(link.queue)}
        delaying = {link.queue for link, _ in requests if link.connection.policy.delays}
        try:
            batches, due = await self._host.call(lambda: _read_all(self._host.store, wanted, lines, delaying))
        except Exception as error:
            complain(logger, "queues not read", "read_failed", error)
            for link, _ in requests:
                link.connection.read_failed()
            return [0] * len(requests)
        self._turns_to_come.expect(due)
        for (link, _), batch in zip(requests, batches, strict=True):
            if batch.is_paused:
                self._pause(link, batch)
            elif link.may_deliver is None:
                self._take(link, batch)
            else:
                self._host.background(self._take_permitted(link, batch, link.may_deliver))
        return [len(batch.messages) for batch in batches]

    def _wanted(self, link: Link, request: ReadRequest) -> ReadRequest:
        """What is on its way out of the store is not to be read again."""
        gone = self._host.acks.of(link.queue) | self._host.withheld.of(link.queue)
        is_tentative = link.may_deliver is not None
        if gone or is_tentative:
            return request._replace(excluded=request.excluded | gone, is_tentative=is_tentative)
        return request

    def _take(self, link: Link, batch: Batch) -> None:
        now = self._host.loop.time()
        self._host.carry_out(link, link.connection.take(batch.messages, more=batch.more, now=now))

    def _pause(self, link: Link, batch: Batch) -> None:
        until = None
        if batch.resumes_at is not None:
            until = self._host.loop.time() + (batch.resumes_at - self._host.now()).total_seconds()
        self._host.carry_out(link, link.connection.pause(until))

    async def _take_permitted(self, link: Link, batch: Batch, may_deliver: permission.MayDeliver) -> None:
        """Until the consumer has answered, this connection's read is not over: nothing is read for it meanwhile."""
        try:
            allowed, withheld = await permission.ask(may_deliver, batch.messages, conf.get("STORE_TIMEOUT_SECONDS"))
        except Exception as error:
            logger.warning("not known what may be delivered", exc_info=error, extra={"action": "permission_failed"})
            link.connection.read_failed()
            link.end(CloseCode.STORE_UNAVAILABLE, "it is not known what may be delivered")
            return
        if withheld and link.connection.state is not State.CLOSED:
            self._host.withheld.add(link.queue, [message.position for message in withheld])
        await self._transmit(link, batch._replace(messages=tuple(allowed)))

    async def _transmit(self, link: Link, batch: Batch) -> None:
        """Have it noted, where that matters, that these messages go out now: it was not known before."""
        positions = batch.unnoted.intersection(message.position for message in batch.messages)
        busy: set[int] = set()
        if positions and link.connection.state is not State.CLOSED:
            try:
                busy = await self._host.call(lambda: self._host.store.transmit(positions))
            except Exception as error:
                complain(logger, "transmission not noted", "read_failed", error)
                link.connection.read_failed()
                return
        messages = tuple(message for message in batch.messages if message.position not in busy)
        self._take(link, batch._replace(messages=messages, more=batch.more and bool(messages or not busy)))


def _read_all(
    store: Store, wanted: Sequence[tuple[str, ReadRequest]], lines: Mapping[str, Policy], delaying: Collection[str]
) -> tuple[Sequence[Batch], Mapping[str, datetime]]:
    """And when the next turns come in these queues. Looked for first: what is due from then on is read."""
    due = store.next_due(delaying) if delaying else {}
    return _read_in_order(store, wanted, lines), due


def _read_in_order(
    store: Store, wanted: Sequence[tuple[str, ReadRequest]], lines: Mapping[str, Policy]
) -> Sequence[Batch]:
    """What a sender wrote who knew of no device yet goes before what the same sender wrote who did.

    So it is looked for with the read: one that sees the later message sees the earlier one as well.
    """
    bases = sorted({base_of(line) for line in lines})
    for _ in range(LATE_ROUNDS if bases else 0):
        batches = store.read([*wanted, *((base, PROBE) for base in bases)])
        late = {base for base, batch in zip(bases, batches[len(wanted) :], strict=True) if batch.messages}
        waiting = {line: policy for line, policy in lines.items() if base_of(line) in late}
        if not waiting or not store.take_over(waiting):
            return batches[: len(wanted)]
    return store.read(wanted)
