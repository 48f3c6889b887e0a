"""Connections and a store under arbitrary interleavings: nothing is lost that is not counted (invariants 1, 4, 6).

The machine plays the sender, the consumer, the host that carries out a connection's actions, and the client. Every
step that can come late in life (a read's answer, a frame's arrival, an append's commit) is a rule of its own.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from netra_queue import models
from netra_queue.core.connection import (
    Acknowledge,
    Action,
    Close,
    Connection,
    Mode,
    Persist,
    Read,
    Return,
    Settle,
    Transmit,
)
from netra_queue.core.message import Message, Outcome, Priority
from netra_queue.core.policy import Policy
from netra_queue.core.wire import Ack
from netra_queue.stores.base import Batch, Presence, Returned
from tests.making import (
    AdvancingDatabaseStore,
    AdvancingMemoryStore,
    AdvancingStore,
    make_draft,
    make_message,
    make_policy,
    make_presence,
    put,
)

QUEUE = "user.1"
WINDOW = 3
EXAMPLES, DATABASE_EXAMPLES, STEPS = 300, 20, 60
INDEX = st.integers(0, 9)
TABLES = (models.Message, models.Loss, models.DeadLetter, models.LiveConnection, models.Queue)


@dataclass(slots=True)
class Socket:
    """One connection, its host's work in hand, and its client."""

    connection: Connection
    presence: Presence
    wire: deque[str] = field(default_factory=deque)
    reads: int = 0
    batch: Batch | None = None
    persists: deque[tuple[Message, ...]] = field(default_factory=deque)
    waits_for: str | None = None  # the own send whose sender waits for a persist
    is_open: bool = True
    received_seq: int = 0
    received: list[str] = field(default_factory=list)
    in_frames: dict[int, str] = field(default_factory=dict)  # what the client has, by delivery
    own: list[str] = field(default_factory=list)


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = self.make_store()
        self.now = 0.0
        self.policy: Policy = make_policy()
        self.sockets: list[Socket] = []
        self.accepted: dict[str, Priority] = {}
        self.order: dict[str, int] = {}
        self.processed: set[str] = set()  # acked by a client, and the server took the ack
        self.refused: set[str] = set()
        self.settled = 0
        self.is_doubled = False  # an append was made again whose first commit nobody heard of

    def make_store(self) -> AdvancingStore:
        return AdvancingMemoryStore()

    @initialize(is_tight=st.booleans())
    def choose_limits(self, is_tight: bool) -> None:
        """Without tight limits nothing may be lost at all; with them, what is lost is counted."""
        self.is_tight = is_tight
        self.policy = make_policy(
            window=WINDOW,
            window_bytes=60,
            max_messages=6 if is_tight else 100_000,
            max_deliveries=2 if is_tight else 1000,
            heartbeat_seconds=1e9,
            ack_timeout_seconds=1e9,
        )

    # --- the sender and upkeep ---------------------------------------------------------------------------------

    @rule(priority=st.sampled_from(Priority), is_short=st.booleans(), rings=st.booleans())
    def send(self, priority: Priority, is_short: bool, rings: bool) -> None:
        draft = make_draft(QUEUE, priority=priority, ttl=3 if is_short and self.is_tight else 1e6)
        self.accept(draft.id, priority)
        put(self.store, draft, policy=self.policy)
        for socket in self.sockets if rings else ():
            self.carry_out(socket, socket.connection.ring())

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.store.advance(seconds)
        for socket in self.sockets:
            self.carry_out(socket, socket.connection.tick(self.now))

    @rule(limit=st.integers(1, 3))
    def sweep(self, limit: int) -> None:
        self.store.sweep(limit)

    # --- the host ----------------------------------------------------------------------------------------------

    def open_sockets(self) -> list[Socket]:
        return [socket for socket in self.sockets if socket.is_open]

    @precondition(lambda self: len(self.open_sockets()) < 2)
    @rule()
    def connect(self) -> None:
        presence = make_presence(QUEUE)
        socket = Socket(Connection(QUEUE, self.policy, Mode.PROTOCOL, self.now), presence)
        opened = self.store.attach(presence, self.policy)
        self.sockets.append(socket)
        self.carry_out(socket, socket.connection.opened(waiting=opened.waiting, losses=opened.losses, at=opened.at))

    @precondition(lambda self: any(s.reads and s.batch is None for s in self.sockets))
    @rule(index=INDEX)
    def read(self, index: int) -> None:
        socket = self.pick(index, (s for s in self.sockets if s.reads and s.batch is None))
        socket.reads -= 1
        request = socket.connection.begin_read()
        if request is not None:
            (socket.batch,) = self.store.read([(QUEUE, request)])

    @precondition(lambda self: any(s.batch for s in self.sockets))
    @rule(index=INDEX, fails=st.sampled_from([False, False, False, True]))
    def finish_read(self, index: int, fails: bool) -> None:
        socket = self.pick(index, (s for s in self.sockets if s.batch))
        batch, socket.batch = socket.batch, None
        assert batch is not None
        if fails:
            self.carry_out(socket, socket.connection.read_failed())
        else:
            self.carry_out(socket, socket.connection.take(batch.messages, more=batch.more, now=self.now))

    @precondition(lambda self: bool(self.open_sockets()))
    @rule(index=INDEX)
    def ring(self, index: int) -> None:
        socket = self.pick(index, self.open_sockets())
        self.carry_out(socket, socket.connection.ring())

    @precondition(lambda self: any(s.waits_for is None for s in self.sockets))
    @rule(index=INDEX)
    def send_own(self, index: int) -> None:
        """Also from a task of the consumer's that has outlived the socket."""
        socket = self.pick(index, (s for s in self.sockets if s.waits_for is None))
        message = make_message()
        self.accept(message.id, message.priority)
        socket.own.append(message.id)
        actions = socket.connection.send_own(message, self.now)
        if socket.connection.must_wait(message.id):
            socket.waits_for = message.id
        self.carry_out(socket, actions)

    @precondition(lambda self: any(s.persists for s in self.sockets))
    @rule(index=INDEX)
    def persist(self, index: int) -> None:
        socket = self.pick(index, (s for s in self.sockets if s.persists))
        positions = self.append(socket.persists.popleft())
        self.carry_out(socket, socket.connection.persisted(positions, self.now))
        if socket.waits_for is not None and not socket.connection.must_wait(socket.waits_for):
            socket.waits_for = None

    @precondition(lambda self: any(s.persists for s in self.sockets))
    @rule(index=INDEX, commits=st.booleans())
    def persist_fails(self, index: int, commits: bool) -> None:
        """The append raises; perhaps it was committed all the same, and only the answer was lost."""
        socket = self.pick(index, (s for s in self.sockets if s.persists))
        messages = socket.persists.popleft()
        if commits:
            self.append(messages)
            self.is_doubled = True
        if socket.waits_for is not None:
            socket.connection.withdraw(socket.waits_for)
            self.refused.add(socket.waits_for)
            socket.waits_for = None
        self.carry_out(socket, socket.connection.persist_failed(self.now))
        if not socket.is_open:
            self.carry_out(socket, socket.connection.rescue())

    # --- the client --------------------------------------------------------------------------------------------

    @precondition(lambda self: any(s.wire for s in self.open_sockets()))
    @rule(index=INDEX)
    def deliver(self, index: int) -> None:
        socket = self.pick(index, (s for s in self.open_sockets() if s.wire))
        frame = json.loads(socket.wire.popleft())
        if frame["type"] != "netra.messages":
            return
        assert frame["seq"] == socket.received_seq + 1, "deliveries are numbered without a gap"
        for seq, message in enumerate(frame["messages"], frame["seq"]):
            socket.in_frames[seq] = message["id"]
            socket.received.append(message["id"])
            socket.received_seq = seq
        self.check_order(socket)

    @precondition(lambda self: any(s.received_seq for s in self.open_sockets()))
    @rule(index=INDEX, back=st.sampled_from([0, 0, 0, 1, 2]))
    def ack(self, index: int, back: int) -> None:
        """Also an ack that is late: its deliveries have been acked before."""
        socket = self.pick(index, (s for s in self.open_sockets() if s.received_seq))
        seq = max(0, socket.received_seq - back)
        self.processed |= {id for of, id in socket.in_frames.items() if of <= seq}
        self.carry_out(socket, socket.connection.receive(Ack(seq), self.now))
        again = socket.connection.receive(Ack(seq), self.now)
        assert not any(isinstance(action, Acknowledge | Settle) for action in again), "an ack is idempotent"
        self.carry_out(socket, again)

    @precondition(lambda self: bool(self.open_sockets()))
    @rule(index=INDEX, code=st.sampled_from([None, 1000, 1001, 1006, 1012]))
    def disconnect(self, index: int, code: int | None) -> None:
        self.leave(self.pick(index, self.open_sockets()), code)

    # --- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def memory_is_bounded(self) -> None:
        for socket in self.sockets:
            window = socket.connection._in_flight
            assert len(window.deliveries) <= WINDOW
            assert not window.is_alone or len(window.deliveries) == 1, "nothing is beside what travels alone"
            assert len(socket.connection._held) <= WINDOW + 1
            assert len(socket.wire) <= 3 * WINDOW + 2, "frames that were not delivered: the window, hello, live, lost"

    def check_order(self, socket: Socket) -> None:
        """What this consumer sent itself arrives in its order, what others sent in theirs, within a priority."""
        firsts = list(dict.fromkeys(socket.received))
        mine = [self.order[id] for id in firsts if id in set(socket.own)]
        assert mine == sorted(mine)

    def teardown(self) -> None:
        """Everybody leaves, the store takes what is left, and one client stays long enough."""
        for socket in self.open_sockets():
            self.leave(socket, 1006)
        for socket in self.sockets:
            while socket.persists:
                positions = self.append(socket.persists.popleft())
                self.carry_out(socket, socket.connection.persisted(positions, self.now))
        processed = frozenset(self.processed)
        self.connect()
        last = self.sockets[-1]
        for _ in range(20 * len(self.accepted) + 2 * len(self.sockets) + 20):  # a read may be open on each socket
            self.work_off(last)
        assert last.connection.state.value == "live", "the replay comes to its end"
        assert self.store.stat(QUEUE).messages == 0, "all was delivered and acked"
        self.check_order_of_replay(last)
        self.check_order_of_own(last, processed)
        missing = self.accepted.keys() - self.processed - self.refused
        lost = self.settled + sum(self.losses().values())
        assert len(missing) <= lost, f"{missing} went without being counted ({lost} were)"
        if not self.is_tight:
            assert not missing
            assert lost == 0

    def work_off(self, socket: Socket) -> None:
        if socket.wire:
            self.deliver(0)
        elif socket.batch:
            self.finish_read(0, False)
        elif socket.reads:
            self.read(0)
        elif socket.received_seq:
            self.ack(0, 0)
            self.ring(0)

    def check_order_of_replay(self, last: Socket) -> None:
        """The one that stays gets a backlog at rest: most urgent first, and what one sender sent in its order."""
        own = {id for socket in self.sockets for id in socket.own}
        firsts = [id for id in dict.fromkeys(last.received) if id not in own]
        keys = [(self.accepted[id], self.order[id]) for id in firsts]
        assert keys == sorted(keys)

    def check_order_of_own(self, last: Socket, processed: Collection[str]) -> None:
        """What a consumer sent itself is stored in the order of sending. Repeats of what was acked do not count."""
        if self.is_tight and self.is_doubled:
            return  # the first copy may have been dropped: then the second one counts
        for socket in self.sockets:
            own = set(socket.own) - set(processed)
            mine = [self.order[id] for id in dict.fromkeys(last.received) if id in own]
            assert mine == sorted(mine)

    # --- helpers -----------------------------------------------------------------------------------------------

    def pick(self, index: int, sockets: Iterable[Socket]) -> Socket:
        choice = list(sockets)
        return choice[index % len(choice)]

    def accept(self, id: str, priority: Priority) -> None:
        self.order[id] = len(self.order)
        self.accepted[id] = priority

    def append(self, messages: Iterable[Message]) -> dict[str, int | None]:
        drafts = [make_draft(QUEUE, id=m.id, priority=m.priority, ttl=1e6) for m in messages]
        answers = put(self.store, *drafts, policy=self.policy)
        assert all((a.position is None) == (a.outcome is Outcome.DROPPED) for a in answers)
        return {answer.id: answer.position for answer in answers}

    def losses(self) -> dict[object, int]:
        found = self.store.losses([QUEUE])
        return dict(found[QUEUE].counts) if found else {}

    def give_back(self, returned: Returned) -> None:
        """Only what travelled alone is set aside, and all that is set aside is counted."""
        before = sum(self.losses().values())
        dead = self.store.returned([returned])
        assert dead <= returned.is_alone
        assert sum(self.losses().values()) == before + dead

    def leave(self, socket: Socket, code: int | None) -> None:
        socket.is_open = False
        socket.wire.clear()
        self.carry_out(socket, socket.connection.close(code, self.now))
        assert socket.connection.close(code, self.now) == []
        self.store.detach([socket.presence])

    def carry_out(self, socket: Socket, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Transmit(frame):
                    assert isinstance(frame, str)
                    assert socket.is_open, "nothing is written to a closed socket"
                    socket.wire.append(frame)
                case Read():
                    socket.reads += 1
                    assert socket.reads == 1, "one read at a time"
                case Acknowledge(positions):
                    assert self.store.ack({QUEUE: positions}) == {}
                case Return(positions, is_alone):
                    assert not socket.is_open
                    self.give_back(Returned(QUEUE, positions, is_alone, self.policy))
                case Persist(messages):
                    assert len({message.id for message in messages}) == len(messages)
                    socket.persists.append(messages)
                    assert len(socket.persists) == 1, "a second one could overtake one that fails"
                case Settle(records):
                    before = sum(self.losses().values())
                    self.store.settle(QUEUE, records)
                    self.settled += before - sum(self.losses().values())
                case Close(code, reason):
                    raise AssertionError(f"closed with {code}: {reason}")


def play(machine: type[Interleavings], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_nothing_is_lost_for_any_interleaving() -> None:
    play(Interleavings, EXAMPLES)


def test_nothing_is_lost_on_a_database_either(database: str) -> None:
    class OnDatabase(Interleavings):
        def make_store(self) -> AdvancingStore:
            for model in TABLES:
                model.objects.using(database).all()._raw_delete(database)
            return AdvancingDatabaseStore(database)

    play(OnDatabase, DATABASE_EXAMPLES)
