"""Where the play takes place: what the rules of ``machine`` have in common, and how every play ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from enum import Enum, auto
from functools import partial
from random import Random
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from netra_queue import conf
from netra_queue.core.connection import PERSIST_AFTER_SECONDS, Connection
from netra_queue.core.message import Message, Priority
from netra_queue.core.wire import Mode, text_payload
from netra_queue.exceptions import QueueFull, TooManyDevices
from tests.core.interleavings.ledger import Ledger
from tests.core.interleavings.sight import DEVICES, LINES, QUEUE, Sent, StandingMemoryStore, StandingStore
from tests.core.interleavings.world import Process, Socket
from tests.making import make_draft, make_presence

WINDOW, WINDOW_BYTES = 3, 60
FOREVER = 1_000_000
CALM = {
    "WINDOW": WINDOW,
    "WINDOW_BYTES": WINDOW_BYTES,
    "HEARTBEAT_SECONDS": FOREVER,
    "ACK_TIMEOUT_SECONDS": FOREVER,
    "MAX_DELIVERIES": 1000,
}
TIGHT = CALM | {"MAX_MESSAGES": 5, "MAX_BYTES": 150, "MAX_MESSAGE_BYTES": 100, "LINE_SECONDS": 25, "MAX_LINES": 2}
POLICIES = {
    "default": CALM,
    "drop_oldest": TIGHT | {"OVERFLOW": "drop_oldest", "MAX_DELIVERIES": 2},
    "drop_newest": TIGHT | {"OVERFLOW": "drop_newest", "MAX_DELIVERIES": 3},
    "reject": TIGHT | {"OVERFLOW": "reject", "LINE_SECONDS": 45},
}
FOR_DEAD_SECONDS = 30
PROCESSES = 2
MOST_SWEPT = 100
PACES = (0, 1, 5, MOST_DRAINED := 20)
Item = TypeVar("Item")


class Side(Enum):
    """Who takes a step."""

    BELLS = auto()
    READS = auto()
    CLIENTS = auto()
    WRITES = auto()
    PERSISTS = auto()
    POLLS = auto()
    UPKEEP = auto()


Step = tuple[Side, Callable[[], object]]
SLOW = [frozenset[Side]()] * 10 + [frozenset({side}) for side in Side] + [frozenset(Side)]


class Stage(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.store = self.make_store()
        self.now = self.ticked_at = 0.0
        self.processed: set[str] = set()  # by a client, which has sent the ack
        self.refused: set[str] = set()  # the sender got an error
        self.died: set[str] = set()  # own sends of a process that was killed
        self.shall_sweep = False  # upkeep gets to it some time
        self.is_doubled = False  # an append was made again whose first commit nobody heard of

    def make_store(self) -> StandingStore:
        return StandingMemoryStore()

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        slow=st.sampled_from(SLOW),
        lines=st.lists(st.sampled_from(LINES), max_size=2),
        seed=st.integers(0, 2**16),
    )
    def begin(self, policy: str, slow: frozenset[Side], lines: list[str], seed: int) -> None:
        """``slow``: whose steps only rules take, so that much is pending. ``seed``: for the steps of the others."""
        self.slow, self.chance = slow, Random(seed)
        self.ledger = Ledger(self.store, conf.policy(policy))
        self.is_tight = policy != "default"
        self.processes = [Process(self.ledger) for _ in range(PROCESSES)]
        self.past: list[Socket] = []  # of processes that are gone
        for process, line in zip(self.processes, lines, strict=False):
            self.open(process, line)

    def some(self, wanted: Callable[[Socket], object]) -> list[tuple[Process, Socket]]:
        return [(process, socket) for process in self.processes for socket in process.sockets if wanted(socket)]

    def has(self, wanted: Callable[[Socket], object]) -> bool:
        return bool(self.some(wanted))

    def pick(self, index: int, wanted: Callable[[Socket], object]) -> tuple[Process, Socket]:
        return choose(index, self.some(wanted))

    def accept(self, id: str, priority: Priority, text: str, ttl: float, collapse: str | None = None) -> None:
        expires_at = self.store.now() + timedelta(seconds=ttl)
        self.ledger.sent[id] = Sent(priority, text, len(self.ledger.sent), expires_at, collapse)

    def send_one(self, line: str, priority: Priority, text: str, ttl: float, collapse: str | None) -> None:
        draft = make_draft(line, text, priority=priority, ttl=ttl, collapse=collapse)
        self.accept(draft.id, priority, text, ttl, collapse)
        self.ledger.by_others.add(draft.id)
        try:
            (answer,) = self.ledger.append([draft], self.ledger.policy)
        except QueueFull:
            self.refused.add(draft.id)
            return
        held = self.ledger.holders(answer.lines)
        for process in self.processes:
            process.bells += held.get(process.server.id, [])

    def send_one_own(self, process: Process, socket: Socket) -> None:
        text = f'{{"own":{len(self.ledger.sent)}}}'
        message = make_own(text, self.store)
        self.accept(message.id, message.priority, text, self.ledger.policy.ttl_for(message.priority))
        socket.own.append(message.id)
        actions = socket.connection.send_own(message, self.now)
        if socket.connection.must_wait(message.id):
            socket.waits_for = message.id
        process.carry_out(socket, actions, self.now)

    def beat(self, process: Process) -> None:
        process.beat()
        if not process.shall_attach_again:
            return
        process.shall_attach_again = False
        for socket in process.attached():
            try:
                self.ledger.attach(socket.presence)
            except TooManyDevices:
                process.shall_attach_again = True

    def open(self, process: Process, line: str) -> Socket | None:
        presence = make_presence(line, server=process.server, policy=self.ledger.policy.name)
        socket = Socket(Connection(line, self.ledger.policy, Mode.PROTOCOL, self.now), presence)
        if not process.is_known:
            process.is_known = True
            process.beat()
            process.shall_attach_again = False
        try:
            opened = self.ledger.attach(presence)
        except TooManyDevices:
            return None
        process.sockets.append(socket)
        actions = socket.connection.opened(waiting=opened.waiting, losses=opened.losses, at=opened.at)
        process.carry_out(socket, actions, self.now, frozenset(opened.losses.records))
        return socket

    def crash(self, process: Process, commits: bool) -> None:
        """Its memory is gone."""
        for socket in process.sockets:
            self.check_age(socket)
            if commits and socket.persists:
                process.append(socket, socket.persists[0])
            socket.cut()
            socket.is_open = False
            self.died |= set(socket.own) - set(self.ledger.ids.values())

    def check_age(self, socket: Socket) -> None:
        """What is lost with a process is of the last second, or the store has been asked to take it."""
        is_asked = socket.persists or socket.connection._persist_retry_at > self.ticked_at
        for owner in socket.connection._unstored():
            assert is_asked or owner.at > self.ticked_at - PERSIST_AFTER_SECONDS

    def leave(self, process: Process) -> None:
        for socket in process.sockets:
            if socket.is_open:
                process.release(socket, None, self.now)
            while socket.persists:
                process.persist(socket, self.now)
        process.detached.clear()
        process.write()

    # --- what is pending ------------------------------------------------------------------------------------------

    def steps_of(self, process: Process, socket: Socket) -> Iterator[Step]:
        """What this connection and its client would do next, each as soon as it likes."""
        if socket.wire:
            yield Side.CLIENTS, partial(socket.receive, self.ledger)
        if socket.batch:
            yield Side.READS, partial(process.take, socket, self.now)
        elif socket.request:
            yield Side.READS, partial(process.read, socket)
        elif socket.wants_read:
            yield Side.READS, partial(process.begin_read, socket)
        if socket.is_open and socket.acks:
            yield Side.CLIENTS, partial(process.hear, socket, self.now)
        if socket.may_ack:
            yield Side.CLIENTS, partial(self.acknowledge, socket, socket.received_seq)
        if socket.persists:
            yield Side.PERSISTS, partial(process.persist, socket, self.now)

    def steps(self) -> Iterator[Step]:
        for process in self.processes:
            if process.bells:
                yield Side.BELLS, partial(self.ring_first, process)
            for socket in process.sockets:
                yield from self.steps_of(process, socket)
            if process.has_writes:
                yield Side.WRITES, process.write
            if process.shall_poll:
                yield Side.POLLS, partial(process.poll, self.now)
        if self.shall_sweep:
            yield Side.UPKEEP, self.sweep

    def ring_first(self, process: Process) -> None:
        process.ring([process.bells.pop(0)], self.now)

    def sweep(self) -> None:
        self.shall_sweep = False
        self.ledger.sweep(MOST_SWEPT)

    def acknowledge(self, socket: Socket, seq: int) -> None:
        """The client has processed all up to this delivery. Its ack arrives with ``hear``."""
        socket.acknowledge(seq)
        self.processed |= socket.processed(seq)

    def work_off(self, process: Process, socket: Socket) -> bool:
        """One step for one connection, the most urgent one. False: there is nothing to do."""
        for _, step in self.steps_of(process, socket):
            step()
            return True
        if process.has_writes:
            process.write()
            return True
        return False

    @invariant()
    def work_goes_on(self) -> None:
        """Between any two rules, as it would by itself: not at all, a little, or for a good while."""
        if not hasattr(self, "processes"):
            return
        for _ in range(self.chance.choice(PACES)):
            pending = [step for side, step in self.steps() if side not in self.slow]
            if not pending:
                return
            self.chance.choice(pending)()
            self.memory_is_bounded()

    @invariant()
    def memory_is_bounded(self) -> None:
        for _, socket in self.some(lambda s: True) if hasattr(self, "processes") else ():
            window = socket.connection._in_flight
            sizes = [delivery.size for delivery in window.deliveries]
            assert len(sizes) <= WINDOW
            assert sum(sizes[:-1]) < WINDOW_BYTES
            assert not window.is_alone or len(sizes) == 1, "nothing is beside what travels alone"
            assert len(socket.connection._held) <= WINDOW + 1
            messages = sum(not records for _, records in socket.wire)
            assert messages <= 3 * WINDOW + 2, "frames that were not delivered: the window, hello, live"

    def teardown(self) -> None:
        if hasattr(self, "processes"):
            self.come_to_the_end()

    def come_to_the_end(self) -> None:
        """Everybody leaves, and a client of each line stays long enough: all that was accepted is accounted for."""
        for number in range(PROCESSES):
            self.finish(self.processes[number])
        if self.ledger.books.presences:  # of processes that were killed
            self.ledger.advance(2 * FOR_DEAD_SECONDS)
            self.ledger.reap()
        self.ledger.expire_lines()
        processed = frozenset(self.processed)
        for line in [*DEVICES, QUEUE]:
            self.drain(line, processed)
        assert self.ledger.sight.rows == {}, "all was delivered and acked"
        ended = set(self.ledger.ids.values()) | self.ledger.counted
        missing = self.ledger.sent.keys() - ended - self.processed - self.refused - self.died
        assert not missing

    def drain(self, line: str, processed: frozenset[str]) -> None:
        process = self.processes[0]
        socket = self.open(process, line)
        assert socket is not None
        while True:
            while self.work_off(process, socket):
                pass
            process.poll(self.now)
            if not (socket.wants_read or socket.wire):
                break
        assert socket.connection.state.value == "live", "the replay comes to its end"
        assert self.ledger.sight.of(line) == []
        assert self.ledger.losses([line]) == {}, "what was lost has been told"
        self.check_order_at_rest(socket)
        self.check_order_of_own(socket, processed)
        process.release(socket, 1000, self.now)
        process.write()

    def check_order_at_rest(self, last: Socket) -> None:
        """It gets a backlog at rest: most urgent first, and what one sender sent in its order."""
        firsts = [self.ledger.sent[id] for id in dict.fromkeys(last.received) if id in self.ledger.by_others]
        keys = [(sent.priority, sent.order) for sent in firsts]
        assert keys == sorted(keys)

    def check_order_of_own(self, last: Socket, processed: frozenset[str]) -> None:
        """What a consumer sent itself is stored in the order of sending. Repeats of what was acked do not count."""
        if self.is_tight and self.is_doubled:
            return  # the first copy may have been dropped: then the second one counts
        for socket in self.past:
            own = set(socket.own) - processed
            mine = [self.ledger.sent[id].order for id in dict.fromkeys(last.received) if id in own]
            assert mine == sorted(mine)

    def finish(self, process: Process, *, kills: bool = False, commits: bool = False) -> None:
        """Another one takes its place."""
        if kills:
            self.crash(process, commits)
        else:
            self.leave(process)
            self.ledger.retire(process.server)
        self.past += process.sockets
        self.processes[self.processes.index(process)] = Process(self.ledger)


def choose(index: int, items: Iterable[Item]) -> Item:
    choice = list(items)
    return choice[index % len(choice)]


def make_own(text: str, store: StandingStore) -> Message:
    draft = make_draft()
    return Message(
        position=0, id=draft.id, payload=text_payload(text), priority=Priority.NORMAL, created_at=store.now()
    )
