"""Carries out what the connections of one process decide: one hub an event loop.

    bell, poll --> ring --> [rung] --> one read for all of them --> Connection.take --> frames
    acks ------------------> [acked] --> one statement for all of them
    own sends to persist --> the batching writer

The store is called in threads of the hub's own, each call with a deadline; the loop is never blocked by it.

**If it fails.** A read that fails is made again after the next poll. Acks, detachments and persists are kept and
made again until they succeed; all of them may be repeated. A message whose ack is on its way to the store is left out
of reads, so that it is not delivered once more. A server that the store took for dead attaches its connections again.
What only memory has when the process ends is written then, in the exiting thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TypeVar

from . import conf, policies, statistics, wakeup
from .acks import Acks
from .adopting import Adopting
from .arrivals import Arrivals
from .cancelling import cancel_all
from .complaints import complain
from .core.actions import Acknowledge, Action, Close, Persist, Read, Return, Settle, Transmit
from .core.message import base_of, client_of
from .core.states import State
from .core.statistics import Event
from .core.wire import CloseCode
from .counting import adder
from .deadline import in_time
from .describing import Describing
from .detaching import Detaching
from .giving import Giving
from .joining import Joining
from .lingering import Lingering
from .link import Link
from .links import Links
from .meter import Meter
from .obeying import Obeying
from .own_sends import OwnSends
from .reads import Reads
from .replaying import Replaying
from .returns import Returns
from .settling import Settling
from .stores import current_store
from .stores.base import Opened, Presence, Server
from .stores.guarded import current_guard
from .threads import Pool

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
TICK_SECONDS = 0.25
LOOK_AGAIN_SECONDS = 0.25
ATTACH_TOGETHER = 500
COUNT_TOGETHER = 128  # deliveries of a connection: more are counted before the next tick, and kept in memory no longer
TRY_AGAIN_SECONDS = 1.0
DIGEST_THREADS = 2  # of their own: the project's code may hang, and must not take the store's threads with it


class Hub:
    """All methods are for the hub's event loop, but for those that say otherwise."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.store = current_store()
        self.server = Server(id=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid())
        self._pool = self._make_pool(conf.get("STORE_THREADS"), "netra-store")
        self._digest_pool = self._make_pool(DIGEST_THREADS, "netra-digest")
        self._links, self.joining = Links(), Joining()
        self.acks, self.withheld = Acks(), Acks()
        self._reads = Reads(self)
        self._arrivals = Arrivals(self.store, self.call, self.background, self._attached_late)
        self.returns, self._detaching = Returns(self.store, self.call), Detaching(self.store, self.call)
        self._replaying = Replaying(self.store, self.call, self._call_for_digest)
        self.own = OwnSends(self.loop, self.carry_out, self._from_thread)
        self.lingering = Lingering(self.server.id, self.store, self.call, self._detaching.add)
        asked = (self.store, self.call, self.carry_out)
        obeying = Obeying(self.server.id, *asked, self.background, self.links)
        self.adopting = Adopting(*asked, self.links, obeying.look)
        self._giving = Giving(self.loop, self._links, self.carry_out, self.background)
        self.meter = Meter(self.loop, self.call, self.now, self.links)
        self._settling = Settling(self.store, self.call)
        self._describing = Describing(self.store, self.call, self.now, self.background, self._links)
        self._clock_offset = timedelta(0)
        self.is_known = False
        self.heard_at = 0.0  # by the loop's time, when the store was last told that this server is alive
        self._shall_attach_again = False
        self._registering, self._shall_poll = asyncio.Lock(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def _make_pool(self, size: int, name: str) -> Pool:
        return Pool(size, name, wrap=self.store.in_own_thread, at_end=self.store.leave_thread)

    def start(self) -> None:
        statistics.hub_begins()
        rest = (self.adopting.ring, self._giving.take, self._describing.asked)
        local = (partial(self._from_thread, callback) for callback in (self.ring, *rest))
        wakeup.register_local(self.server.id, *local)
        listening = (self.ring, self._shall_poll.set, self.lingering.arrived, *rest)
        self.background(wakeup.listen(self.server.id, *listening))
        writes = (self._write_acks, self._write_withheld, self._detaching.write, self.returns.write)
        works = (self._reads.begin, self._reads.replays.step, self._arrivals.begin, *writes, self.lingering.record)
        steady = (self.joining.step, self._poll_in_time, self._tick, self._live_on, self.adopting.watch)
        for step in (*works, *steady, self.meter.write):
            self.background(self._repeat(step))

    # --- connections -------------------------------------------------------------------------------------------

    async def attach(self, link: Link) -> tuple[str, ...]:
        """Make the connection known, first here and in the store, then let it read: no bell can fall between.

        Returns the servers whose lingering consumers are to end now: see ``Lingering.welcome``.
        Raises StoreUnavailable when the store cannot be asked, InvalidMessage for a queue name it refuses.
        """
        self._add(link)
        try:
            opened = await self._replaying.shape(link, await self._announce(link))
        except BaseException:
            self._forget(link)
            raise
        if link.connection.state is State.CLOSED:
            self._forget(link)
            return opened.lingering
        self._serve(link, link.connection.opened(waiting=opened.waiting, losses=opened.losses, at=opened.at))
        self.loop.call_later(LOOK_AGAIN_SECONDS, self._look_again, link)
        return opened.lingering

    def open_alone(self, link: Link) -> None:
        """Serve the connection without the store, until ``attach_late``."""
        link.announce_anew()
        self._add(link)
        self._serve(link, link.connection.opened_alone(self.loop.time()))

    async def attach_late(self, link: Link) -> tuple[str, ...]:
        """``attach`` for one that is served already. Raises the same, and leaves it as it is then."""
        opened = await self._replaying.shape(link, await self._announce(link))
        if link.connection.state is State.CLOSED:
            self._detaching.add(link.presence)
        else:
            self.carry_out(link, link.connection.attached(opened.at))
            self.loop.call_later(LOOK_AGAIN_SECONDS, self._look_again, link)
        return opened.lingering

    def _add(self, link: Link) -> None:
        self._links.add(link)
        self.adopting.adopt(link)  # what changed before it was among the links

    async def _announce(self, link: Link) -> Opened:
        await self._register()
        link.is_announced = True
        opened = await self._arrivals.attach(link.presence, link.connection.policy)
        self._clock_offset, link.opened_at = opened.at - datetime.now(UTC), opened.at
        policies.learn(self.store, base_of(link.queue), link.presence.policy)
        return opened

    def _serve(self, link: Link, actions: Iterable[Action]) -> None:
        adder.add(Event.CONNECTED)
        link.start(lambda seq: self._written(link, seq))
        self.carry_out(link, actions)

    def _attached_late(self, presence: Presence) -> None:
        """Nobody waits for that any more. A connection that is there all the same stays attached."""
        if all(link.presence.id != presence.id for link in self._links.of(presence.queue)):
            self._detaching.add(presence)

    def _look_again(self, link: Link) -> None:
        """A sender that looked who is connected just before, and committed after the first read, rang for nobody."""
        self.carry_out(link, link.connection.ring())

    def release(self, link: Link, code: int | None, *, lingers: bool = False) -> None:
        """The socket is gone, and its consumer may linger. Never waits: see ``link.persisting``. Idempotent."""
        if link.connection.state is State.CLOSED:
            return
        link.stop()
        self.carry_out(link, link.connection.close(code, self.loop.time()))
        self.meter.read_last(link)
        self.own.keep(link)
        self._describing.remember(link)
        self._forget(link, lingers=lingers)

    def is_attached(self, queue: str, *, besides: Link | None = None) -> bool:
        """Whether the queue has a connection here that the store knows of."""
        return any(link.connection.reads for link in self._links.of(queue) if link is not besides)

    def _forget(self, link: Link, *, lingers: bool = False) -> None:
        self._links.discard(link)
        if link.is_announced and not lingers:
            self._detaching.add(link.presence)

    def carry_out(self, link: Link, actions: Iterable[Action]) -> None:
        """Do what a connection has decided."""
        for action in actions:
            match action:
                case Transmit():
                    if not link.put(action):
                        link.end(CloseCode.NOT_RESPONDING, "the client does not read")
                case Read():
                    self._reads.want(link)
                case Acknowledge():
                    self.meter.trace(link)  # before the store may have removed them
                    self.acks.add(link.queue, action.positions)
                case Return():
                    self.returns.add(link, action)
                case Persist():
                    self.own.persist(link, action.messages)
                case Settle():
                    self.background(self._settling.settle(link.queue, action.records))
                case Close():
                    link.end(action.code, action.reason)

    def _written(self, link: Link, seq: int) -> None:
        self.carry_out(link, link.connection.written(seq, self.loop.time()))
        if len(link.connection.window.account.transmitted) >= COUNT_TOGETHER:
            self.meter.read(link)

    def links(self) -> list[Link]:
        """All connections: those that are there, and those that are gone with own sends that are not stored yet."""
        return [*self._links, *self.own.orphans]

    # --- the store ---------------------------------------------------------------------------------------------

    async def call(self, work: Callable[[], Result]) -> Result:
        """Do something with the store in one of the hub's threads.

        Raises StoreUnavailable when that takes longer than STORE_TIMEOUT_SECONDS; the work may still be done then.
        """
        return await self._call_in(self._pool, work)

    async def _call_for_digest(self, work: Callable[[], Result]) -> Result:
        """The same for what the project's code has a part in. Waiting for a thread counts."""
        return await self._call_in(self._digest_pool, work)

    async def _call_in(self, pool: Pool, work: Callable[[], Result]) -> Result:
        current_guard().check()  # threads that wait for an answer are not joined by others
        return await in_time(asyncio.wrap_future(pool.submit(work)))

    def now(self) -> datetime:
        """The store's time, as far as it is known without asking."""
        return datetime.now(UTC) + self._clock_offset

    # --- reading -----------------------------------------------------------------------------------------------

    def ring(self, queues: wakeup.Look, *, is_poll: bool = False) -> None:
        """These queues (None: any) may hold something for their connections here."""
        if queues is None:
            self._shall_poll.set()
            return
        for queue in queues:
            for link in self._links.of(queue):
                if is_poll:
                    self.meter.read(link)  # what was transmitted before was not found by this poll
                actions = link.connection.ring()
                link.was_polled = is_poll and bool(actions)
                self.carry_out(link, actions)

    def _from_thread(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            self.loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop has been closed: the process is ending
            logger.debug("the event loop is closed", extra={"action": "loop_closed"})

    # --- writing -----------------------------------------------------------------------------------------------

    async def _write_acks(self) -> None:
        await self.acks.write(self.call, self.store.ack)

    async def _write_withheld(self) -> None:
        await self.withheld.write(self.call, self.store.withhold)

    # --- time --------------------------------------------------------------------------------------------------

    async def _poll_in_time(self) -> None:
        try:
            async with asyncio.timeout(conf.get("POLL_SECONDS") * random.uniform(0.8, 1.2)):
                await self._shall_poll.wait()
        except TimeoutError:
            pass
        self._shall_poll.clear()
        await self.poll()
        await self.lingering.look()

    async def poll(self) -> None:
        """Ask the store what no bell told of, in one go for all connections."""
        queues = self._links.lines()
        if not queues:
            return
        told = self._settling.records.union(*(link.connection.told() for link in self.links()))
        lines = {
            link.queue: link.connection.policy
            for link in self._links
            if client_of(link.queue) and link.connection.reads
        }
        try:
            await self.call(lambda: self.store.take_over(lines))
            waiting, losses = await self.call(lambda: (self.store.waiting(queues), self.store.losses(queues, told)))
        except Exception as error:
            complain(logger, "poll failed", "poll_failed", error)
            return
        self.ring(waiting, is_poll=True)
        for queue, lost in losses.items():
            for link in self._links.of(queue):
                self.carry_out(link, link.connection.tell_losses(lost))

    async def _tick(self) -> None:
        await asyncio.sleep(TICK_SECONDS)
        now = self.loop.time()
        for link in self.links():
            if link.is_deaf:
                link.connection.excuse(now)
            self.carry_out(link, link.connection.tick(now))
            link.check(now)
            self.meter.read(link)

    async def _live_on(self) -> None:
        await asyncio.sleep(conf.get("SERVER_HEARTBEAT_SECONDS") * random.uniform(0.8, 1.0))
        if not self.is_known:
            return
        try:
            if not await self._heartbeat():
                logger.warning("the store had given this server up", extra={"action": "server_forgotten"})
                self._shall_attach_again = True
            if self._shall_attach_again:
                await self._attach_again()
            if random.random() < 0.3:  # every server does it, so that no one has to be there
                await self.call(self.store.reap)
        except Exception as error:
            complain(logger, "heartbeat failed", "heartbeat_failed", error)

    async def _register(self) -> None:
        async with self._registering:
            if not self.is_known:
                await self._heartbeat()
                self.is_known = True

    async def _heartbeat(self) -> bool:
        began = self.loop.time()
        is_known = await self.call(lambda: self.store.heartbeat(self.server))
        self.heard_at = began
        return is_known

    async def _attach_again(self) -> None:
        self._shall_attach_again = False
        links = [link for link in self._links if link.is_announced and not link.is_over]
        for start in range(0, len(links), ATTACH_TOGETHER):  # each waits for its answer no longer than for any other
            await asyncio.gather(*map(self._attach_link_again, links[start : start + ATTACH_TOGETHER]))
        self._shall_poll.set()

    async def _attach_link_again(self, link: Link) -> None:
        try:
            await self._arrivals.attach(link.presence, link.connection.policy)
            if link.is_over:  # it was detached meanwhile
                self._forget(link)
        except Exception as error:
            complain(logger, "connection not attached again yet", "attach_failed", error)
            self._shall_attach_again = True

    # --- tasks -------------------------------------------------------------------------------------------------

    def tasks(self) -> set[asyncio.Task[None]]:
        return set(self._tasks)

    def background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _repeat(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except Exception:
                logger.exception("unexpected error in the hub", extra={"action": "hub_error"})
                await asyncio.sleep(TRY_AGAIN_SECONDS)

    # --- the end -----------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """End the threads. Nothing can be carried out any more."""
        wakeup.unregister_local(self.server.id)
        statistics.hub_ends()
        self._pool.close(TRY_AGAIN_SECONDS)
        self._digest_pool.close(TRY_AGAIN_SECONDS)

    async def stop(self) -> None:
        """End the tasks. Connections that are still there are released as if their sockets had been cut."""
        await self.lingering.finish()
        for link in self.links():
            self.release(link, None)
        await cancel_all(self._tasks | self.lingering.tasks())
