"""The client's side of ``netra-queue.v1`` (docs/protocol.md), the counterpart of ``core.connection``.

    connect --> CONNECTING --hello--> REPLAYING --live--> LIVE
                    ^                     |                |
                    +------ time ---- WAITING <---broken---+
    close, or a 44xx, from anywhere --> CLOSED

Nothing in here does I/O, sets timers or reads a clock: every method takes what happened and ``now``, a monotonic time
in seconds, and returns what to do, in order. The browser's protocol.js does the same.

**Repeats.** What was handled and perhaps not acked comes again, after all that is more urgent. So the ids of two
windows are remembered, and of as many messages as were waiting when the connection began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from . import frames
from .values import (
    Action,
    Connect,
    Disconnect,
    Frame,
    Handle,
    Lost,
    Message,
    Repeat,
    Save,
    State,
    StateChange,
    Write,
)

ACK_AFTER_SECONDS = 0.1
HELLO_SECONDS = 15.0
PROBE_SECONDS = 3.0
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
LATE_SECONDS = 1.0  # the process stood still, or its loop: what came meanwhile may not have been heard yet
REMEMBERED_WINDOWS = 2


class SeenIds:
    """The ids handled lately, oldest forgotten first."""

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.ids = dict.fromkeys(ids)

    def __contains__(self, id: str) -> bool:
        return id in self.ids

    def add(self, id: str, most: int) -> None:
        self.ids[id] = None
        while len(self.ids) > most:
            del self.ids[next(iter(self.ids))]


@dataclass(slots=True)
class Due:
    """When something is to happen."""

    back: float | None = None
    hello: float | None = None
    answer: float | None = None
    ack: float | None = None
    ping: float | None = None

    @property
    def first(self) -> float | None:
        times = [at for part in fields(self) if (at := getattr(self, part.name)) is not None]
        return min(times, default=None)


@dataclass(frozen=True, slots=True)
class Delivery:
    seq: int
    message: Message
    connection: int  # which one it came by


class Protocol:
    """``random`` gives numbers from 0 to 1, for the jitter."""

    def __init__(self, *, random: Callable[[], float], seen: Iterable[str] = ()) -> None:
        self.state = State.CLOSED
        self.seen = SeenIds(seen)
        self.outbox: deque[Frame] = deque()  # what the application sent while there was no connection
        self.busy: Delivery | None = None  # what the application handles; its connection may be gone
        self.window = 256
        self._random = random
        self._connection = 0
        self._remembered = 0
        self._has_failed = False  # since then, nothing shows that things go well
        self._attempt = 0
        self._retry_after = 0.0
        self._reset()

    @property
    def wake_at(self) -> float | None:
        """When ``tick`` is due."""
        return self._due.first

    @property
    def is_connected(self) -> bool:
        return self.state in (State.REPLAYING, State.LIVE)

    # --- the application ---------------------------------------------------------------------------------------

    def connect(self, now: float) -> list[Action]:
        """Be connected from now on."""
        if self.state not in (State.CLOSED, State.WAITING):
            return []
        self._reset()
        self._due.hello = now + HELLO_SECONDS
        return [*self._become(State.CONNECTING), Connect()]

    def send(self, frame: Frame) -> list[Action]:
        """Written now, or after the next hello."""
        if self.is_connected:
            return [Write(frame.text, frame)]
        self.outbox.append(frame)
        return []

    def withdraw(self, frame: Frame) -> None:
        """It is not to be sent any more."""
        if frame in self.outbox:
            self.outbox.remove(frame)

    def unwritten(self, frames: Iterable[Frame]) -> None:
        """The connection ended before these could be written to it: they are the first for the next one."""
        self.outbox.extendleft(reversed(list(frames)))

    def handled(self, now: float) -> list[Action]:
        """The application has handled the message: it is acked soon, and not given to it again."""
        delivery, self.busy = self.busy, None
        assert delivery is not None
        self._goes_well()
        self.seen.add(delivery.message.id, self._remembered)
        if delivery.connection != self._connection:
            return [Save(), *self._handle_next(now)]  # it comes once more, and is acked then
        return [*self._processed(delivery.seq, now), *self._handle_next(now)]

    def failed(self, reason: str, now: float) -> list[Action]:
        """The application could not handle the message. It is not acked, and comes again with the next connection."""
        delivery, self.busy = self.busy, None
        assert delivery is not None
        if delivery.connection != self._connection:
            return self._handle_next(now)
        self._has_failed = True
        return [*self._ack(), Disconnect(), *self._wait(now, reason=reason)]

    def close(self) -> list[Action]:
        """Never again, unless ``connect`` is called."""
        if self.state is State.CLOSED:
            return []
        return [*(self._ack() or [Save()]), Disconnect(), *self._end()]

    # --- the socket --------------------------------------------------------------------------------------------

    def received(self, text: str | bytes, now: float) -> list[Action]:
        self._due.answer = None
        try:
            frame = frames.parse(text)
        except frames.UnreadableFrame as error:
            return self._broken(str(error), now)
        match frame:
            case frames.Hello():
                return self._hello(frame, now)
            case frames.Messages():
                return self._messages(frame, now)
            case frames.Live():
                return self._live()
            case frames.Pong():
                self._goes_well()
            case Lost():
                # An ack for nothing new shows the server that this was heard: others may have been under way already.
                return [frame, Write(frames.ack(self._acked))]
            case frames.Retry():
                self._retry_after = frame.after_seconds
        return []

    def disconnected(self, code: int, reason: str, now: float) -> list[Action]:
        """The connection has ended, or never opened. ``code``: of the close frame, 1006 without one."""
        if self.state in (State.CLOSED, State.WAITING):
            return []
        if 4400 <= code < 4500:
            return self._end(code, reason)
        return self._wait(now, code=code, reason=reason)

    def tick(self, now: float) -> list[Action]:
        due = self._due
        if _is_due(due.back, now):
            return self.connect(now)
        if _is_due(due.hello, now):
            if not _is_late(due.hello, now):
                return self._broken("no netra.hello came", now)
            due.hello = now + PROBE_SECONDS
        if _is_due(due.answer, now) and not _is_late(due.answer, now):
            return self._broken("the server went silent", now)
        actions = self._ack() if _is_due(due.ack, now) else []
        if _is_due(due.answer, now) or _is_due(due.ping, now):
            actions.append(self._ping(now))
        return actions

    # --- within ------------------------------------------------------------------------------------------------

    def _reset(self) -> None:
        self._connection += 1
        self._inbox: deque[Delivery] = deque()
        self._heartbeat = 25.0
        self._delivered = self._done = self._acked = 0
        self._due = Due()

    def _become(self, state: State, **detail: Any) -> list[Action]:
        self.state = state
        return [StateChange(state=state, **detail)]

    def _hello(self, hello: frames.Hello, now: float) -> list[Action]:
        self._due.hello = None
        self.window, self._heartbeat = hello.window, hello.heartbeat_seconds
        self._due.ping = now + self._heartbeat / 2
        self._remembered = REMEMBERED_WINDOWS * hello.window + hello.waiting
        actions = self._become(State.REPLAYING, queue=hello.queue, waiting=hello.waiting)
        if any(hello.lost.counts.values()):
            actions.append(hello.lost)
            self._ack_soon(now)  # of 0, if nothing comes
        actions += [Write(kept.text, kept) for kept in self.outbox]
        self.outbox.clear()
        return actions

    def _messages(self, frame: frames.Messages, now: float) -> list[Action]:
        if frame.seq != self._delivered + 1:
            return self._broken(f"delivery {frame.seq} came after {self._delivered}", now)
        numbered = enumerate(frame.messages, frame.seq)
        self._inbox += [Delivery(seq, message, self._connection) for seq, message in numbered]
        self._delivered += len(frame.messages)
        return self._handle_next(now)

    def _live(self) -> list[Action]:
        actions = self._become(State.LIVE)
        if not self._has_failed:
            self._attempt = 0
        return actions

    def _goes_well(self) -> None:
        self._has_failed = False
        if self.state is State.LIVE:
            self._attempt = 0

    def _handle_next(self, now: float) -> list[Action]:
        actions: list[Action] = []
        while self.busy is None and self._inbox:
            delivery = self._inbox.popleft()
            if delivery.message.id in self.seen:
                actions += [Repeat(delivery.message), *self._processed(delivery.seq, now)]
            else:
                self.busy = delivery
                actions.append(Handle(delivery.message))
        return actions

    def _processed(self, seq: int, now: float) -> list[Action]:
        self._done = seq
        self._ack_soon(now)
        return self._ack() if self._done - self._acked >= self.window / 2 else []

    def _ack_soon(self, now: float) -> None:
        if self._due.ack is None:
            self._due.ack = now + ACK_AFTER_SECONDS

    def _ack(self) -> list[Action]:
        if self._due.ack is None:
            return []
        self._due.ack = None
        self._acked = self._done
        return [Save(), Write(frames.ack(self._acked))]

    def _ping(self, now: float) -> Action:
        is_late = _is_late(self._due.answer, now) or _is_late(self._due.ping, now)
        answer = now + (PROBE_SECONDS if is_late else self._heartbeat / 2)
        self._due.answer = answer if is_late or self._due.answer is None else self._due.answer
        self._due.ping = now + self._heartbeat / 2  # whatever else is written: only a pong shows that it arrives
        return Write(frames.PING)

    def _broken(self, reason: str, now: float) -> list[Action]:
        self._has_failed = True
        return [Disconnect(), *self._wait(now, code=1006, reason=reason)]

    def _wait(self, now: float, *, code: int | None = None, reason: str = "") -> list[Action]:
        """Full jitter, so that the clients of a server that restarted do not come all at once."""
        ceiling = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**self._attempt)
        seconds = self._retry_after + self._random() * ceiling
        self._attempt = min(self._attempt + 1, 30)
        self._retry_after = 0.0
        self._reset()
        self._due.back = now + seconds
        return self._become(State.WAITING, code=code, reason=reason, seconds=seconds)

    def _end(self, code: int | None = None, reason: str = "") -> list[Action]:
        self._reset()
        self._attempt = 0
        return self._become(State.CLOSED, code=code, reason=reason)


def _is_due(at: float | None, now: float) -> bool:
    return at is not None and now >= at


def _is_late(at: float | None, now: float) -> bool:
    return at is not None and now - at > LATE_SECONDS
