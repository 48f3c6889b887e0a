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
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from . import conf, sending, wakeup
from .acks import Acks
from .core.actions import Acknowledge, Action, Close, Persist, Read, ReadRequest, Settle, Transmit
from .core.connection import State
from .core.message import Message
from .core.wire import CloseCode
from .exceptions import NetraQueueError, StoreUnavailable
from .link import Link
from .stores import current_store
from .stores.base import Appended, Presence, Server
from .stores.batching import current_writer
from .threads import Pool

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
COLLECT_SECONDS = 0.001  # how long a read waits for further bells
ACK_COLLECT_SECONDS = 0.005
READS_PER_CALL = 500
CONCURRENT_READS = 2
TICK_SECONDS = 0.25
TRY_AGAIN_SECONDS = 1.0
LEFT_OVER_SECONDS = 0.05


class Hub:
    """All methods are for the hub's event loop, but for those that say otherwise."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.store = current_store()
        self.server = Server(id=uuid.uuid4().hex, host=socket.gethostname(), pid=os.getpid())
        self._pool = Pool(
            conf.get("STORE_THREADS"), "netra-store", wrap=self.store.in_own_thread, at_end=self.store.leave_thread
        )
        self._links: dict[str, set[Link]] = defaultdict(set)
        self._orphans: set[Link] = set()  # gone, with own sends that the store could not take yet
        self._rung: dict[Link, None] = {}
        self.acks = Acks()
        self._settling: set[int] = set()
        self._detached: list[Presence] = []
        self._clock_offset = timedelta(0)
        self.is_known = False
        self._registering = asyncio.Lock()
        self._reading = asyncio.Semaphore(CONCURRENT_READS)
        self._has_rung, self._has_detached, self._shall_poll = (asyncio.Event() for _ in range(3))
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        wakeup.register_local(self.server.id, self._on_local_bell)
        self._background(wakeup.listen(self.server.id, self.ring, self._shall_poll.set))
        for step in (self._read_rung, self._write_acks, self._write_detached):
            self._background(self._repeat(step))
        for step in (self._poll_in_time, self._tick, self._live_on):
            self._background(self._repeat(step))

    # --- connections -------------------------------------------------------------------------------------------

    async def attach(self, link: Link) -> None:
        """Make the connection known, first here and in the store, then let it read: no bell can fall between.

        Raises StoreUnavailable when the store cannot be asked, InvalidMessage for a queue name it refuses.
        """
        self._links[link.queue].add(link)
        try:
            await self._register()
            opened = await self.call(lambda: self.store.attach(link.presence, link.connection.policy))
        except BaseException:
            self._forget(link)
            raise
        self._clock_offset = opened.at - datetime.now(UTC)
        if link.connection.state is State.CLOSED:
            self._forget(link)
            return
        link.start(lambda seq: self._written(link, seq), lambda: link.end(1006, "the client does not take frames"))
        self.carry_out(link, link.connection.opened(waiting=opened.waiting, losses=opened.losses, at=opened.at))

    def release(self, link: Link, code: int | None) -> list[asyncio.Future[None]]:
        """The socket is gone. Never waits, and needs no running loop for what must not be lost. Idempotent.

        Returns what ``carry_out`` returns for the own sends that had to be persisted.
        """
        if link.connection.state is State.CLOSED:
            return []
        link.stop()
        persisting = self.carry_out(link, link.connection.close(code, self.loop.time()))
        self._forget(link)
        return persisting

    def _forget(self, link: Link) -> None:
        links = self._links.get(link.queue)
        if links is not None:
            links.discard(link)
            if not links:
                del self._links[link.queue]
        self._detached.append(link.presence)
        self._has_detached.set()

    def carry_out(self, link: Link, actions: Iterable[Action]) -> list[asyncio.Future[None]]:
        """Do what a connection has decided. Returns a future for each Persist: done when the store has answered."""
        persisting: list[asyncio.Future[None]] = []
        for action in actions:
            match action:
                case Transmit():
                    if not link.put(action):
                        link.end(CloseCode.NOT_RESPONDING, "the client does not read")
                case Read():
                    self._rung[link] = None
                    self._has_rung.set()
                case Acknowledge():
                    self.acks.add(link.queue, action.positions)
                case Persist():
                    persisting.append(self._persist(link, action.messages))
                case Settle():
                    self._background(self._settle(link.queue, action.records))
                case Close():
                    link.end(action.code, action.reason)
        return persisting

    def _written(self, link: Link, seq: int) -> None:
        self.carry_out(link, link.connection.written(seq, self.loop.time()))

    def links(self) -> list[Link]:
        """All connections: those that are there, and those that are gone with own sends that are not stored yet."""
        return [*(link for links in self._links.values() for link in links), *self._orphans]

    # --- the store ---------------------------------------------------------------------------------------------

    async def call(self, work: Callable[[], Result]) -> Result:
        """Do something with the store in one of the hub's threads.

        Raises StoreUnavailable when that takes longer than STORE_TIMEOUT_SECONDS; the work may still be done then.
        """
        seconds = conf.get("STORE_TIMEOUT_SECONDS")
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(self._pool.submit(work))
        except TimeoutError as error:
            raise StoreUnavailable(f"no answer within {seconds} seconds") from error

    def now(self) -> datetime:
        """The store's time, as far as it is known without asking."""
        return datetime.now(UTC) + self._clock_offset

    async def append(self, link: Link, message: Message) -> None:
        """Put a consumer's own send into the store, for whoever is or will be connected.

        Raises StoreUnavailable; then it may have been stored, if the store answered too late.
        """
        future = current_writer().submit(link.drafts([message]), link.policies)
        try:
            async with asyncio.timeout(conf.get("STORE_TIMEOUT_SECONDS")):
                await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise StoreUnavailable("the message was not written in time") from error
        sending.announce([link.queue])

    def _persist(self, link: Link, messages: tuple[Message, ...]) -> asyncio.Future[None]:
        done: asyncio.Future[None] = self.loop.create_future()
        done.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody has to await it
        try:
            written = current_writer().submit(link.drafts(messages), link.policies)
        except (StoreUnavailable, RuntimeError) as error:
            written = Future()
            written.set_exception(error)
        written.add_done_callback(lambda _: self._from_thread(self._persisted, link, messages, written, done))
        return done

    def _persisted(
        self, link: Link, messages: tuple[Message, ...], written: Future[list[Appended]], done: asyncio.Future[None]
    ) -> None:
        now, connection = self.loop.time(), link.connection
        if (error := written.exception()) is not None:
            logger.warning("own sends not stored yet: %s", error, extra={"action": "persist_failed"})
            self.carry_out(link, connection.persist_failed([message.id for message in messages], now))
            if connection.state is State.CLOSED:
                self._orphans.add(link)
            if not done.done():
                done.set_exception(StoreUnavailable(str(error)))
            return
        positions = {answer.id: answer.position for answer in written.result()}
        self.carry_out(link, connection.persisted(positions, now))
        if connection.state is State.CLOSED:
            sending.announce([link.queue])
        if not done.done():
            done.set_result(None)

    async def _settle(self, queue: str, records: Collection[int]) -> None:
        self._settling.update(records)
        try:
            await self.call(lambda: self.store.settle(queue, records))
        except Exception as error:  # the client is told once more, then
            _complain("losses not settled", "settle_failed", error)
        finally:
            self._settling.difference_update(records)

    # --- reading -----------------------------------------------------------------------------------------------

    def ring(self, queues: Collection[str]) -> None:
        """These queues may hold something for their connections here."""
        for queue in queues:
            for link in list(self._links.get(queue, ())):
                self.carry_out(link, link.connection.ring())

    def _on_local_bell(self, queues: Collection[str]) -> None:
        self._from_thread(self.ring, queues)

    def _from_thread(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            self.loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:  # the loop has been closed: the process is ending
            logger.debug("the event loop is closed", extra={"action": "loop_closed"})

    async def _read_rung(self) -> None:
        await self._has_rung.wait()
        await asyncio.sleep(COLLECT_SECONDS)
        await self._reading.acquire()
        self._has_rung.clear()
        rung, self._rung = self._rung, {}
        requests = [(link, request) for link in rung if (request := link.connection.begin_read()) is not None]
        self._background(self._read(requests))

    async def _read(self, requests: list[tuple[Link, ReadRequest]]) -> None:
        try:
            for start in range(0, len(requests), READS_PER_CALL):
                await self._read_some(requests[start : start + READS_PER_CALL])
        finally:
            self._reading.release()

    async def _read_some(self, requests: list[tuple[Link, ReadRequest]]) -> None:
        wanted = [(link.queue, self._without_acked(link.queue, request)) for link, request in requests]
        try:
            batches = await self.call(lambda: self.store.read(wanted))
        except Exception as error:
            _complain("queues not read", "read_failed", error)
            for link, _ in requests:
                link.connection.read_failed()
        else:
            for (link, _), batch in zip(requests, batches, strict=True):
                taken = link.connection.take(batch.messages, more=batch.more, now=self.loop.time())
                self.carry_out(link, taken)

    def _without_acked(self, queue: str, request: ReadRequest) -> ReadRequest:
        acked = self.acks.of(queue)
        return replace(request, excluded=request.excluded | acked) if acked else request

    # --- writing -----------------------------------------------------------------------------------------------

    async def _write_acks(self) -> None:
        await self.acks.some()
        await asyncio.sleep(ACK_COLLECT_SECONDS)
        acks = self.acks.take()
        pause = LEFT_OVER_SECONDS
        left: Mapping[str, Collection[int]] = acks
        try:
            left = await self.call(lambda: self.store.ack(acks))
        except Exception as error:
            _complain("acks not written yet", "ack_failed", error)
            pause = TRY_AGAIN_SECONDS
        finally:
            self.acks.put_back(left)
        if left:
            await asyncio.sleep(pause)

    async def _write_detached(self) -> None:
        await self._has_detached.wait()
        await asyncio.sleep(ACK_COLLECT_SECONDS)
        self._has_detached.clear()
        detached, self._detached = self._detached, []
        try:
            await self.call(lambda: self.store.detach(detached))
        except Exception as error:
            _complain("connections not detached yet", "detach_failed", error)
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

    async def poll(self) -> None:
        """Ask the store what no bell told of, in one go for all connections."""
        queues = list(self._links)
        if not queues:
            return
        told = self._settling.union(*(link.connection.told() for link in self.links()))
        try:
            waiting, losses = await self.call(lambda: (self.store.waiting(queues), self.store.losses(queues, told)))
        except Exception as error:
            _complain("poll failed", "poll_failed", error)
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
        self._orphans = {link for link in self._orphans if link.connection.has_unstored}

    async def _live_on(self) -> None:
        await asyncio.sleep(conf.get("SERVER_HEARTBEAT_SECONDS") * random.uniform(0.8, 1.0))
        if not self.is_known:
            return
        try:
            if not await self.call(lambda: self.store.heartbeat(self.server)):
                await self._attach_again()
            if random.random() < 0.3:  # every server does it, so that no one has to be there
                await self.call(self.store.reap)
        except Exception as error:
            _complain("heartbeat failed", "heartbeat_failed", error)

    async def _register(self) -> None:
        async with self._registering:
            if not self.is_known:
                await self.call(lambda: self.store.heartbeat(self.server))
                self.is_known = True

    async def _attach_again(self) -> None:
        logger.warning("the store had given this server up; attaching again", extra={"action": "server_forgotten"})
        for link in self.links():
            await self.call(lambda link=link: self.store.attach(link.presence, link.connection.policy))  # type: ignore[misc]
        self._shall_poll.set()

    # --- tasks -------------------------------------------------------------------------------------------------

    def _background(self, work: Awaitable[None]) -> None:
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

    async def stop(self) -> None:
        """End the tasks. Connections that are still there are released as if their sockets had been cut."""
        for link in self.links():
            self.release(link, None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _complain(what: str, action: str, error: Exception) -> None:
    is_expected = isinstance(error, NetraQueueError)
    logger.warning("%s: %s", what, error, exc_info=None if is_expected else error, extra={"action": action})
