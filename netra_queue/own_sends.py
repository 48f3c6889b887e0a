"""What consumers send themselves, on its way into the store: for one hub, on its event loop.

A connection decides (``Persist``) and is told what became of it; there is one Persist at a time for each. What the
store could not take stays in memory, also when the connection is gone; it is offered again, and written at the end of
the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from datetime import datetime
from typing import Any

from . import conf, sending, tracing
from .core import wire
from .core.actions import Action
from .core.message import Message, Priority
from .core.states import State
from .exceptions import BreakerOpen, StoreUnavailable
from .ids import new_id
from .link import Link
from .stores.base import Appended
from .stores.batching import current_writer

logger = logging.getLogger(__name__)

MAX_ORPHANS = 10_000  # connections that are gone and whose own sends wait for the store
COMPLAIN_SECONDS = 5.0


def own_message(event: Mapping[str, Any], at: datetime) -> Message:
    """What a consumer sends, given as its ``websocket.send``."""
    text = event.get("text")
    payload = wire.text_payload(text) if text is not None else wire.bytes_payload(event["bytes"])
    return Message(
        position=0,
        id=new_id(),
        payload=payload,
        priority=Priority.NORMAL,
        created_at=at,
        traceparent=tracing.traceparent(),
    )


class OwnSends:
    """``carry_out`` does what a connection decides; ``from_thread`` has a call made on the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        carry_out: Callable[[Link, Iterable[Action]], None],
        from_thread: Callable[..., None],
    ) -> None:
        self.orphans: dict[Link, None] = {}
        self._no_orphans = asyncio.Event()
        self._no_orphans.set()
        self._loop, self._carry_out, self._from_thread = loop, carry_out, from_thread
        self._complained_at = -COMPLAIN_SECONDS

    async def append(self, link: Link, message: Message) -> bool:
        """Put one into the store at once, for whoever is or will be connected. False: the queue does without.

        Raises StoreUnavailable; then it may have been stored, if the store answered too late. Cancelling the call takes
        nothing back.
        """
        if not link.connection.standing.keeps:
            return False
        answer = asyncio.wrap_future(current_writer().submit(link.drafts([message]), link.policies))
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may come after the deadline
        try:
            async with asyncio.timeout(conf.get("STORE_TIMEOUT_SECONDS")):
                await asyncio.shield(answer)
        except TimeoutError as error:
            raise StoreUnavailable("the message was not written in time") from error
        except BreakerOpen:
            if link.connection.policy.does_without:
                return False
            raise
        sending.announce([link.queue])
        return True

    async def make_room(self, link: Link, id: str) -> None:
        """Return when this message's sender may go on: it is stored, or there is room for it in memory.

        Raises StoreUnavailable when the store did not take what waits; then the message is forgotten.
        """
        if not link.connection.must_wait(id):
            return
        try:
            async with asyncio.timeout(conf.get("STORE_TIMEOUT_SECONDS")):
                while link.connection.must_wait(id):
                    await link.progress()
        except asyncio.CancelledError:
            if link.connection.state is not State.CLOSED and link.connection.must_wait(id):
                link.connection.withdraw(id)  # senders that give up do not fill the memory
                link.wake()
            raise
        except (StoreUnavailable, TimeoutError) as error:
            link.connection.withdraw(id)
            link.wake()
            raise StoreUnavailable("the client's window is full, and the message was not stored") from error

    def persist(self, link: Link, messages: tuple[Message, ...]) -> None:
        """Carry out a Persist. ``link.persisting`` is done when the store has answered."""
        if link.connection.state is State.CLOSED:
            self.keep(link)
        link.persisting = self._loop.create_future()
        link.wake()
        link.persisting.add_done_callback(lambda future: future.cancelled() or future.exception())  # awaited or not
        try:
            link.written = current_writer().submit(link.drafts(messages), link.policies)
        except (StoreUnavailable, RuntimeError) as error:
            link.written = Future()
            link.written.set_exception(error)
        link.written.add_done_callback(lambda written: self._from_thread(self._persisted, link, written))

    def _persisted(self, link: Link, written: Future[list[Appended]]) -> None:
        if link.written is not written:
            return  # dealt with at the end of the process
        done, link.persisting, link.written = link.persisting, None, None
        now, connection = self._loop.time(), link.connection
        if (error := written.exception()) is not None:
            self._complain(error)
            self._carry_out(link, connection.persist_failed(now))
        else:
            self._carry_out(link, connection.persisted(_positions(written), now))
        if connection.state is State.CLOSED:
            self.keep(link)
            if error is None:
                sending.announce([link.queue])
        _tell(done, error)
        link.wake()

    def keep(self, link: Link) -> None:
        """The connection is gone: it is an orphan as long as only memory has something of it. Idempotent."""
        if not link.connection.has_unstored:
            self.orphans.pop(link, None)
        elif link in self.orphans or len(self.orphans) < MAX_ORPHANS:
            self.orphans[link] = None
        else:
            logger.error("own sends lost: the store is away, and memory is full", extra={"action": "own_sends_lost"})
        if self.orphans:
            self._no_orphans.clear()
        else:
            self._no_orphans.set()

    async def written(self) -> None:
        """Return when the store has what connections that are gone had sent. It is offered to it every second."""
        await self._no_orphans.wait()

    def _complain(self, error: BaseException) -> None:
        """Once in a while: with the store away, every connection fails every second."""
        if self._loop.time() - self._complained_at >= COMPLAIN_SECONDS:
            self._complained_at = self._loop.time()
            logger.warning("own sends not stored yet: %s", error, extra={"action": "persist_failed"})

    def settle(self, link: Link) -> list[Action]:
        """At the end of the process, when the writer has ended and the loop runs no more: what became of a Persist."""
        written, link.written = link.written, None
        if written is None:
            return []
        now = self._loop.time()
        if not written.done() or written.cancelled() or written.exception() is not None:
            return link.connection.persist_failed(now)
        return link.connection.persisted(_positions(written), now)


def _positions(written: Future[list[Appended]]) -> dict[str, int | None]:
    return {answer.id: answer.position for answer in written.result()}


def _tell(done: asyncio.Future[None] | None, error: BaseException | None) -> None:
    if done is None or done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(StoreUnavailable(str(error)))
