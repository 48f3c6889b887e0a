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
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from django.core.exceptions import PermissionDenied

from . import conf, validation
from .core import wire
from .core.connection import Connection, Mode, State
from .core.message import CLIENT_ID, Message, Priority
from .core.wire import SUBPROTOCOL, CloseCode, MalformedFrame
from .exceptions import NotAuthenticated, StoreUnavailable
from .hub import Hub
from .link import Link
from .process import current_hub
from .stores.base import Presence

logger = logging.getLogger(__name__)

Event = dict[str, Any]
INBOX_FRAMES = 32
CLOSE_SECONDS = 2.0
DRAIN_SECONDS = 2.0
STORE_SECONDS = 2.0
PERSIST_CHOICES = ("on_disconnect", "always")


class Session:
    """The ASGI ``receive`` and ``send`` that a consumer with a queue gets. ``find_queue`` names its queue."""

    def __init__(
        self,
        scope: Event,
        receive: Callable[[], Awaitable[Event]],
        send: Callable[[Event], Awaitable[None]],
        *,
        find_queue: Callable[[], Awaitable[str | None]],
        choices: Callable[[], tuple[str, str]],
    ) -> None:
        self._scope, self._raw_receive, self._raw_send = scope, receive, send
        self._find_queue, self._choices = find_queue, choices
        self._hub: Hub | None = None
        self._link: Link | None = None
        self._persist_always = False
        self._is_over = False  # the socket is gone, or on its way
        self._inbox: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._room = asyncio.Semaphore(INBOX_FRAMES)
        self._persisting: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._reader = self._background(self._read())

    # --- from the client ---------------------------------------------------------------------------------------

    async def receive(self) -> Event:
        """The next event that is the consumer's own. Raises what the server's ``receive`` raised."""
        event = await self._inbox.get()
        if isinstance(event, Exception):
            raise event
        if event["type"] == "websocket.receive":
            self._room.release()
        return event

    async def _read(self) -> None:
        while True:
            try:
                event = await self._raw_receive()
            except Exception as error:
                self._release(None)
                self._inbox.put_nowait(error)
                return
            if event["type"] == "websocket.disconnect":
                self._release(event.get("code"))
                self._inbox.put_nowait(event)
                return
            if event["type"] == "websocket.receive":
                if self._took(event):
                    continue
                await self._wait_for_room()
            self._inbox.put_nowait(event)

    def _took(self, event: Event) -> bool:
        """Whether this frame was the protocol's, and has been dealt with."""
        if self._link is None or self._hub is None or self._is_over:
            return False
        connection, now = self._link.connection, self._hub.loop.time()
        connection.heard(now)
        if connection.mode is Mode.RAW or event.get("text") is None:
            return False
        try:
            frame = wire.parse_client_frame(event["text"])
        except MalformedFrame as error:
            self._end(CloseCode.MALFORMED, error.reason)
            return True
        if frame is not None:
            self._hub.carry_out(self._link, connection.receive(frame, now))
        return frame is not None

    async def _wait_for_room(self) -> None:
        if self._link is not None and self._room.locked():
            self._link.is_deaf = True
        await self._room.acquire()
        if self._link is not None and self._hub is not None:
            self._link.is_deaf = False
            self._link.connection.excuse(self._hub.loop.time())

    # --- from the consumer -------------------------------------------------------------------------------------

    async def send(self, event: Event) -> None:
        """Carry out an event of the consumer's.

        Raises StoreUnavailable for a frame that could neither be transmitted nor stored.
        """
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
            client = _client_of(self._scope)
            queue = await self._find_queue()
        except NotAuthenticated as error:
            await self._refuse(CloseCode.NOT_AUTHENTICATED, str(error))
        except PermissionDenied as error:
            await self._refuse(CloseCode.NOT_YOUR_QUEUE, str(error) or "not this client's queue")
        except MalformedFrame as error:
            await self._refuse(CloseCode.MALFORMED, error.reason)
        else:
            if queue is not None and not self._is_over:
                self._open(queue, client, Mode.PROTOCOL if event.get("subprotocol") == SUBPROTOCOL else Mode.RAW)

    async def _refuse(self, code: CloseCode, reason: str) -> None:
        logger.info("connection refused: %s", reason, extra={"action": "connection_refused", "code": int(code)})
        self._end(code, reason)

    def _open(self, queue: str, client: str, mode: Mode) -> None:
        policy_name, persist = self._choices()
        if persist not in PERSIST_CHOICES:
            raise ValueError(f"queue_persist: expected one of {PERSIST_CHOICES}, got {persist!r}")
        self._persist_always = persist == "always"
        hub = self._hub = current_hub()
        policy = conf.policy(policy_name)
        connection = Connection(validation.check_queue(queue), policy, mode, hub.loop.time())
        presence = Presence(id=uuid.uuid4().hex, queue=queue, server=hub.server, policy=policy_name, client=client)
        self._link = Link(
            connection,
            presence,
            write=self._write,
            timeout_seconds=conf.get("WRITE_TIMEOUT_SECONDS"),
            on_end=self._end,
        )
        self._background(self._attach(hub, self._link))

    async def _attach(self, hub: Hub, link: Link) -> None:
        try:
            await hub.attach(link)
        except StoreUnavailable as error:
            logger.warning("connection not attached: %s", error, extra={"action": "attach_failed"})
            self._end(CloseCode.STORE_UNAVAILABLE, "the message store is unavailable")
        except Exception:
            logger.exception("connection not attached", extra={"action": "attach_failed"})
            self._end(1011, "the queue cannot be opened")

    async def _send_own(self, link: Link, event: Event) -> None:
        assert self._hub is not None
        text = event.get("text")
        payload = wire.text_payload(text) if text is not None else wire.bytes_payload(event["bytes"])
        message = Message(
            position=0, id=uuid.uuid4().hex, payload=payload, priority=Priority.NORMAL, created_at=self._hub.now()
        )
        connection = link.connection
        if self._persist_always or connection.state is State.CLOSED:
            await self._hub.append(link, message)
            return
        persisting = self._hub.carry_out(link, connection.send_own(message, self._hub.loop.time()))
        for done in persisting:
            try:
                async with asyncio.timeout(conf.get("STORE_TIMEOUT_SECONDS")):
                    await asyncio.shield(done)
            except (StoreUnavailable, TimeoutError) as error:
                connection.withdraw(message.id)
                raise StoreUnavailable("the client's window is full, and the message was not stored") from error

    async def _write(self, frame: str | bytes) -> None:
        key = "text" if isinstance(frame, str) else "bytes"
        await self._raw_send({"type": "websocket.send", key: frame})

    # --- the end -----------------------------------------------------------------------------------------------

    async def _close(self, link: Link, event: Event) -> None:
        """The consumer closes: what it has sent before goes first, if the client takes it."""
        if self._is_over:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await link.drained()
        except TimeoutError:
            logger.info("closed with frames unwritten; they stay queued", extra={"action": "close_undrained"})
        if not self._is_over:
            self._release(event.get("code") or 1000)
            await self._say(event)

    def _end(self, code: int, reason: str) -> None:
        """We close: the peer is told, and the consumer learns of it as of any disconnect. Idempotent."""
        if self._is_over:
            return
        self._release(int(code))
        self._reader.cancel()
        self._inbox.put_nowait({"type": "websocket.disconnect", "code": int(code)})
        sendable = int(code) if code != 1006 else 1011
        self._background(self._say({"type": "websocket.close", "code": sendable, "reason": reason[:120]}))

    async def _say(self, event: Event) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._raw_send(event)
        except Exception as error:  # the peer has gone meanwhile; servers differ in what they raise
            logger.debug("close not sent: %s", error, extra={"action": "close_failed"})

    def _release(self, code: int | None) -> None:
        self._is_over = self._is_over or self._link is not None or code is not None
        if self._hub is not None and self._link is not None:
            self._persisting += self._hub.release(self._link, code)

    async def finish(self) -> None:
        """The consumer returned. Daphne leaves the socket open then, so it is closed here."""
        if self._link is not None and not self._is_over:
            self._release(1000)
            await self._say({"type": "websocket.close"})

    async def abandon(self) -> None:
        """The consumer is over, for whatever reason: release the connection, then wait a little for the store.

        Uvicorn ends its process as soon as its consumers are over. Nothing depends on the wait: what is not stored
        yet is tried again, and written at the end of the process where that is given the time.
        """
        self._release(None)
        self._reader.cancel()
        if self._hub is None or self._link is None:
            return
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await asyncio.gather(*self._persisting, return_exceptions=True)
                await self._hub.acks.written(self._link.queue)
        except TimeoutError:
            logger.info("not everything is stored yet", extra={"action": "slow_release"})

    def _background(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _client_of(scope: Event) -> str:
    """The ``?client=`` of the handshake, or ''. Raises MalformedFrame for one that is not allowed."""
    query: bytes = scope.get("query_string", b"")
    values = parse_qs(query.decode("latin-1"), keep_blank_values=True).get("client")
    if not values:
        return ""
    if len(values) > 1 or CLIENT_ID.fullmatch(values[0]) is None:
        raise MalformedFrame("client: expected 1 to 64 of A-Z a-z 0-9 _ -")
    return values[0]
