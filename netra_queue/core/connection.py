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
or in the store (``_behind``). Stored messages are transmitted in the order in which the store gives them. Own sends are
stored in the order of sending: one Persist at a time, each with the oldest that are not stored yet.

**If a step fails**: a read or a persist that failed is reported by ``read_failed`` and ``persist_failed``; both leave
the machine as if it had not been asked for yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from . import wire
from .actions import Acknowledge, Action, Close, Persist, Read, ReadRequest, Return, Settle, Transmit
from .deliveries import Delivery, Held, Window, chunks, storable
from .message import Losses, Message
from .policy import Policy
from .told import Told
from .wire import Ack, CloseCode, ControlFrame, Mode

__all__ = [
    "Acknowledge",
    "Action",
    "Close",
    "Connection",
    "Mode",
    "Persist",
    "Read",
    "ReadRequest",
    "Return",
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
    _in_flight: Window = field(init=False)
    _held: deque[Held] = field(default_factory=deque)
    _behind: int = 0  # how often held own sends have gone into the store,
    _behind_at_read: int = 0  # at the last read,
    _caught_up: int = 0  # and at the last read that found the end
    _acked_unstored: set[str] = field(default_factory=set)  # acked while the store was still taking them
    _is_persisting: bool = False
    _has_more: bool = True
    _asked: bool = False
    _reading: bool = False
    _owes_pong: bool = False
    _told: Told = field(default_factory=Told)
    _heard_at: float = 0.0
    _progress_at: float = 0.0
    _persist_retry_at: float = 0.0

    def __post_init__(self) -> None:
        self._in_flight = Window(self.policy)
        self._heard_at = self._progress_at = self.now

    # --- opening -----------------------------------------------------------------------------------------------

    def opened(self, *, waiting: int, losses: Losses, at: datetime) -> list[Action]:
        """The store knows of this connection. ``at`` is the store's time: what is older counts as replayed."""
        self.state, self._opened_at = State.REPLAYING, at
        actions: list[Action] = []
        if self.mode is Mode.PROTOCOL:
            self._told.tell(losses.records, following=0)
            hello = wire.hello(
                queue=self.queue,
                waiting=waiting,
                losses=losses,
                window=self.policy.window,
                heartbeat_seconds=self.policy.heartbeat_seconds,
            )
            actions += [Transmit(hello), *([Transmit(wire.pong())] if self._owes_pong else [])]
        return actions + self._ask()

    # --- stored messages ---------------------------------------------------------------------------------------

    def ring(self) -> list[Action]:
        """The queue may hold something to transmit. Doubled or false alarms are harmless."""
        self._has_more = True
        return self._ask()

    def _ask(self) -> list[Action]:
        is_open = self.state in (State.REPLAYING, State.LIVE)
        if not (is_open and self._has_more and self._in_flight.has_room) or self._asked or self._reading:
            return []
        self._asked = True
        return [Read()]

    def begin_read(self) -> ReadRequest | None:
        """What to ask of the store for a Read action. None: there is no room any more, or the connection is closed."""
        self._asked = False
        if self.state is State.CLOSED or not self._in_flight.has_room:
            return None
        self._reading, self._has_more = True, False
        self._behind_at_read = self._behind
        return ReadRequest(*self._in_flight.room, frozenset(self._in_flight.positions), self.policy.alone_from)

    def take(self, messages: Iterable[Message], *, more: bool, now: float) -> list[Action]:
        """What the store gave for the last ``begin_read``. ``more``: it may have further messages behind these."""
        self._reading = False
        if self.state is State.CLOSED:
            return []
        given = self._in_flight.leave_out_copies(messages, self._acked_unstored)
        fresh = self._in_flight.fitting(given)
        more = more or len(fresh) < len(given)  # own sends took their room, or the next one travels alone
        self._has_more = self._has_more or more
        actions = self._transmit(fresh, now)
        if not more:
            self._caught_up = self._behind_at_read
            if self.state is State.REPLAYING:
                self.state = State.LIVE
                actions += [Transmit(wire.live())] if self.mode is Mode.PROTOCOL else []
        return actions + self._flush(now)

    def read_failed(self) -> list[Action]:
        """The store could not be read. The next ring (the poll sees to it) tries again."""
        self._reading, self._has_more = False, True
        return []

    def _transmit(self, messages: Collection[Message], now: float, *, own: bool = False) -> list[Action]:
        actions: list[Action] = []
        for chunk in chunks(messages, 1 if self.mode is Mode.RAW else FRAME_BYTES):
            first_seq = self._next_seq
            for message in chunk:
                self._track(message, now, own=own)
            actions.append(Transmit(self._frame(first_seq, chunk, own), self._next_seq - 1))
        return actions

    def _track(self, message: Message, now: float, *, own: bool) -> None:
        if not self._in_flight:
            self._progress_at = now
        kept, positions = (message, ()) if own else (None, (message.position,))
        size = message.payload.size
        self._in_flight.add(Delivery(self._next_seq, message.id, size, now, positions, kept))
        self._next_seq += 1

    def _frame(self, first_seq: int, chunk: list[Message], own: bool) -> str | bytes:
        if self.mode is Mode.RAW:
            return wire.plain_frame(chunk[0].payload)
        return wire.messages(first_seq, ((message, not own and self._is_replayed(message)) for message in chunk))

    def _is_replayed(self, message: Message) -> bool:
        return self._opened_at is not None and message.created_at < self._opened_at

    # --- the consumer's own sends ------------------------------------------------------------------------------

    def send_own(self, message: Message, now: float) -> list[Action]:
        """The consumer sends ``message``. Its sender then waits for the store as long as ``must_wait`` says so."""
        if self._may_go_directly:
            return self._transmit([message], now, own=True)
        self._held.append(Held(message, now))
        return self.rescue() if self.state is State.CLOSED or self._is_overfull else []

    def must_wait(self, id: str) -> bool:
        """Whether the sender of this own send has to wait: for room, or until it is transmitted or stored."""
        most = -1 if self.state is State.CLOSED else self.policy.max_message_bytes
        return self._is_overfull or any(held.message.id == id and held.size > most for held in self._held)

    @property
    def _is_overfull(self) -> bool:
        if self.state is State.CLOSED:
            return False
        size = sum(held.size for held in self._held if held.size <= self.policy.max_message_bytes)
        return len(self._held) > self.policy.window or size > self.policy.window_bytes

    @property
    def _may_go_directly(self) -> bool:
        is_first = not self._held and self._behind == self._caught_up and not self._in_flight.next_is_alone
        return self.state is State.LIVE and self._in_flight.has_room and is_first

    def _flush(self, now: float) -> list[Action]:
        """Ask for more of the store if there is more; otherwise transmit what was held, as far as there is room."""
        actions = self._ask()
        if self.state is not State.LIVE or self._asked or self._reading or self._behind != self._caught_up:
            return actions
        while self._held and self._in_flight.has_room and not self._held[0].persisting:
            actions += self._transmit([self._held.popleft().message], now, own=True)
        return actions

    def _persist(self, owners: Iterable[Delivery | Held]) -> list[Action]:
        """``owners``: the first of ``_unstored``. One at a time: a second one could overtake one that fails."""
        if self._is_persisting:
            return []
        messages = [owner.begin_persist() for owner in owners]
        self._is_persisting = bool(messages)
        return [Persist(tuple(messages))] if messages else []

    def _unstored(self) -> list[Delivery | Held]:
        """The own sends that only memory has and that are for the store, in the order of sending.

        One that is too large for it waits for the client as long as that is there; then the store counts it as lost.
        """
        unstored: list[Delivery | Held] = [
            *(delivery for delivery in self._in_flight if delivery.own is not None),
            *self._held,
        ]
        return unstored if self.state is State.CLOSED else [*storable(unstored, self.policy.max_message_bytes)]

    def persisted(self, positions: Mapping[str, int | None], now: float) -> list[Action]:
        """The store has these own sends, by id; None: it dropped the message, by policy, and counted that."""
        self._is_persisting = False
        for delivery in self._in_flight:
            if delivery.id in positions:
                delivery.own, delivery.persisting = None, False
                if (position := positions[delivery.id]) is not None:
                    delivery.is_at(position)
        arrived = {held.message.id for held in self._held if held.message.id in positions}
        self._held = deque(held for held in self._held if held.message.id not in arrived)
        self._behind += any(positions[id] is not None for id in arrived)
        acked = self._acked_unstored & positions.keys()
        self._acked_unstored -= acked
        gone = tuple(position for id in acked if (position := positions[id]) is not None)
        actions: list[Action] = [Acknowledge(gone)] if gone else []
        self._has_more = self._has_more or bool(arrived)
        is_urgent = self.state is State.CLOSED or self._is_overfull
        actions += self.rescue() if is_urgent else self._persist(self._overdue(now - PERSIST_AFTER_SECONDS))
        return actions + self._flush(now)

    def persist_failed(self, now: float) -> list[Action]:
        """The store could not take the own sends of the last Persist: they stay, and ``tick`` offers them again."""
        for owner in [*self._in_flight, *self._held]:
            owner.persisting = False
        self._is_persisting = False
        self._acked_unstored.clear()
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
            self._owes_pong = self.state is State.OPENING  # the hello is the first frame
            return [] if self._owes_pong else [Transmit(wire.pong())]
        if frame.seq >= self._next_seq:
            reason = f"netra.ack: seq {frame.seq} was not sent; the last one is {self._next_seq - 1}"
            return [Close(CloseCode.MALFORMED, reason[:120])]
        return self._settle(frame.seq) + self._release(frame.seq, now) + self._flush(now)

    def _settle(self, seq: int) -> list[Action]:
        heard = self._told.acked(seq)
        return [Settle(heard)] if heard else []

    def heard(self, now: float) -> None:
        """Any frame came from the client: it is alive."""
        self._heard_at = now

    def written(self, seq: int, now: float) -> list[Action]:
        """The server has taken the frame with delivery ``seq`` (raw mode counts from here)."""
        self._written_seq = max(self._written_seq, seq)
        return []

    def tell_losses(self, losses: Losses) -> list[Action]:
        """Messages of this queue were lost to policy. Told once a record, and on the next connection if unacked."""
        new = tuple(record for record in losses.records if record not in self._told.records())
        if self.mode is Mode.RAW or not new or self.state not in (State.REPLAYING, State.LIVE):
            return []
        self._told.tell(new, following=self._next_seq)
        return [Transmit(wire.lost(losses))]

    def told(self) -> Collection[int]:
        """The loss records that this client was told of and has not acked yet."""
        return self._told.records()

    def _release(self, seq: int, now: float) -> list[Action]:
        """Everything up to ``seq`` has been processed by the client."""
        positions: list[int] = []
        for delivery in self._in_flight.release(seq):
            self._progress_at = now
            positions += delivery.positions
            if delivery.persisting:
                self._acked_unstored.add(delivery.id)
        return [Acknowledge(tuple(positions))] if positions else []

    # --- time --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Action]:
        """Time has passed. To be called a few times a second; after the end, as long as ``has_unstored``."""
        if self.state is State.CLOSED:
            return self.rescue() if now >= self._persist_retry_at else []
        actions = self._check_client(now) if self.mode is Mode.PROTOCOL else self._release_written(now)
        if now >= self._persist_retry_at:
            actions += self._persist(self._overdue(now - PERSIST_AFTER_SECONDS))
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
        limit = RAW_REPLAY_SECONDS if self._in_flight.has_room else RAW_SETTLE_SECONDS
        seq = 0
        for delivery in self._in_flight:
            if delivery.seq > self._written_seq or now - delivery.at < limit:
                break
            seq = delivery.seq
        return self._release(seq, now)

    def _overdue(self, since: float) -> list[Delivery | Held]:
        """The own sends up to the last one that has waited since then: for its ack, which raw clients do not send, or
        for room."""
        unstored, acks = self._unstored(), self.mode is Mode.PROTOCOL
        late = [n for n, owner in enumerate(unstored, 1) if owner.at <= since and (acks or isinstance(owner, Held))]
        return unstored[: late[-1]] if late else []

    # --- the end -----------------------------------------------------------------------------------------------

    def close(self, code: int | None, now: float) -> list[Action]:
        """The socket is gone, or is being closed by us. Idempotent.

        ``code``: what the client closed with, as the server reported it. None if nobody knows that the client has read
        to the end.
        """
        if self.state is State.CLOSED:
            return []
        actions: list[Action] = []
        if self.mode is Mode.RAW and code not in RAW_ABNORMAL_CODES:
            actions += self._release(self._written_seq, now)
        self.state = State.CLOSED
        if positions := self._in_flight.positions:
            actions.append(Return(positions, self._in_flight.is_alone))
        return actions + self.rescue()

    @property
    def is_holding(self) -> bool:
        """Whether own sends wait for room, or for the connection to become live."""
        return bool(self._held)

    @property
    def has_unstored(self) -> bool:
        """Whether memory has own sends that the store does not have."""
        return bool(self._unstored())

    def rescue(self) -> list[Action]:
        """A Persist of every own send that only memory has, in the order of sending."""
        return self._persist(self._unstored())
