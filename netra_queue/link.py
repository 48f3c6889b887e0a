"""The live side of a connection: its outbox, and the task that writes it to the socket while there is something."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime

from .core.actions import Action, Transmit
from .core.connection import FRAME_BYTES, Connection
from .core.gate import Gate
from .core.message import Draft, Message
from .core.policy import Overflow, Policy
from .core.rollout import Standing
from .core.states import State
from .core.wire import CloseCode, Mode, joined
from .ids import new_id
from .mailbox import Pulse
from .permission import MayDeliver
from .stores.base import Appended, Presence

SPARE_FRAMES = 64  # control frames that may wait beside a full window before the client counts as not reading


class Link:
    """Belongs to one event loop. ``write`` hands one frame to the server and returns when it has taken it.

    ``on_end`` is how a wish to close reaches the socket: the connection's, or that of ``check``, when ``write`` takes
    longer than ``timeout_seconds``. ``on_broken`` is called once, when ``write`` raised. ``may_deliver``: the
    consumer's say in what is transmitted; None: it has none.
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
        self.opened_at: datetime | None = None  # the store's time, when it got to know the connection
        self.was_polled = False  # a poll, and no bell since then, has had it read
        self.may_deliver = may_deliver
        self.groups: tuple[str, ...] = ()  # durable ones, that the consumer names
        self.asking = asyncio.Lock()  # whether what is given may be delivered
        self.is_announced = False  # the store may know of it
        self.gate = Gate()
        self.replay_full_at = 0.0  # of the bucket of its REPLAY_RATE
        self._on_broken = on_broken
        self._write = write
        self._timeout_seconds = timeout_seconds
        self._frames: deque[Transmit] | tuple[()] = ()  # an empty deque takes 0.8 KB
        self._moved = Pulse()
        self._most_frames = connection.policy.window + SPARE_FRAMES
        self._writer: asyncio.Task[None] | None = None
        self._writing_since: float | None = None  # the frame that the server has not taken yet
        self._on_written: Callable[[int], None] | None = None  # None: nothing is written yet
        self._is_stopped = False  # nothing is written any more

    @property
    def queue(self) -> str:
        return self.connection.queue

    @property
    def is_over(self) -> bool:
        return self.connection.state is State.CLOSED

    def announce_anew(self) -> None:
        """What the store may have been told before is on its way out of it: it is not to take this along."""
        self.presence, self.is_announced = replace(self.presence, id=new_id()), False

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
                traceparent=message.traceparent,
            )
            for message in messages
        ]

    def start(self, on_written: Callable[[int], None]) -> None:
        """Begin to write. ``on_written`` is called with the number of the last delivery in each frame."""
        self._on_written = on_written
        self._begin_to_write()

    def put(self, frame: Transmit) -> bool:
        """Have a frame written, in order. False: so much is waiting already that the client cannot be reading."""
        if len(self._frames) > self._most_frames:
            return False
        if isinstance(self._frames, tuple):
            self._frames = deque()
        self._frames.append(frame)
        self._begin_to_write()
        self.wake()
        return True

    def _begin_to_write(self) -> None:
        if self._writer is None and self._frames and self._on_written is not None and not self._is_stopped:
            self._writer = asyncio.create_task(self._write_frames(self._frames, self._on_written))

    def adopt(self, policy: Policy, standing: Standing) -> list[Action]:
        """What has been put under a wider window is still to be read in peace."""
        actions = self.connection.adopt(policy, standing)
        self._most_frames = max(self._most_frames, policy.window + SPARE_FRAMES)
        self.wake()
        return actions

    def wake(self) -> None:
        """Have those look again who wait for progress."""
        self._moved.beat()

    async def progress(self) -> None:
        """Return when the store has answered a Persist in progress; without one, when there is one or a frame to write.

        Raises StoreUnavailable when the store did not take the messages.
        """
        if self.persisting is not None:
            await asyncio.shield(self.persisting)
        else:
            await self._moved.next()

    async def drained(self) -> None:
        """Return when everything that was put, or waits to be put, is written, or nothing is written any more."""
        while not self._is_stopped and (self.connection.held or self._frames or self._writer is not None):
            await self._moved.next()

    def stop(self) -> None:
        """Write no further frame. Idempotent."""
        self._stop_writing()
        if self._writer is not None:
            self._writer.cancel()

    def _stop_writing(self) -> None:
        self._is_stopped, self._writing_since = True, None
        self.wake()

    def check(self, now: float) -> None:
        """Give up a client that takes no frames. To be called a few times a second: a timer for each frame would cost
        as much as the rest of its writing."""
        if self._writing_since is not None and now - self._writing_since >= self._timeout_seconds:
            self.stop()
            self.end(CloseCode.NOT_RESPONDING, "the client does not take frames")

    async def _write_frames(self, frames: deque[Transmit], on_written: Callable[[int], None]) -> None:
        clock = asyncio.get_running_loop().time
        while frames:
            transmits = self._take_together(frames)
            self._writing_since = clock()
            try:
                await self._write(_together(transmits))
            except Exception:  # servers differ in what they raise for a peer that has gone
                self._stop_writing()
                self._on_broken()
                return
            if (seq := transmits[-1].last_seq) is not None:
                on_written(seq)
        self._frames, self._writer, self._writing_since = (), None, None
        self.wake()

    def _take_together(self, frames: deque[Transmit]) -> list[Transmit]:
        """The next one, and those behind it that may go out in one frame with it: deliveries, as the protocol has them.

        What a consumer sends in one go, or what came while a frame was written, costs one frame.
        """
        taken = [frames.popleft()]
        size = len(taken[0].frame)
        while frames and self._is_joinable(taken[-1]) and self._is_joinable(frames[0]):
            size += len(frames[0].frame)
            if size > FRAME_BYTES:
                break
            taken.append(frames.popleft())
        return taken

    def _is_joinable(self, transmit: Transmit) -> bool:
        return transmit.last_seq is not None and self.connection.mode is Mode.PROTOCOL


def _together(transmits: Sequence[Transmit]) -> str | bytes:
    return transmits[0].frame if len(transmits) == 1 else joined([str(transmit.frame) for transmit in transmits])
