"""The queue as its application sees it, and the host that carries out what the protocol wants."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import isawaitable
from typing import Any, Self

from websockets.asyncio.client import connect as open_connection

from ..cancelling import cancel_all
from ..core.wire import CONTROL_PREFIX
from .errors import OutboxFull, QueueClosed, Refused
from .link import Link, Outgoing
from .protocol import Protocol, SeenIds
from .storage import Storage
from .values import Action, Connect, Disconnect, Handle, Lost, Message, Repeat, Save, State, StateChange, Write

logger = logging.getLogger(__name__)

MOST_FRAMES = 1000
MOST_CHARACTERS = 1_000_000

Handler = Callable[[Message], Awaitable[object] | object]


class NetraQueue:
    """One queue, over any number of connections. For one event loop, and one ``async with``; made by ``connect``.

    ``async for message in queue`` gives the messages, each once and in order. A message is acked when the next one is
    asked for, or by ``ack``. When the loop is left before that, by an exception or ``break``, it is not: it comes
    again, to the next loop after a reconnect, or to the next client. Asking raises Refused after a close code 44xx,
    RuntimeError when another loop has begun meanwhile, and ends when the queue was closed. Cancelling is safe.

    ``on_lost`` gets a Lost when the server says that messages of this queue were lost; without it, that is logged.
    ``on_state`` gets a StateChange. Both are plain functions and are to return at once; what they raise is logged.
    ``repeated`` counts the messages that came again and were not given to the application again.
    """

    def __init__(self, url: str, options: dict[str, Any], storage: Storage | None) -> None:
        self.on_lost: Callable[[Lost], object] | None = None
        self.on_state: Callable[[StateChange], object] | None = None
        self.repeated = 0
        self._url = url
        self._options = options
        self._storage = storage
        self._protocol = Protocol(random=random.random)
        self._is_used = False
        self._links: set[Link] = set()
        self._link: Link | None = None  # the one that is listened to
        self._actions: deque[Action] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._end: StateChange | None = None
        self._error: BaseException | None = None  # a mistake, not an end
        self._loop: Messages | None = None
        self._message: Message | None = None  # the application's turn
        self._is_in_hand = False
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Does not wait for a connection. Raises what ``storage.load`` raises."""
        if self._is_used:
            raise RuntimeError("a queue is used in one 'async with': connect() makes another")
        self._is_used = True
        if self._storage is not None:
            self._protocol.seen = SeenIds(self._storage.load())
        self._carry_out(self._protocol.connect(self._now()))
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @property
    def state(self) -> State:
        return self._protocol.state

    def __aiter__(self) -> Messages:
        """Only the newest loop gets messages. One that it left unacked counts as failed."""
        if self._is_in_hand:
            self._fail("the loop was left with a message that was not acked")
        self._loop = Messages(self)
        return self._loop

    async def run(self, handler: Handler) -> None:
        """Call ``handler``, a function or a coroutine function, with one message after the other, until ``close``.

        A message is acked when it returns. When it raises, that is logged, and the message comes again after a
        reconnect; what fails again and again is set aside by the server (docs/dead_letters.md). Raises Refused.
        Cancelled, it cancels the handler, whose message is not acked.
        """
        async for message in self:
            try:
                result = handler(message)
                if isawaitable(result):
                    await result
            except Exception as error:
                logger.exception("message not handled", extra={"action": "handler_failed", "message_id": message.id})
                self._fail(f"the handler raised {type(error).__name__}")

    def ack(self) -> None:
        """The message in hand has been processed. Does nothing without one."""
        if self._is_in_hand:
            self._is_in_hand, self._message = False, None
            self._carry_out(self._protocol.handled(self._now()))

    async def send(self, data: Any) -> None:
        """Send to the consumer's receive: a string as it is, anything else as JSON.

        Returns when it has been written to a connection; nothing says that the consumer has handled it. Waits while
        there is none; cancelled, it is not written if it was not yet. Raises TypeError or ValueError for what cannot be
        sent, OutboxFull when too much waits already, QueueClosed or Refused when there will be no connection any more.
        """
        text = _encoded(data)
        if self.state is State.CLOSED:
            raise self._why_closed()
        self._check_room(text)
        frame = Outgoing(text, asyncio.get_running_loop().create_future())
        self._carry_out(self._protocol.send(frame))
        try:
            await frame.written
        finally:
            self._protocol.withdraw(frame)

    async def close(self) -> None:
        """Ack what was handled, and disconnect. Loops end, and sends that wait raise QueueClosed. Idempotent.

        Takes a second or so at most. Cancelled, it disconnects at once.
        """
        self._carry_out(self._protocol.close())
        tasks = [link.task for link in self._links]
        if not tasks:
            return
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for link in self._links:
                link.abort()
            await cancel_all(tasks)
            raise

    # --- the application's turn --------------------------------------------------------------------------------

    async def _next(self, loop: Messages) -> Message:
        self._check_turn(loop)
        self.ack()
        while self._message is None and self.state is not State.CLOSED:
            self._changed.clear()
            await self._changed.wait()
            self._check_turn(loop)
        if self._message is None or self.state is State.CLOSED:
            error = self._why_closed()
            raise StopAsyncIteration if isinstance(error, QueueClosed) else error
        self._is_in_hand = True
        return self._message

    def _check_turn(self, loop: Messages) -> None:
        if loop is not self._loop:
            raise RuntimeError("another loop over this queue has begun")

    def _fail(self, reason: str) -> None:
        if self._is_in_hand:
            self._is_in_hand, self._message = False, None
            self._carry_out(self._protocol.failed(reason, self._now()))

    # --- what the protocol wants -------------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _carry_out(self, actions: Iterable[Action]) -> None:
        """In order, also when a listener's call leads to others."""
        self._actions.extend(actions)
        while self._actions:
            self._act(self._actions.popleft())
        self._set_timer()

    def _act(self, action: Action) -> None:
        match action:
            case Connect():
                self._open_link()
            case Disconnect():
                self._end_link()
            case Write():
                if self._link is not None:
                    self._link.write(action)
            case Handle(message):
                self._message = message
                self._changed.set()
            case Repeat():
                self.repeated += 1
            case Save():
                self._save()
            case StateChange():
                self._state_changed(action)
            case Lost():
                self._lost(action)

    def _set_timer(self) -> None:
        at = self._protocol.wake_at
        if self._timer is not None:
            if self._timer.when() == at and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._carry_out(self._protocol.tick(self._now()))

    def _save(self) -> None:
        if self._storage is None:
            return
        try:
            self._storage.save(list(self._protocol.seen.ids))
        except Exception:
            logger.exception("ids not saved; a restart may repeat messages", extra={"action": "ids_not_saved"})

    def _state_changed(self, change: StateChange) -> None:
        if change.state is State.WAITING:
            text = "not connected (%s), again in %.1f s"
            logger.info(text, change.reason or change.code, change.seconds, extra={"action": "client_waiting"})
        elif change.state is State.CLOSED:
            self._end = change
            self._reject_outbox()
            self._changed.set()
        _tell(self.on_state, change)

    def _lost(self, lost: Lost) -> None:
        if self.on_lost is None:
            logger.warning("messages were lost: %s", dict(lost.counts), extra={"action": "messages_lost"})
        _tell(self.on_lost, lost)

    # --- connections -------------------------------------------------------------------------------------------

    def _open_link(self) -> None:
        def open() -> Awaitable[Any]:
            return open_connection(self._url, **self._options)

        link = self._link = Link(self, open, self._links)
        self._links.add(link)
        link.task.add_done_callback(lambda task: self._link_done(link, task))

    def _end_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.end()

    def heard(self, link: Link, text: str | bytes) -> None:
        if link is self._link:
            self._carry_out(self._protocol.received(text, self._now()))

    def ended(self, link: Link, code: int, reason: str) -> None:
        self._protocol.unwritten(link.unwritten)
        if link is self._link:
            self._link = None
            self._carry_out(self._protocol.disconnected(code, reason, self._now()))
        if self.state is State.CLOSED:
            self._reject_outbox()

    def _link_done(self, link: Link, task: asyncio.Task[None]) -> None:
        """What is neither the network's fault nor the server's ends the queue, and is raised by its loop."""
        self._links.discard(link)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = error
            self._carry_out(self._protocol.close())

    # --- what is sent to the server ----------------------------------------------------------------------------

    def _why_closed(self) -> BaseException:
        if self._error is not None:
            return self._error
        if self._end is not None and self._end.code is not None:
            return Refused(self._end.code, self._end.reason)
        return QueueClosed()

    def _check_room(self, text: str) -> None:
        frames = self._protocol.outbox
        characters = sum(len(frame.text) for frame in frames)
        if len(frames) >= MOST_FRAMES or characters + len(text) > MOST_CHARACTERS:
            raise OutboxFull(frames=len(frames), characters=characters)

    def _reject_outbox(self) -> None:
        for frame in self._protocol.outbox:
            if isinstance(frame, Outgoing) and not frame.written.done():
                frame.written.set_exception(self._why_closed())
        self._protocol.outbox.clear()


class Messages:
    """One loop over a queue."""

    def __init__(self, queue: NetraQueue) -> None:
        self._queue = queue

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        return await self._queue._next(self)


def _encoded(data: Any) -> str:
    if isinstance(data, Mapping) and str(data.get("type", "")).startswith(CONTROL_PREFIX):
        raise ValueError(f"the type {data['type']} belongs to the protocol")
    text = data if isinstance(data, str) else json.dumps(data, allow_nan=False)
    text.encode()  # lone surrogates
    return text


def _tell(listener: Callable[[Any], object] | None, what: Any) -> None:
    if listener is None:
        return
    try:
        listener(what)
    except Exception:
        logger.exception("a listener failed", extra={"action": "listener_failed"})
