"""The live side of a connection: its outbox, and the task that writes it to the socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace

from .core.actions import Transmit
from .core.connection import Connection
from .core.message import Draft, Message
from .core.policy import Overflow, Policy
from .core.wire import CloseCode
from .permission import MayDeliver
from .stores.base import Appended, Presence

SPARE_FRAMES = 64  # control frames that may wait beside a full window before the client counts as not reading


class Link:
    """Belongs to one event loop. ``write`` hands one frame to the server and returns when it has taken it.

    ``on_end`` is how a wish to close reaches the socket: the connection's, or the writer's when ``write`` took longer
    than ``timeout_seconds``. ``on_broken`` is called once, when ``write`` raised. ``may_deliver``: the consumer's say
    in what is transmitted; None: it has none.
    """

    def __init__(
        self,
        connection: Connection,
        presence: Presence,
        *,
        write: Callable[[str | bytes], Awaitable[None]],
        timeout_seconds: float,
        on_end: Callable[[int, str], None],
        on_broken: Callable[[], None],
        may_deliver: MayDeliver | None = None,
    ) -> None:
        self.connection = connection
        self.presence = presence
        self.is_deaf = False  # its consumer is busy, and what the client sends cannot be looked at
        self.persisting: asyncio.Future[None] | None = None  # a Persist in progress; done when the store has answered
        self.written: Future[list[Appended]] | None = None  # the same, as the writer knows it
        self.end = on_end
        self.may_deliver = may_deliver
        self._on_broken = on_broken
        self._write = write
        self._timeout_seconds = timeout_seconds
        self._frames: asyncio.Queue[Transmit] = asyncio.Queue()
        self._moved = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    @property
    def queue(self) -> str:
        return self.connection.queue

    @property
    def policies(self) -> dict[str, Policy]:
        """The queue's limits for own sends. Nobody is there to be rejected: the newest go instead, counted and told."""
        policy = self.connection.policy
        if policy.overflow is Overflow.REJECT:
            policy = replace(policy, overflow=Overflow.DROP_NEWEST)
        return {self.queue: policy}

    def drafts(self, messages: Iterable[Message]) -> list[Draft]:
        """Own sends on their way to the store: as old as they are, and with the id they were transmitted under."""
        return [
            Draft(
                queue=self.queue,
                id=message.id,
                payload=message.payload,
                priority=message.priority,
                ttl_seconds=self.connection.policy.ttl_for(message.priority),
                sent_at=message.created_at,
            )
            for message in messages
        ]

    def start(self, on_written: Callable[[int], None]) -> None:
        """Begin to write. ``on_written`` is called with the number of the last delivery in each frame."""
        self._writer = asyncio.create_task(self._write_frames(on_written))

    def put(self, frame: Transmit) -> bool:
        """Have a frame written, in order. False: so much is waiting already that the client cannot be reading."""
        if self._frames.qsize() > self.connection.policy.window + SPARE_FRAMES:
            return False
        self._frames.put_nowait(frame)
        self.wake()
        return True

    def wake(self) -> None:
        """Have those look again who wait for progress."""
        self._moved.set()

    async def progress(self) -> None:
        """Return when the store has answered a Persist in progress; without one, when there is one or a frame to write.

        Raises StoreUnavailable when the store did not take the messages.
        """
        if self.persisting is not None:
            await asyncio.shield(self.persisting)
        else:
            self._moved.clear()
            await self._moved.wait()

    async def drained(self) -> None:
        """Return when everything that was put, or waits to be put, is written."""
        while self.connection.is_holding:
            self._moved.clear()
            await self._moved.wait()
        await self._frames.join()

    def stop(self) -> None:
        """Write no further frame. Idempotent."""
        if self._writer is not None:
            self._writer.cancel()

    async def _write_frames(self, on_written: Callable[[int], None]) -> None:
        while True:
            transmit = await self._frames.get()
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    await self._write(transmit.frame)
            except TimeoutError:
                self.end(CloseCode.NOT_RESPONDING, "the client does not take frames")
                return
            except Exception:  # servers differ in what they raise for a peer that has gone
                self._on_broken()
                return
            finally:
                self._frames.task_done()
            if transmit.last_seq is not None:
                on_written(transmit.last_seq)
