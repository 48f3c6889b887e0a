"""What lives outside the store: sockets with their clients, and the processes that hold them and may die with them."""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from netra_queue.acks import Acks
from netra_queue.core.actions import Acknowledge, Action, Close, Persist, Read, ReadRequest, Return, Settle, Transmit
from netra_queue.core.connection import Connection
from netra_queue.core.message import Message
from netra_queue.core.wire import Ack
from netra_queue.link import Link
from netra_queue.stores.base import Batch, Presence, Returned, Server
from tests.core.interleavings.ledger import Ledger

NOBODY: frozenset[int] = frozenset()


async def _write_nothing(frame: str | bytes) -> None: ...


@dataclass(eq=False, slots=True)
class Socket:
    """One connection, its host's work in hand, and its client."""

    connection: Connection
    presence: Presence
    wire: deque[tuple[str, frozenset[int]]] = field(default_factory=deque)  # frames, with the losses they tell of
    wants_read: bool = False
    request: ReadRequest | None = None
    batch: Batch | None = None
    persists: deque[tuple[Message, ...]] = field(default_factory=deque)
    waits_for: str | None = None  # the own send whose sender waits for a persist
    is_open: bool = True
    is_cut: bool = False  # its client is gone, and the server does not know
    own: list[str] = field(default_factory=list)
    # the client:
    received_seq: int = 0
    acked_seq: int = 0
    received: list[str] = field(default_factory=list)
    in_frames: dict[int, str] = field(default_factory=dict)  # what the client has, by delivery
    heard: set[int] = field(default_factory=set)  # records of losses
    owes_ack: bool = False  # for what it has heard of losses
    acks: deque[int] = field(default_factory=deque)  # on their way to the server

    @property
    def line(self) -> str:
        return self.connection.queue

    @property
    def has_client(self) -> bool:
        return self.is_open and not self.is_cut

    @property
    def may_ack(self) -> bool:
        return self.has_client and (self.received_seq > self.acked_seq or self.owes_ack)

    @property
    def link(self) -> Link:
        """For what it makes of own sends on their way to the store."""
        return Link(
            self.connection,
            self.presence,
            write=_write_nothing,
            timeout_seconds=1,
            on_end=lambda code, reason: None,
            on_broken=lambda: None,
        )

    def cut(self) -> None:
        self.is_cut = True
        self.wire.clear()
        self.acks.clear()

    def receive(self, ledger: Ledger) -> None:
        """The client gets the next frame."""
        text, records = self.wire.popleft()
        frame = json.loads(text)
        self.heard |= records
        self.owes_ack = self.owes_ack or bool(records)
        if frame["type"] != "netra.messages":
            return
        assert frame["seq"] == self.received_seq + 1, "deliveries are numbered without a gap"
        for seq, message in enumerate(frame["messages"], frame["seq"]):
            assert json.dumps(message["data"], separators=(",", ":")) == ledger.sent[message["id"]].text
            assert message["id"] not in self.received or message["id"] in ledger.may_be_repeated
            self.in_frames[seq] = message["id"]
            self.received.append(message["id"])
            self.received_seq = seq
        assert self.received_seq - self.acked_seq <= ledger.policy.window
        self._check_order(ledger)

    def _check_order(self, ledger: Ledger) -> None:
        """What this consumer sent itself arrives in its order; what others sent in theirs, within a priority."""
        firsts = [(id, ledger.sent[id]) for id in dict.fromkeys(self.received)]
        own = set(self.own)
        mine = [sent.order for id, sent in firsts if id in own]
        assert mine == sorted(mine)
        theirs = [(sent.priority, sent.order) for id, sent in firsts if id in ledger.by_others]
        for priority in {priority for priority, _ in theirs}:
            orders = [order for of, order in theirs if of is priority]
            assert orders == sorted(orders), "one sender's messages of one priority overtake each other"

    def processed(self, seq: int) -> set[str]:
        return {id for of, id in self.in_frames.items() if of <= seq}

    def acknowledge(self, seq: int) -> None:
        self.acks.append(seq)
        self.acked_seq = max(seq, self.acked_seq)
        self.owes_ack = False


@dataclass(eq=False, slots=True)
class Process:
    """A server process: all of this is gone when it is killed."""

    ledger: Ledger
    server: Server = field(default_factory=lambda: Server(id=uuid.uuid4().hex, host="here", pid=1))
    sockets: list[Socket] = field(default_factory=list)
    bells: list[str] = field(default_factory=list)  # on their way to it
    acks: Acks = field(default_factory=Acks)
    acked: set[int] = field(default_factory=set)  # and the store has not been told of it
    returns: list[Returned] = field(default_factory=list)
    settles: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    detached: list[Presence] = field(default_factory=list)
    is_known: bool = False
    shall_attach_again: bool = False
    shall_poll: bool = False

    def attached(self) -> list[Socket]:
        return [socket for socket in self.sockets if socket.is_open]

    def beat(self) -> None:
        """As the hub does: a server that the store took for dead attaches its connections again."""
        if not self.is_known:
            return
        self.shall_attach_again |= not self.ledger.heartbeat(self.server)

    def ring(self, lines: Collection[str], now: float) -> None:
        for socket in self.attached():
            if socket.line in lines:
                self.carry_out(socket, socket.connection.ring(), now)

    def poll(self, now: float) -> None:
        self.shall_poll = False
        lines = sorted({socket.line for socket in self.attached()})
        told = {record for _, records in self.settles for record in records}
        told = told.union(*(socket.connection.told() for socket in self.sockets))
        self.ledger.take_over(lines)
        losses = self.ledger.losses(lines, told)
        self.ring(self.ledger.waiting(lines), now)
        for socket in self.attached():
            if (lost := losses.get(socket.line)) is not None:
                actions = socket.connection.tell_losses(lost)
                self.carry_out(socket, actions, now, frozenset(lost.records))

    def begin_read(self, socket: Socket) -> None:
        socket.wants_read = False
        request = socket.connection.begin_read()
        if request is not None:
            gone = self.acks.of(socket.line)
            socket.request = request._replace(excluded=request.excluded | gone)
            mine = {
                p for p in self.acked & self.ledger.sight.rows.keys() if self.ledger.sight.rows[p].line == socket.line
            }
            assert mine <= socket.request.excluded, "what was acked is not delivered again while the ack is under way"
            in_flight = set(socket.connection._in_flight.positions)
            assert in_flight <= socket.request.excluded, "what is in flight is not read again"

    def read(self, socket: Socket) -> None:
        request, socket.request = socket.request, None
        assert request is not None
        socket.batch = self.ledger.read(socket.line, request)

    def take(self, socket: Socket, now: float, *, fails: bool = False) -> None:
        batch, socket.batch = socket.batch, None
        assert batch is not None
        if fails:
            self.carry_out(socket, socket.connection.read_failed(), now)
        else:
            self.carry_out(socket, socket.connection.take(batch.messages, more=batch.more, now=now), now)

    def hear(self, socket: Socket, now: float) -> None:
        """The next ack of the client's has arrived."""
        seq = socket.acks.popleft()
        self.carry_out(socket, socket.connection.receive(Ack(seq), now), now)

    def release(self, socket: Socket, code: int | None, now: float) -> None:
        socket.is_open = False
        socket.wire.clear()
        self.carry_out(socket, socket.connection.close(code, now), now)
        assert socket.connection.close(code, now) == []
        self.detached.append(socket.presence)

    # --- writes that may fail -------------------------------------------------------------------------------------

    @property
    def has_writes(self) -> bool:
        return bool(self.acks.unwritten() or self.returns or self.settles or self.detached)

    def write(self, *, fails: bool = False, happens: bool = True) -> None:
        """Acks, returns, settled losses, connections that are gone. What failed may have happened all the same."""
        acks = self.acks.take()
        if happens or not fails:
            self.ledger.ack(acks)
            self.ledger.returned(self.returns)
            for line, records in self.settles:
                self.ledger.settle(line, records)
            self.ledger.detach(self.detached)
        self.acks.put_back(acks if fails else {})
        if not fails:
            self.returns, self.detached, self.acked = [], [], set()
        self.settles = []  # not repeated: the client is told once more

    def append(self, socket: Socket, messages: Sequence[Message]) -> dict[str, int | None]:
        link = socket.link
        answers = self.ledger.append(link.drafts(messages), link.policies[socket.line])
        return {answer.id: answer.position for answer in answers}

    def persist(self, socket: Socket, now: float) -> None:
        positions = self.append(socket, socket.persists.popleft())
        self.carry_out(socket, socket.connection.persisted(positions, now), now)
        if socket.waits_for is not None and not socket.connection.must_wait(socket.waits_for):
            socket.waits_for = None

    # --- what connections decide ----------------------------------------------------------------------------------

    def carry_out(
        self, socket: Socket, actions: Iterable[Action], now: float, records: frozenset[int] = NOBODY
    ) -> None:
        """``records``: the losses that these actions tell of."""
        for action in actions:
            match action:
                case Transmit(frame):
                    assert isinstance(frame, str)
                    assert socket.is_open, "nothing is written to a closed socket"
                    tells = frame.startswith(('{"type":"netra.hello"', '{"type":"netra.lost"'))
                    if not socket.is_cut:
                        socket.wire.append((frame, records if tells else NOBODY))
                case Read():
                    assert not any((socket.wants_read, socket.request, socket.batch)), "one read at a time"
                    socket.wants_read = True
                case Acknowledge(positions):
                    processed = {self.ledger.ids[position] for position in positions}
                    assert processed <= socket.processed(socket.acked_seq), "only what this client has acked"
                    self.acks.add(socket.line, positions)
                    self.acked |= set(positions)
                case Return(positions, is_alone):
                    assert not socket.is_open
                    self.returns.append(Returned(socket.line, positions, is_alone, self.ledger.policy))
                case Persist(messages):
                    assert len({message.id for message in messages}) == len(messages)
                    socket.persists.append(messages)
                    assert len(socket.persists) == 1, "a second one could overtake one that fails"
                case Settle(settled):
                    assert set(settled) <= socket.heard, "only losses that the client has heard of"
                    self.settles.append((socket.line, settled))
                case Close(code, reason):
                    raise AssertionError(f"closed with {code}: {reason}")
