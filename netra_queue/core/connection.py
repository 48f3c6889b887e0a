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

**Without the store** (``opened_alone``), or with a ``standing`` that keeps nothing, own sends and what is given are
transmitted all the same. The store is read as soon as it knows of the connection (``attached``).

**If a step fails**: a read or a persist that failed is reported by ``read_failed`` and ``persist_failed``; both leave
the machine as if it had not been asked for yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from . import wire
from .actions import Acknowledge, Action, Close, Persist, Read, ReadRequest, Return, Settle, Transmit
from .deliveries import Backlog, Delivery, Held, Window, chunks, overdue, storable, unstored
from .liveness import Liveness
from .message import Losses, Message
from .numbering import Numbering
from .policy import Policy
from .rollout import Standing
from .states import State
from .told import Told
from .wire import RAW_ABNORMAL_CODES, Ack, CloseCode, ControlFrame, Mode

PERSIST_AFTER_SECONDS = 1.0
RAW_REPLAY_SECONDS = 60.0  # longer than Daphne's and Uvicorn's pings need to notice a dead peer
RAW_SETTLE_SECONDS = 0.25  # with a full window: how long a written frame is kept at the least
FRAME_BYTES = 262_144


@dataclass(slots=True)
class Connection:
    """One accepted WebSocket of one queue. Memory is bounded by the policy's window."""

    queue: str
    policy: Policy
    mode: Mode
    now: float
    standing: Standing = Standing.DURABLE
    state: State = State.OPENING
    is_attached: bool = False  # the store knows of this connection
    _out: Numbering = field(init=False)
    _written_seq: int = 0
    _in_flight: Window = field(init=False)
    _held: Backlog = field(init=False)
    _behind: int = 0  # how often held own sends have gone into the store,
    _behind_at_read: int = 0  # at the last read,
    _caught_up: int = 0  # and at the last read that found the end
    _acked_unstored: frozenset[str] = frozenset()  # acked while the store was still taking them
    _is_persisting: bool = False
    _has_more: bool = True
    _asked: bool = False
    _reading: bool = False
    _owes_pong: bool = False
    is_paused: bool = False
    _paused_until: float | None = None
    _told: Told = field(default_factory=Told)
    _client: Liveness = field(init=False)
    _persist_retry_at: float = 0.0

    def __post_init__(self) -> None:
        self._in_flight, self._held = Window(self.policy), Backlog(self.policy)
        self._client, self._out = Liveness(self.now, self.now), Numbering(self.mode)

    def opened(self, *, waiting: int, losses: Losses, at: datetime) -> list[Action]:
        """The store knows of this connection. ``at`` is the store's time: what is older counts as replayed."""
        self.state, self._out.opened_at, self.is_attached = State.REPLAYING, at, True
        is_shadow = self.standing is Standing.SHADOW
        return (self._greet(0, Losses()) if is_shadow else self._greet(waiting, losses)) + self._ask()

    def opened_alone(self, now: float) -> list[Action]:
        """The connection is served without the store."""
        self._has_more = False
        return self._greet(0, Losses()) + self._become_live() + self._flush(now)

    def attached(self, at: datetime) -> list[Action]:
        """The store knows of this connection now, which was opened alone."""
        self._out.opened_at, self.is_attached = at, True
        return self.ring()

    def _greet(self, waiting: int, losses: Losses) -> list[Action]:
        if self.mode is Mode.RAW:
            return []
        self._told.tell(losses.records, following=0)
        hello = wire.hello(queue=self.queue, waiting=waiting, losses=losses, policy=self.policy)
        return [Transmit(hello), *([Transmit(wire.pong())] if self._owes_pong else [])]

    def adopt(self, policy: Policy, standing: Standing) -> list[Action]:
        """The heartbeat stays what the client was told, and own sends in flight that were to be kept still are."""
        self.standing, stopped = standing, []
        if standing is Standing.OFF and self.is_open:  # nothing is read that own sends would have to wait for
            self._caught_up, self.is_paused = self._behind, False
            stopped = self._become_live()
        told = policy if self.state is State.OPENING else self.policy
        self.policy = self._in_flight.policy = replace(policy, heartbeat_seconds=told.heartbeat_seconds)
        self._held.adopt(self.policy)
        return stopped + self._ask()

    def _become_live(self) -> list[Action]:
        was, self.state = self.state, State.LIVE
        return [Transmit(wire.live())] if self.mode is Mode.PROTOCOL and was is not State.LIVE else []

    # --- stored messages ---------------------------------------------------------------------------------------

    def ring(self) -> list[Action]:
        """The queue may hold something to transmit. Doubled or false alarms are harmless."""
        self._has_more = True
        return self._ask()

    @property
    def reads(self) -> bool:
        """Whether the store is read for this connection."""
        return self.is_open and self.is_attached and self.standing is not Standing.OFF

    @property
    def is_open(self) -> bool:
        return self.state in (State.REPLAYING, State.LIVE)

    def _ask(self) -> list[Action]:
        if not (self.reads and self._has_more and self._in_flight.has_room) or self._asked or self._reading:
            return []
        self._asked = True
        return [Read()]

    def begin_read(self) -> ReadRequest | None:
        """What to ask of the store for a Read action. None: there is no room any more, or nothing is read any more."""
        self._asked = False
        if not self.reads or not self._in_flight.has_room:
            return None
        self._reading, self._has_more = True, False
        self._behind_at_read = self._behind
        return ReadRequest(*self._in_flight.room, frozenset(self._in_flight.positions), self.policy.alone_from)

    def take(self, messages: Iterable[Message], *, more: bool, now: float) -> list[Action]:
        """What the store gave for the last ``begin_read``. ``more``: it may have further messages behind these."""
        self._reading = self.is_paused = False
        if self.state is State.CLOSED:
            return []
        given = self._in_flight.leave_out_copies(messages, self._acked_unstored)
        fresh = self._in_flight.fitting(given)
        more = more or len(fresh) < len(given)  # own sends took their room, or the next one travels alone
        self._has_more = self._has_more or more
        actions = self._transmit(fresh, now)
        if not more:
            self._caught_up = max(self._caught_up, self._behind_at_read)
            if self.state is State.REPLAYING:
                self._in_flight.account.live_seconds = now - self.now
                actions += self._become_live()
        return actions + self._flush(now)

    def pause(self, until: float | None) -> list[Action]:
        """The last ``begin_read`` found that an operator has paused the queue: until a read is answered by ``take``,
        nothing goes out, and what the consumer sends is held. It asks again when it is rung, and at ``until``."""
        self._reading, self.is_paused, self._paused_until = False, True, until
        return self._ask()

    def read_failed(self) -> list[Action]:
        """The store could not be read. The next ring (the poll sees to it) tries again."""
        self._reading, self._has_more = False, True
        return []

    def _transmit(self, messages: Collection[Message], now: float, *, own: bool = False) -> list[Action]:
        actions: list[Action] = []
        for chunk in chunks(messages, 1 if self.mode is Mode.RAW else FRAME_BYTES):
            for seq, message in enumerate(chunk, self._out.next_seq):
                self._track(seq, message, now, own=own)
            actions.append(self._out.transmit(chunk, own=own))
        return actions

    def _track(self, seq: int, message: Message, now: float, *, own: bool) -> None:
        if not self._in_flight:
            self._client.progress_at = now
        kept, positions = (message if self.standing.keeps else None, ()) if own else (None, (message.position,))
        size = message.payload.size
        self._in_flight.add(Delivery(seq, message.id, size, now, positions, kept), message)

    def give(self, message: Message, now: float) -> list[Action]:
        """Transmit what nobody keeps, also if the client acks nothing: the host bounds what waits to be written."""
        if not self.is_open or self.is_paused:
            if self.state is not State.CLOSED and not self._held.is_overfull:
                self._held.add(message, now)
            return []
        return [self._out.transmit([message], own=True)]

    # --- the consumer's own sends ------------------------------------------------------------------------------

    def send_own(self, message: Message, now: float) -> list[Action]:
        """The consumer sends ``message``. Its sender then waits for the store as long as ``must_wait`` says so."""
        if self._may_go_directly:
            return self._transmit([message], now, own=True)
        if self.state is State.CLOSED and not self.standing.keeps:
            return []
        self._held.add(message, now)
        return self.rescue() if self._is_urgent(now) else []

    def must_wait(self, id: str) -> bool:
        """Whether the sender of this own send has to wait: for room, or until it is transmitted or stored."""
        if self.state is State.CLOSED:
            return self._held.has_above(-1, id)
        return self._held.is_overfull or self._held.has_above(self.policy.max_message_bytes, id)

    def _is_urgent(self, now: float) -> bool:
        """Whether what is held has to go to the store. Room in memory may be an ack away: that is waited for."""
        is_direct = self.state is State.LIVE and self._behind == self._caught_up and self.mode is Mode.PROTOCOL
        is_moving = is_direct and not self.is_paused and now - self._client.progress_at < PERSIST_AFTER_SECONDS
        return self.state is State.CLOSED or (self._held.is_overfull and not is_moving)

    @property
    def _may_go_directly(self) -> bool:
        is_first = not self._held and self._behind == self._caught_up and not self._in_flight.next_is_alone
        return self.state is State.LIVE and self._in_flight.has_room and is_first and not self.is_paused

    def _flush(self, now: float) -> list[Action]:
        """Ask for more of the store if there is more; otherwise transmit what was held, as far as there is room."""
        actions = self._ask()
        is_behind = self._asked or self._reading or self._behind != self._caught_up
        if self.state is not State.LIVE or is_behind or self.is_paused:
            return actions
        return actions + self._transmit(self._held.take(*self._in_flight.room), now, own=True)

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
        own = unstored(self._in_flight, self._held if self.standing.keeps else ())
        return own if self.state is State.CLOSED else [*storable(own, self.policy.max_message_bytes)]

    def persisted(self, positions: Mapping[str, int | None], now: float) -> list[Action]:
        """The store has these own sends, by id; None: it dropped the message, by policy, and counted that."""
        self._is_persisting = False
        for delivery in self._in_flight:
            if delivery.id in positions:
                delivery.own, delivery.persisting = None, False
                if (position := positions[delivery.id]) is not None:
                    delivery.is_at(position)
        arrived = {held.message.id for held in self._held if held.message.id in positions}
        for id in arrived:
            self._held.remove(id)
        self._behind += any(positions[id] is not None for id in arrived)
        acked = self._acked_unstored & positions.keys()
        self._acked_unstored -= acked
        gone = tuple(position for id in acked if (position := positions[id]) is not None)
        actions: list[Action] = [Acknowledge(gone)] if gone else []
        self._has_more = self._has_more or bool(arrived)
        return actions + self._persist_in_time(now) + self._flush(now)

    def _persist_in_time(self, now: float) -> list[Action]:
        late = overdue(self._unstored(), now - PERSIST_AFTER_SECONDS, acks=self.mode is Mode.PROTOCOL)
        return self.rescue() if self._is_urgent(now) else self._persist(late)

    def persist_failed(self, now: float) -> list[Action]:
        """The store could not take the own sends of the last Persist: they stay, and ``tick`` offers them again."""
        for owner in [*self._in_flight, *self._held]:
            owner.persisting = False
        self._is_persisting = False
        self._acked_unstored = frozenset()
        self._persist_retry_at = now + PERSIST_AFTER_SECONDS
        return self._flush(now)

    def withdraw(self, id: str) -> None:
        """Forget a held own send: its sender was told that it failed."""
        self._held.remove(id)

    # --- the client --------------------------------------------------------------------------------------------

    def receive(self, frame: ControlFrame, now: float) -> list[Action]:
        """A control frame came from the client."""
        self.heard(now)
        if self.state is State.CLOSED:
            return []
        if not isinstance(frame, Ack):
            self._owes_pong = self.state is State.OPENING  # the hello is the first frame
            return [] if self._owes_pong else [Transmit(wire.pong())]
        if frame.seq >= self._out.next_seq:
            reason = f"netra.ack: seq {frame.seq} was not sent; the last one is {self._out.next_seq - 1}"
            return [Close(CloseCode.MALFORMED, reason[:120])]
        settled: list[Action] = [Settle(heard)] if (heard := self._told.acked(frame.seq)) else []
        return settled + self._release(frame.seq, now) + self._flush(now)

    def heard(self, now: float) -> None:
        """Any frame came from the client: it is alive."""
        self._client.heard_at = now

    def written(self, seq: int, now: float) -> list[Action]:
        """The server has taken the frame with delivery ``seq`` (raw mode counts from here)."""
        self._written_seq = max(self._written_seq, seq)
        return []

    def tell_losses(self, losses: Losses) -> list[Action]:
        """This queue has losses. Told once a record, and on the next connection if unacked."""
        is_untold = self.mode is Mode.RAW or self.standing is Standing.SHADOW
        if is_untold or not self.is_open or not self._told.tell_new(losses.records, following=self._out.next_seq):
            return []
        return [Transmit(wire.lost(losses))]

    def told(self) -> Collection[int]:
        """The loss records that this client was told of and has not acked yet."""
        return self._told.records()

    def _release(self, seq: int, now: float) -> list[Action]:
        """Everything up to ``seq`` has been processed by the client."""
        positions: list[int] = []
        for delivery in self._in_flight.release(seq, now):
            self._client.progress_at = now
            positions += delivery.positions
            if delivery.persisting:
                self._acked_unstored |= {delivery.id}
        return [Acknowledge(tuple(positions))] if positions else []

    def tick(self, now: float) -> list[Action]:
        """Time has passed. To be called a few times a second; after the end, as long as ``has_unstored``."""
        if self.state is State.CLOSED:
            return self.rescue() if now >= self._persist_retry_at else []
        actions = self._check_client(now) if self.mode is Mode.PROTOCOL else self._release_written(now)
        if now >= self._persist_retry_at:
            actions += self._persist_in_time(now)
        if self._paused_until is not None and now >= self._paused_until:
            self._paused_until, self._has_more = None, True
        return actions + self._flush(now)

    def _check_client(self, now: float) -> list[Action]:
        silence = self._client.silence(self.policy, now, owes_acks=bool(self._in_flight))
        return [Close(CloseCode.NOT_RESPONDING, silence)] if silence else []

    def excuse(self, now: float) -> None:
        """The client could not be listened to until now (its consumer was busy): its deadlines start anew."""
        self._client = Liveness(now, now)

    def _release_written(self, now: float) -> list[Action]:
        """Raw mode: what was written long enough ago counts as delivered; with a full window, that is soon."""
        limit = RAW_REPLAY_SECONDS if self._in_flight.has_room else RAW_SETTLE_SECONDS
        return self._release(self._in_flight.last_before(self._written_seq, now - limit), now)

    # --- the end -----------------------------------------------------------------------------------------------

    def close(self, code: int | None, now: float) -> list[Action]:
        """The socket is gone, or is being closed by us. Idempotent.

        ``code``: the client's, as the server reported it. None if nobody knows that the client has read to the end.
        """
        if self.state is State.CLOSED:
            return []
        actions: list[Action] = []
        if self.mode is Mode.RAW and code not in RAW_ABNORMAL_CODES:
            actions += self._release(self._written_seq, now)
        self.state = State.CLOSED
        if not self.standing.keeps:
            self._held = Backlog(self.policy)
        if positions := self._in_flight.positions:
            actions.append(Return(positions, self._in_flight.is_alone))
        return actions + self.rescue()

    @property
    def held(self) -> int:
        """How many own sends wait for room, or for the connection to become live."""
        return len(self._held)

    @property
    def window(self) -> Window:
        """What is in flight, for statistics."""
        return self._in_flight

    @property
    def has_unstored(self) -> bool:
        """Whether memory has own sends that the store does not have."""
        return bool(self._unstored())

    def rescue(self) -> list[Action]:
        """A Persist of every own send that only memory has, in the order of sending."""
        return self._persist(self._unstored())
