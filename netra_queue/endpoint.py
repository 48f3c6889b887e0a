"""One consumer's socket: stands between the ASGI server and the consumer, in both directions.

    server --receive--> [reader] -- acks, pings --> Connection
                            `------ other frames --> [inbox, bounded] --receive--> consumer
    consumer --send--> Connection --> [outbox] --> [writer] --send--> server

The reader looks at what comes in at once, however busy the consumer is: an ack or a disconnect never waits for a
handler. The inbox is bounded, so that a client that floods meets its server's own back-pressure.

Until the consumer accepts, and for a consumer without a queue (passthrough), everything goes through untouched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from django.core.exceptions import PermissionDenied

from . import attaching, choosing, conf, incoming, validation
from .cancelling import LoopStopped, on_loop
from .choosing import Resolve, no_policy
from .core import wire
from .core.connection import Connection
from .core.message import line_name
from .core.wire import SUBPROTOCOL, CloseCode, MalformedFrame, Mode
from .counting import rejections
from .exceptions import NotAuthenticated, RateLimited, StoreUnavailable, TooManyDevices
from .hub import Hub
from .ids import new_id
from .lingering import Departure
from .link import Link
from .mailbox import Mailbox, Pulse
from .own_sends import own_message
from .parting import Parting
from .permission import MayDeliver
from .process import current_hub
from .rates import paced
from .stores.base import Presence

logger = logging.getLogger(__name__)

Event = dict[str, Any]
INBOX_FRAMES = 32
CLOSE_SECONDS = 2.0
DRAIN_SECONDS = 2.0
STORE_SECONDS = 2.0
LEAVE_SECONDS = 1.0
LINGER_CODES = (CloseCode.NOT_RESPONDING, CloseCode.STORE_UNAVAILABLE, CloseCode.RESTART, CloseCode.SENT_AWAY)
PERSIST_CHOICES = ("on_disconnect", "always")


class Endpoint:
    """The ASGI ``receive`` and ``send`` that a consumer with a queue gets. ``find_queue`` names its queue.

    ``may_deliver``: asked what of the queue this client may see; None: all of it.
    """

    def __init__(
        self,
        scope: Event,
        receive: Callable[[], Awaitable[Event]],
        send: Callable[[Event], Awaitable[None]],
        *,
        find_queue: Callable[[], Awaitable[str | None]],
        choices: Callable[[], tuple[str, str]],
        find_groups: Callable[[], Collection[str]] = tuple,
        departure: Departure | None = None,
        may_deliver: MayDeliver | None = None,
        resolve: Resolve = no_policy,
    ) -> None:
        self._scope, self._raw_receive, self._raw_send = scope, receive, send
        self._find_queue, self._choices, self._find_groups = find_queue, choices, find_groups
        self._parting = Parting(departure or Departure())
        self._may_deliver, self._resolve = may_deliver, resolve
        self._hub: Hub | None = None
        self._link: Link | None = None
        self._persist_always = False
        self._is_closing = False  # the consumer has asked for that
        self._is_over = False  # the socket is gone, or on its way
        self._closing: asyncio.Task[None] | None = None
        self._inbox: Mailbox[Event | Exception] = Mailbox()
        self._frames = 0  # of the client's, in the inbox
        self._has_moved = Pulse()
        self._loop = asyncio.get_running_loop()
        self._is_opened = False  # it is known whether the consumer has a queue
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader = self._background(self._read())

    # --- the consumer ------------------------------------------------------------------------------------------

    async def run(self, consumer: Callable[[], Awaitable[None]]) -> None:
        """Let the consumer live, in a task of its own. Returns when it is over, or lingers: the hub has it then.

        Raises what the consumer raises. Cancelling this cancels a consumer that does not linger.
        """
        await self._parting.run(self._live(consumer))
        if self._parting.lingers:  # the server may stop, or take the socket down, as soon as this returns
            if self._closing is not None:
                await asyncio.wait([self._closing])
            await self._stored()

    async def _live(self, consumer: Callable[[], Awaitable[None]]) -> None:
        try:
            await consumer()
            await self.finish()
        finally:
            await self.abandon()

    # --- from the client ---------------------------------------------------------------------------------------

    async def receive(self) -> Event:
        """The next event that is the consumer's own. Raises what the server's ``receive`` raised."""
        self._parting.asks_again()
        event = await self._inbox.get()
        if isinstance(event, Exception):
            raise event
        if event["type"] == "websocket.receive":
            self._frames -= 1
            self._has_moved.beat()
        return event

    async def _read(self) -> None:
        while True:
            try:
                event = await self._raw_receive()
            except Exception as error:
                self._release(None)
                self._inbox.put(error)
                return
            if event["type"] == "websocket.disconnect":
                code = event.get("code")
                self._depart(event, code, may_linger=code != CloseCode.RESTART)  # the server says that of itself
                return
            if event["type"] == "websocket.receive":
                while not self._is_opened:
                    await self._has_moved.next()
                if self._took(event):
                    continue
                await self._wait_for_room()
                self._frames += 1
            self._inbox.put(event)

    def _took(self, event: Event) -> bool:
        """Whether this frame was the protocol's, or too much, and has been dealt with."""
        if self._link is None or self._hub is None or self._is_over:
            return False
        return incoming.took(self._hub, self._link, event, self._end)

    async def _wait_for_room(self) -> None:
        if self._frames < INBOX_FRAMES:
            return
        if self._link is not None:
            self._link.is_deaf = True
        while self._frames >= INBOX_FRAMES:
            await self._has_moved.next()
        if self._link is not None:
            self._link.is_deaf = False
            self._link.connection.excuse(self._loop.time())

    # --- from the consumer -------------------------------------------------------------------------------------

    async def send(self, event: Event) -> None:
        """Carry out an event of the consumer's. May be called on any event loop: a thread of a consumer's has its own.

        Raises StoreUnavailable for a frame that could neither be transmitted nor stored.
        """
        if asyncio.get_running_loop() is not self._loop:
            try:
                return await on_loop(self._loop, lambda: self.send(event))
            except LoopStopped as error:  # Python waits for the consumer's thread at its end
                raise StoreUnavailable("the server is ending") from error
        kind = event["type"]
        if kind == "websocket.accept":
            await self._accept(event)
        elif kind == "websocket.send" and self._link is not None:
            await self._send_own(self._link, event)
        elif kind == "websocket.close" and self._link is not None:
            await self._close(self._link, event)
        elif not self._is_over:
            await self._raw_send(event)

    async def _accept(self, event: Event) -> None:
        if event.get("subprotocol") is None and SUBPROTOCOL in self._scope.get("subprotocols", ()):
            event = {**event, "subprotocol": SUBPROTOCOL}
        await self._raw_send(event)
        try:
            await self._find_and_open(event)
        finally:
            self._is_opened = True
            self._has_moved.beat()

    async def _find_and_open(self, event: Event) -> None:
        try:
            client = wire.client_id(self._scope.get("query_string", b""))
            queue = await self._find_queue()
            resolved = None if queue is None else await choosing.resolved(current_hub(), queue, self._resolve)
        except NotAuthenticated as error:
            self._refuse(CloseCode.NOT_AUTHENTICATED, str(error))
        except PermissionDenied as error:
            self._refuse(CloseCode.NOT_YOUR_QUEUE, str(error) or "not this client's queue")
        except MalformedFrame as error:
            self._refuse(CloseCode.MALFORMED, error.reason)
        except StoreUnavailable as error:
            self._refuse(CloseCode.STORE_UNAVAILABLE, str(error))
        else:
            if queue is not None:
                mode = Mode.PROTOCOL if event.get("subprotocol") == SUBPROTOCOL else Mode.RAW
                self._open(queue, client, mode, resolved)

    def _refuse(self, code: CloseCode, reason: str, *, after_seconds: float | None = None) -> None:
        logger.info("connection refused: %s", reason, extra={"action": "connection_refused", "code": int(code)})
        self._end(code, reason, after_seconds=after_seconds)

    def _open(self, queue: str, client: str, mode: Mode, resolved: str | None) -> None:
        policy_name, persist = self._choices()
        if persist not in PERSIST_CHOICES:
            raise ValueError(f"queue_persist: expected one of {PERSIST_CHOICES}, got {persist!r}")
        self._persist_always = persist == "always"
        self._parting.choose()
        hub = self._hub = current_hub()
        line, chosen = line_name(validation.check_queue(queue), client), resolved or policy_name
        policy = conf.policy_of(line, chosen)
        connection = Connection(line, policy, mode, hub.loop.time(), conf.standing_of(line, policy))
        presence = Presence(
            id=new_id(), queue=line, server=hub.server, policy=chosen, client=client, is_resolved=resolved is not None
        )
        self._link = Link(
            connection,
            presence,
            write=self._write,
            timeout_seconds=conf.get("WRITE_TIMEOUT_SECONDS"),
            on_end=self._end,
            on_broken=self._on_broken,
            may_deliver=self._may_deliver,
        )
        if self._is_over:  # the client left while its queue was looked for; what the consumer sends goes to the store
            connection.close(None, self._loop.time())
        else:
            self._background(self._attach(hub, self._link))

    async def _attach(self, hub: Hub, link: Link) -> None:
        try:
            await attaching.attach(hub, link, self._find_groups, self._parting)
        except StoreUnavailable as error:
            logger.warning("connection not attached: %s", error, extra={"action": "attach_failed"})
            self._end(CloseCode.STORE_UNAVAILABLE, "the message store is unavailable")
        except TooManyDevices as error:
            self._refuse(CloseCode.TOO_MANY_CONNECTIONS, str(error))
        except RateLimited as error:
            self._refuse(CloseCode.TOO_MANY_CONNECTIONS, str(error), after_seconds=paced(error.retry_after_seconds))
        except Exception:
            logger.exception("connection not attached", extra={"action": "attach_failed"})
            self._end(CloseCode.STORE_UNAVAILABLE, "the queue cannot be opened")

    async def _send_own(self, link: Link, event: Event) -> None:
        assert self._hub is not None
        message = own_message(event, self._hub.now())
        with rejections(message.priority):
            if self._persist_always and await self._hub.own.append(link, message):
                return
            self._hub.carry_out(link, link.connection.send_own(message, self._loop.time()))
            await self._hub.own.make_room(link, message.id)

    async def _write(self, frame: str | bytes) -> None:
        key = "text" if isinstance(frame, str) else "bytes"
        await self._raw_send({"type": "websocket.send", key: frame})

    # --- the end -----------------------------------------------------------------------------------------------

    async def _close(self, link: Link, event: Event) -> None:
        """The consumer closes: what it has sent before goes first, if the client takes it.

        Raises what the server raises for a close that it refuses, as plain Channels does.
        """
        if self._is_over:
            self._parting.end()
            return
        self._is_closing = True
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await link.drained()
        except TimeoutError:
            logger.info("closed with frames unwritten; they stay queued", extra={"action": "close_undrained"})
        if self._is_over:
            return
        self._release(None)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._raw_send(event)
        except Exception:
            if not await self._has_left():
                raise

    def _end(self, code: int, reason: str, *, after_seconds: float | None = None) -> None:
        """We close: the peer is told, and the consumer learns of it as of any disconnect. Idempotent.

        ``code``: one of CloseCode. Daphne refuses 1011 and the like, and would leave the socket open.
        ``after_seconds``: when the client may come back, if it is to be told; one in raw mode cannot be.
        """
        if self._is_over:
            return
        self._depart({"type": "websocket.disconnect", "code": int(code)}, None, may_linger=code in LINGER_CODES)
        self._reader.cancel()
        events: list[Event] = [{"type": "websocket.close", "code": int(code), "reason": reason[:120]}]
        if after_seconds is not None and self._link is not None and self._link.connection.mode is Mode.PROTOCOL:
            events.insert(0, {"type": "websocket.send", "text": wire.retry(after_seconds)})
        self._closing = self._background(self._say(*events))

    def _on_broken(self) -> None:
        """A frame could not be written. Mostly the peer has gone, and its own code is on the way."""
        self._background(self._end_broken())

    async def _end_broken(self) -> None:
        if not await self._has_left():
            self._end(CloseCode.NOT_RESPONDING, "the client does not take frames")

    async def _has_left(self) -> bool:
        """Whether the server reports, within a moment, that the peer has gone."""
        await asyncio.wait([self._reader], timeout=LEAVE_SECONDS)
        return self._reader.done()

    async def _say(self, *events: Event) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                for event in events:
                    await self._raw_send(event)
        except Exception as error:  # the peer has gone meanwhile; servers differ in what they raise
            logger.debug("close not sent: %s", error, extra={"action": "close_failed"})

    def _depart(self, event: Event, told: int | None, *, may_linger: bool) -> None:
        """The connection is over, and ``event`` is how the consumer learns of it: at once, or when it has lingered.

        ``told``: what the client closed with, if the server reported that.
        """
        hub, link = self._hub, self._link
        if hub is None or link is None:
            self._is_over = True
            self._inbox.put(event)
            return
        if may_linger and not self._is_over and not self._is_closing and self._parting.may_linger(hub, link):
            self._is_over = True
            self._parting.begin_to_linger(hub, link, told)
        else:
            self._release(told)
        if self._parting.takes_time:
            self._background(self._tell(event))
        else:
            self._inbox.put(event)

    async def _tell(self, event: Event) -> None:
        await self._parting.wait(event.get("code"))
        self._inbox.put(event)

    def _release(self, code: int | None) -> None:
        """``code``: what the client closed with, if the server reported that."""
        self._is_over = True
        if self._hub is not None and self._link is not None:
            self._hub.release(self._link, code)

    async def finish(self) -> None:
        """The consumer returned. Daphne leaves the socket open then, so it is closed here."""
        if self._link is not None and not self._is_over:
            self._release(None)
            await self._say({"type": "websocket.close"})

    async def abandon(self) -> None:
        """The consumer is over, for whatever reason: release the connection, then wait a little for the store.

        Uvicorn ends its process as soon as its consumers are over. Nothing depends on the wait: what is not stored
        yet is tried again, and written at the end of the process where that is given the time.
        """
        self._release(None)
        self._reader.cancel()
        await self._stored()

    async def _stored(self) -> None:
        if self._hub is None or self._link is None:
            return
        try:
            async with asyncio.timeout(STORE_SECONDS):
                while self._link.persisting is not None:
                    await asyncio.wait([self._link.persisting])
                await self._hub.acks.written(self._link.queue)
                await self._hub.own.written()  # also what other connections left while the store was away
                await self._hub.meter.write_last()
        except TimeoutError:
            logger.info("not everything is stored yet", extra={"action": "slow_release"})

    def _background(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
