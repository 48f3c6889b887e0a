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
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from . import conf, wakeup
from .acks import Acks
from .arrivals import Arrivals
from .cancelling import cancel_all
from .complaints import complain
from .core.actions import Acknowledge, Action, Close, Persist, Read, Return, Settle, Transmit
from .core.connection import State
from .core.message import client_of
from .core.wire import CloseCode
from .deadline import in_time
from .lingering import Lingering
from .link import Link
from .own_sends import OwnSends
from .reads import Reads
from .replaying import Replaying
from .returns import Returns
from .stores import current_store
from .stores.base import Presence, Server
from .threads import Pool

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
COLLECT_SECONDS = 0.005
TICK_SECONDS = 0.25
LOOK_AGAIN_SECONDS = 0.25
ATTACH_TOGETHER = 500
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
        self._links: dict[str, set[Link]] = defaultdict(set)
        self.acks, self.withheld = Acks(), Acks()
        self._reads = Reads(self)
        self._arrivals = Arrivals(self.store, self.call, self.background, self._attached_late)
        self.returns = Returns(self.store, self.call)
        self._replaying = Replaying(self.store, self.call, self._call_for_digest)
        self.own = OwnSends(self.loop, self.carry_out, self._from_thread)
        self.lingering = Lingering(self.server.id, self.store, self.call, self._detach)
        self._settling: set[int] = set()
        self._detached: list[Presence] = []
        self._clock_offset = timedelta(0)
        self.is_known = False
        self._shall_attach_again = False
        self._registering = asyncio.Lock()
        self._has_detached, self._shall_poll = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def _make_pool(self, size: int, name: str) -> Pool:
        return Pool(size, name, wrap=self.store.in_own_thread, at_end=self.store.leave_thread)

    def start(self) -> None:
        wakeup.register_local(self.server.id, self._on_local_bell)
        self.background(wakeup.listen(self.server.id, self.ring, self._shall_poll.set, self.lingering.arrived))
        writes = (self._write_acks, self._write_withheld, self._write_detached, self.returns.write)
        works = (self._reads.begin, self._arrivals.begin, *writes, self.lingering.record)
        for step in (*works, self._poll_in_time, self._tick, self._live_on):
            self.background(self._repeat(step))

    # --- connections -------------------------------------------------------------------------------------------

    async def attach(self, link: Link) -> tuple[str, ...]:
        """Make the connection known, first here and in the store, then let it read: no bell can fall between.

        Returns the servers whose lingering consumers are to end now: see ``Lingering.welcome``.
        Raises StoreUnavailable when the store cannot be asked, InvalidMessage for a queue name it refuses.
        """
        self._links[link.queue].add(link)
        try:
            await self._register()
            opened = await self._arrivals.attach(link.presence, link.connection.policy)
            self._clock_offset = opened.at - datetime.now(UTC)
            opened = await self._replaying.shape(link, opened)
        except BaseException:
            self._forget(link)
            raise
        if link.connection.state is State.CLOSED:
            self._forget(link)
            return opened.lingering
        link.start(lambda seq: self._written(link, seq))
        self.carry_out(link, link.connection.opened(waiting=opened.waiting, losses=opened.losses, at=opened.at))
        self.loop.call_later(LOOK_AGAIN_SECONDS, self._look_again, link)
        return opened.lingering

    def _attached_late(self, presence: Presence) -> None:
        """Nobody waits for that any more. A connection that is there all the same stays attached."""
        if all(link.presence.id != presence.id for link in self._links.get(presence.queue, ())):
            self._detach(presence)

    def _look_again(self, link: Link) -> None:
        """A sender that looked who is connected just before, and committed after the first read, rang for nobody."""
        self.carry_out(link, link.connection.ring())

    def release(self, link: Link, code: int | None, *, lingers: bool = False) -> None:
        """The socket is gone, and its consumer may linger. Never waits: see ``link.persisting``. Idempotent."""
        if link.connection.state is State.CLOSED:
            return
        link.stop()
        self.carry_out(link, link.connection.close(code, self.loop.time()))
        self.own.keep(link)
        self._forget(link, lingers=lingers)

    def is_attached(self, queue: str, *, besides: Link | None = None) -> bool:
        """Whether the queue has a connection here that the store knows of."""
        links = self._links.get(queue, set()) - {besides}
        return any(link.connection.state in (State.REPLAYING, State.LIVE) for link in links)

    def _forget(self, link: Link, *, lingers: bool = False) -> None:
        links = self._links.get(link.queue)
        if links is not None:
            links.discard(link)
            if not links:
                del self._links[link.queue]
        if not lingers:
            self._detach(link.presence)

    def _detach(self, presence: Presence) -> None:
        self._detached.append(presence)
        self._has_detached.set()

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
                    self.acks.add(link.queue, action.positions)
                case Return():
                    self.returns.add(link, action)
                case Persist():
                    self.own.persist(link, action.messages)
                case Settle():
                    self.background(self._settle(link.queue, action.records))
                case Close():
                    link.end(action.code, action.reason)

    def _written(self, link: Link, seq: int) -> None:
        self.carry_out(link, link.connection.written(seq, self.loop.time()))

    def links(self) -> list[Link]:
        """All connections: those that are there, and those that are gone with own sends that are not stored yet."""
        return [*(link for links in self._links.values() for link in links), *self.own.orphans]

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
        return await in_time(asyncio.wrap_future(pool.submit(work)))

    def now(self) -> datetime:
        """The store's time, as far as it is known without asking."""
        return datetime.now(UTC) + self._clock_offset

    async def _settle(self, queue: str, records: Collection[int]) -> None:
        self._settling.update(records)
        try:
            await self.call(lambda: self.store.settle(queue, records))
        except Exception as error:  # the client is told once more, then
            complain(logger, "losses not settled", "settle_failed", error)
        finally:
            self._settling.difference_update(records)

    # --- reading -----------------------------------------------------------------------------------------------

    def ring(self, queues: wakeup.Look) -> None:
        """These queues (None: any) may hold something for their connections here."""
        if queues is None:
            self._shall_poll.set()
            return
        for queue in queues:
            for link in list(self._links.get(queue, ())):
                self.carry_out(link, link.connection.ring())

    def _on_local_bell(self, queues: wakeup.Look) -> None:
        self._from_thread(self.ring, queues)

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

    async def _write_detached(self) -> None:
        await self._has_detached.wait()
        await asyncio.sleep(COLLECT_SECONDS)
        self._has_detached.clear()
        detached, self._detached = self._detached, []
        try:
            await self.call(lambda: self.store.detach(detached))
        except Exception as error:
            complain(logger, "connections not detached yet", "detach_failed", error)
            self._detached += detached
            await asyncio.sleep(TRY_AGAIN_SECONDS)
            self._has_detached.set()

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
        queues = list(self._links)
        if not queues:
            return
        told = self._settling.union(*(link.connection.told() for link in self.links()))
        lines = {link.queue: link.connection.policy for link in self.links() if client_of(link.queue)}
        try:
            await self.call(lambda: self.store.take_over(lines))
            waiting, losses = await self.call(lambda: (self.store.waiting(queues), self.store.losses(queues, told)))
        except Exception as error:
            complain(logger, "poll failed", "poll_failed", error)
            return
        self.ring(waiting)
        for queue, lost in losses.items():
            for link in list(self._links.get(queue, ())):
                self.carry_out(link, link.connection.tell_losses(lost))

    async def _tick(self) -> None:
        await asyncio.sleep(TICK_SECONDS)
        now = self.loop.time()
        for link in self.links():
            if link.is_deaf:
                link.connection.excuse(now)
            self.carry_out(link, link.connection.tick(now))

    async def _live_on(self) -> None:
        await asyncio.sleep(conf.get("SERVER_HEARTBEAT_SECONDS") * random.uniform(0.8, 1.0))
        if not self.is_known:
            return
        try:
            if not await self.call(lambda: self.store.heartbeat(self.server)):
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
                await self.call(lambda: self.store.heartbeat(self.server))
                self.is_known = True

    async def _attach_again(self) -> None:
        self._shall_attach_again = False
        links = [link for links in self._links.values() for link in links if not _is_gone(link)]
        for start in range(0, len(links), ATTACH_TOGETHER):  # each waits for its answer no longer than for any other
            await asyncio.gather(*map(self._attach_link_again, links[start : start + ATTACH_TOGETHER]))
        self._shall_poll.set()

    async def _attach_link_again(self, link: Link) -> None:
        try:
            await self._arrivals.attach(link.presence, link.connection.policy)
            if _is_gone(link):  # it was detached meanwhile
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
        self._pool.close(TRY_AGAIN_SECONDS)
        self._digest_pool.close(TRY_AGAIN_SECONDS)

    async def stop(self) -> None:
        """End the tasks. Connections that are still there are released as if their sockets had been cut."""
        await self.lingering.finish()
        for link in self.links():
            self.release(link, None)
        await cancel_all(self._tasks | self.lingering.tasks())


def _is_gone(link: Link) -> bool:
    return link.connection.state is State.CLOSED
