"""The state machine of one accepted WebSocket: what happened goes in, what to do comes out.

    OPENING --opened--> REPLAYING --a read that found the end--> LIVE
       any state --close--> CLOSED

Nothing in here does I/O or reads a clock: ``now`` is a monotonic time in seconds, given by the caller. Methods are
called from one thread. Their actions are to be carried out in order.

Two kinds of message pass through a connection. *Stored* ones come from ``take`` and have a position in the store;
acking them removes them there. The consumer's *own* sends come from ``send_own`` and live in memory; they are handed
to the store (``Persist``) when they have waited too long for their ack, when the window has no room for them, and
when the connection closes.

**Order.** An own send is transmitted directly only when no earlier own send is still on its way, in memory (``_held``)
or in the store (``_behind``). Stored messages are transmitted in the order in which the store gives them.

**If a step fails**: a read or a persist that failed is reported by ``read_failed`` and ``persist_failed``; both leave
the machine as if it had not been asked for yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from . import wire
from .actions import Acknowledge, Action, Close, Persist, Read, ReadRequest, Settle, Transmit
from .deliveries import Delivery, Held, chunks
from .message import Losses, Message
from .policy import Policy
from .wire import Ack, CloseCode, ControlFrame

__all__ = [
    "Acknowledge",
    "Action",
    "Close",
    "Connection",
    "Mode",
    "Persist",
    "Read",
    "ReadRequest",
    "Settle",
    "State",
    "Transmit",
]

PERSIST_AFTER_SECONDS = 1.0
RAW_REPLAY_SECONDS = 60.0  # longer than Daphne's and Uvicorn's pings need to notice a dead peer
RAW_SETTLE_SECONDS = 0.25  # with a full window: how long a written frame is kept at the least
FRAME_BYTES = 262_144
RAW_ABNORMAL_CODES = frozenset({None, 1005, 1006, 1011, 1012})  # 1005: what Uvicorn says of a reset


class State(Enum):
    OPENING = "opening"
    REPLAYING = "replaying"
    LIVE = "live"
    CLOSED = "closed"


class Mode(Enum):
    """Whether the client speaks ``netra-queue.v1`` or takes plain frames."""

    PROTOCOL = "protocol"
    RAW = "raw"


@dataclass(slots=True)
class Connection:
    """One accepted WebSocket of one queue. Memory is bounded by the policy's window."""

    queue: str
    policy: Policy
    mode: Mode
    now: float
    state: State = State.OPENING
    _opened_at: datetime | None = None
    _next_seq: int = 1
    _written_seq: int = 0
    _in_flight: deque[Delivery] = field(default_factory=deque)
    _in_flight_bytes: int = 0
    _in_flight_ids: set[str] = field(default_factory=set)
    _held: deque[Held] = field(default_factory=deque)
    _behind: set[str] = field(default_factory=set)  # own sends in the store that were not transmitted yet
    _behind_at_read: frozenset[str] = frozenset()
    _acked_unstored: set[str] = field(default_factory=set)  # acked while the store was still taking them
    _has_more: bool = True
    _asked: bool = False
    _reading: bool = False
    _told: tuple[int, ...] = ()
    _heard_at: float = 0.0
    _progress_at: float = 0.0
    _persist_retry_at: float = 0.0

    def __post_init__(self) -> None:
        self._heard_at = self._progress_at = self.now

    # --- opening -----------------------------------------------------------------------------------------------

    def opened(self, *, waiting: int, losses: Losses, at: datetime) -> list[Action]:
        """The store knows of this connection. ``at`` is the store's time: what is older counts as replayed."""
        self.state, self._opened_at = State.REPLAYING, at
        actions: list[Action] = []
        if self.mode is Mode.PROTOCOL:
            self._told = losses.records
            hello = wire.hello(
                queue=self.queue,
                waiting=waiting,
                losses=losses,
                window=self.policy.window,
                heartbeat_seconds=self.policy.heartbeat_seconds,
            )
            actions.append(Transmit(hello))
        return actions + self._ask()

    # --- stored messages ---------------------------------------------------------------------------------------

    def ring(self) -> list[Action]:
        """The queue may hold something to transmit. Doubled or false alarms are harmless."""
        self._has_more = True
        return self._ask()

    def _ask(self) -> list[Action]:
        is_open = self.state in (State.REPLAYING, State.LIVE)
        if not (is_open and self._has_more and self._has_room) or self._asked or self._reading:
            return []
        self._asked = True
        return [Read()]

    def begin_read(self) -> ReadRequest | None:
        """What to ask of the store for a Read action. None: there is no room any more, or the connection is closed."""
        self._asked = False
        if self.state is State.CLOSED or not self._has_room:
            return None
        self._reading, self._has_more = True, False
        self._behind_at_read = frozenset(self._behind)
        return ReadRequest(
            self.policy.window - len(self._in_flight),
            max(1, self.policy.window_bytes - self._in_flight_bytes),
            frozenset(d.position for d in self._in_flight if d.position is not None),
        )

    def take(self, messages: Iterable[Message], *, more: bool, now: float) -> list[Action]:
        """What the store gave for the last ``begin_read``. ``more``: it may have further messages behind these."""
        self._reading = False
        if self.state is State.CLOSED:
            return []
        self._has_more = self._has_more or more
        fresh = [message for message in messages if message.id not in self._in_flight_ids]
        self._behind.difference_update(message.id for message in fresh)
        actions = self._transmit(fresh, now)
        if not more:
            self._behind -= self._behind_at_read
            if self.state is State.REPLAYING:
                actions += self._go_live()
        return actions + self._flush(now)

    def read_failed(self) -> list[Action]:
        """The store could not be read. The next ring (the poll sees to it) tries again."""
        self._reading, self._has_more = False, True
        return []

    def _go_live(self) -> list[Action]:
        self.state = State.LIVE
        return [Transmit(wire.live())] if self.mode is Mode.PROTOCOL else []

    def _transmit(self, messages: Collection[Message], now: float, *, own: bool = False) -> list[Action]:
        actions: list[Action] = []
        for chunk in chunks(messages, 1 if self.mode is Mode.RAW else FRAME_BYTES):
            first_seq = self._next_seq
            for message in chunk:
                self._track(message, now, own=own)
            actions.append(Transmit(self._frame(first_seq, chunk), self._next_seq - 1))
        return actions

    def _track(self, message: Message, now: float, *, own: bool) -> None:
        if not self._in_flight:
            self._progress_at = now
        kept, position = (message, None) if own else (None, message.position)
        size = message.payload.size
        self._in_flight.append(Delivery(self._next_seq, message.id, size, now, position, kept))
        self._in_flight_ids.add(message.id)
        self._in_flight_bytes += size
        self._next_seq += 1

    def _frame(self, first_seq: int, chunk: list[Message]) -> str | bytes:
        if self.mode is Mode.RAW:
            return wire.plain_frame(chunk[0].payload)
        return wire.messages(first_seq, ((message, self._is_replayed(message)) for message in chunk))

    def _is_replayed(self, message: Message) -> bool:
        return self._opened_at is not None and message.created_at < self._opened_at

    @property
    def _has_room(self) -> bool:
        has_bytes = self._in_flight_bytes < self.policy.window_bytes
        return len(self._in_flight) < self.policy.window and has_bytes

    # --- the consumer's own sends ------------------------------------------------------------------------------

    def send_own(self, message: Message, now: float) -> list[Action]:
        """The consumer sends ``message``. With a Persist among the actions the caller waits for it."""
        if self._may_go_directly:
            return self._transmit([message], now, own=True)
        self._held.append(Held(message, now))
        if len(self._held) <= self.policy.window and self._held_bytes <= self.policy.window_bytes:
            return []
        return self._persist(held for held in self._held)

    @property
    def _may_go_directly(self) -> bool:
        return self.state is State.LIVE and self._has_room and not self._held and not self._behind

    @property
    def _held_bytes(self) -> int:
        return sum(held.message.payload.size for held in self._held)

    def _flush(self, now: float) -> list[Action]:
        """Ask for more of the store if there is more; otherwise transmit what was held, as far as there is room."""
        actions = self._ask()
        if self.state is not State.LIVE or self._asked or self._reading or self._behind:
            return actions
        while self._held and self._has_room and not self._held[0].persisting:
            actions += self._transmit([self._held.popleft().message], now, own=True)
        return actions

    def _persist(self, owners: Iterable[Delivery | Held]) -> list[Action]:
        messages: list[Message] = []
        for owner in owners:
            message = owner.own if isinstance(owner, Delivery) else owner.message
            if message is not None and not owner.persisting:
                owner.persisting = True
                messages.append(message)
        return [Persist(tuple(messages))] if messages else []

    def persisted(self, positions: Mapping[str, int | None], now: float) -> list[Action]:
        """The store has these own sends, by id; None: it dropped the message at once, by policy, and counted that."""
        for delivery in self._in_flight:
            if delivery.id in positions:
                delivery.position, delivery.own, delivery.persisting = positions[delivery.id], None, False
        arrived = {held.message.id for held in self._held if held.message.id in positions}
        self._held = deque(held for held in self._held if held.message.id not in arrived)
        self._behind |= {id for id in arrived if positions[id] is not None}
        acked = self._acked_unstored & positions.keys()
        self._acked_unstored -= acked
        gone = tuple(position for id in acked if (position := positions[id]) is not None)
        actions: list[Action] = [Acknowledge(gone)] if gone else []
        self._has_more = self._has_more or bool(arrived)
        return actions + self._flush(now)

    def persist_failed(self, ids: Collection[str], now: float) -> list[Action]:
        """The store could not take these own sends: they stay in memory, and ``tick`` offers them again."""
        for delivery in self._in_flight:
            delivery.persisting = delivery.persisting and delivery.id not in ids
        for held in self._held:
            held.persisting = held.persisting and held.message.id not in ids
        self._acked_unstored -= set(ids)
        self._persist_retry_at = now + PERSIST_AFTER_SECONDS
        return self._flush(now)

    def withdraw(self, id: str) -> None:
        """Forget a held own send: its sender was told that it failed."""
        self._held = deque(held for held in self._held if held.message.id != id)

    # --- the client --------------------------------------------------------------------------------------------

    def receive(self, frame: ControlFrame, now: float) -> list[Action]:
        """A control frame came from the client."""
        self.heard(now)
        if self.state is State.CLOSED:
            return []
        if not isinstance(frame, Ack):
            return [Transmit(wire.pong())]
        if frame.seq >= self._next_seq:
            reason = f"netra.ack: seq {frame.seq} was not sent; the last one is {self._next_seq - 1}"
            return [Close(CloseCode.MALFORMED, reason[:120])]
        told, self._told = self._told, ()
        settled: list[Action] = [Settle(told)] if told else []
        return settled + self._release(frame.seq, now) + self._flush(now)

    def heard(self, now: float) -> None:
        """Any frame came from the client: it is alive."""
        self._heard_at = now

    def written(self, seq: int, now: float) -> list[Action]:
        """The server has taken the frame with delivery ``seq`` (raw mode counts from here)."""
        self._written_seq = max(self._written_seq, seq)
        return []

    def tell_losses(self, losses: Losses) -> list[Action]:
        """Messages of this queue were lost to policy. Told once a record, and on the next connection if unacked."""
        new = tuple(record for record in losses.records if record not in self._told)
        if self.mode is Mode.RAW or not new or self.state not in (State.REPLAYING, State.LIVE):
            return []
        self._told += new
        return [Transmit(wire.lost(losses))]

    def told(self) -> Collection[int]:
        """The loss records that this client was told of and has not acked yet."""
        return self._told

    def _release(self, seq: int, now: float) -> list[Action]:
        """Everything up to ``seq`` has been processed by the client."""
        positions: list[int] = []
        while self._in_flight and self._in_flight[0].seq <= seq:
            delivery = self._in_flight.popleft()
            self._in_flight_ids.discard(delivery.id)
            self._in_flight_bytes -= delivery.size
            self._progress_at = now
            if delivery.position is not None:
                positions.append(delivery.position)
            elif delivery.persisting:
                self._acked_unstored.add(delivery.id)
        return [Acknowledge(tuple(positions))] if positions else []

    # --- time --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Time has passed. To be called a few times a second; after the end, as long as ``has_unstored``."""
        if self.state is State.CLOSED:
            return self.rescue() if now >= self._persist_retry_at else []
        actions = self._check_client(now) if self.mode is Mode.PROTOCOL else self._release_written(now)
        if now >= self._persist_retry_at:
            overdue = now - PERSIST_AFTER_SECONDS
            actions += self._persist(owner for owner in self._unstored() if owner.at <= overdue)
        return actions + self._flush(now)

    def _check_client(self, now: float) -> list[Action]:
        if now - self._heard_at > 2 * self.policy.heartbeat_seconds:
            return [Close(CloseCode.NOT_RESPONDING, "no frame within two heartbeats")]
        if self._in_flight and now - self._progress_at > self.policy.ack_timeout_seconds:
            return [Close(CloseCode.NOT_RESPONDING, "no ack within the ack timeout")]
        return []

    def excuse(self, now: float) -> None:
        """The client could not be listened to until now (its consumer was busy): its deadlines start anew."""
        self._heard_at = self._progress_at = now

    def _release_written(self, now: float) -> list[Action]:
        """Raw mode: what was written long enough ago counts as delivered; with a full window, that is soon."""
        limit = RAW_REPLAY_SECONDS if self._has_room else RAW_SETTLE_SECONDS
        seq = 0
        for delivery in self._in_flight:
            if delivery.seq > self._written_seq or now - delivery.at < limit:
                break
            seq = delivery.seq
        return self._release(seq, now)

    def _unstored(self) -> Iterator[Delivery | Held]:
        """Own sends that only memory has and that wait: for their ack, or for room."""
        if self.mode is Mode.PROTOCOL:
            yield from (delivery for delivery in self._in_flight if delivery.own is not None)
        yield from self._held

    # --- the end -----------------------------------------------------------------------------------------------

    def close(self, code: int | None, now: float) -> list[Action]:
        """The socket is gone; ``code`` as the server reported it, None if it did not. Idempotent."""
        if self.state is State.CLOSED:
            return []
        actions: list[Action] = []
        if self.mode is Mode.RAW and code not in RAW_ABNORMAL_CODES:
            actions += self._release(self._written_seq, now)
        self.state = State.CLOSED
        return actions + self.rescue()

    @property
    def is_holding(self) -> bool:
        """Whether own sends wait for room, or for the connection to become live."""
        return bool(self._held)

    @property
    def has_unstored(self) -> bool:
        """Whether memory has own sends that the store does not have."""
        return bool(self._held) or any(delivery.own is not None for delivery in self._in_flight)

    def rescue(self) -> list[Action]:
        """A Persist of every own send that only memory has, in the order of sending."""
        return self._persist([*self._in_flight, *self._held])
