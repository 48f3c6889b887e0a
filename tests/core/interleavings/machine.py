"""The rules: everything that may happen at any moment, each step that can come late a rule of its own."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from netra_queue.core.actions import Acknowledge, Settle
from netra_queue.core.message import Priority
from netra_queue.core.wire import Ack
from tests.core.interleavings.sight import DEVICES, LINES, QUEUE
from tests.core.interleavings.stage import FOREVER, Stage, choose

INDEX = st.integers(0, 9)
LINE = st.sampled_from([QUEUE, QUEUE, QUEUE, *DEVICES])
PRIORITY = st.sampled_from(Priority)
COLLAPSE = st.sampled_from([None] * 4 + ["progress"])
MOST_SOCKETS, MOST_SERVED, MOST_IN_A_BURST = 3, 12, 6


class Interleavings(Stage):
    # --- senders and bells ----------------------------------------------------------------------------------------

    @rule(line=LINE, priority=PRIORITY, is_short=st.booleans(), is_large=st.booleans(), collapse=COLLAPSE)
    def send(self, line: str, priority: Priority, is_short: bool, is_large: bool, collapse: str | None) -> None:
        """The bells are on their way then; see ``ring`` and ``lose_bells``."""
        ttl = 3 if is_short and self.is_tight else FOREVER
        text = f'{{"n":{len(self.ledger.sent)}' + (f',"text":"{"x" * 40}"}}' if is_large else "}")
        self.send_one(line, priority, text, ttl, collapse)

    @rule(line=LINE, key=st.sampled_from(["progress", "state"]))
    def send_newest(self, line: str, key: str) -> None:
        self.send_one(line, Priority.NORMAL, f'{{"n":{len(self.ledger.sent)}}}', FOREVER, key)

    @rule(
        sends=st.lists(st.tuples(LINE, PRIORITY) | INDEX, min_size=2, max_size=MOST_IN_A_BURST),
        seconds=st.sampled_from([0.0, 1.0]),
    )
    def burst(self, sends: list[tuple[str, Priority] | int], seconds: float) -> None:
        """By others and by consumers themselves, before anybody gets to anything else.

        ``seconds``: for so long nothing was heard of the clients, so that what has no room goes to the store at once.
        """
        self.now += seconds
        self.ledger.advance(seconds)
        for one in sends:
            if not isinstance(one, int):
                self.send_one(*one, f'{{"n":{len(self.ledger.sent)}}}', FOREVER, None)
            elif self.has(lambda s: s.waits_for is None):
                self.send_one_own(*self.pick(one, lambda s: s.waits_for is None))

    @precondition(lambda self: any(p.bells for p in self.processes))
    @rule(index=INDEX, which=INDEX, is_doubled=st.booleans())
    def ring(self, index: int, which: int, is_doubled: bool) -> None:
        """In any order, late, and perhaps once more later."""
        process = choose(index, [p for p in self.processes if p.bells])
        line = choose(which, process.bells)
        if not is_doubled:
            process.bells.remove(line)
        process.ring([line], self.now)

    @precondition(lambda self: any(p.bells for p in self.processes))
    @rule()
    def lose_bells(self) -> None:
        for process in self.processes:
            process.bells.clear()

    @rule(index=INDEX)
    def poll(self, index: int) -> None:
        choose(index, self.processes).poll(self.now)

    # --- time and upkeep ------------------------------------------------------------------------------------------

    @rule(
        seconds=st.sampled_from([0.1, 0.5, 1.0, 2.0, 20.0, 40.0]),
        are_stuck=st.sampled_from([False, False, False, True]),
    )
    def time_passes(self, seconds: float, are_stuck: bool) -> None:
        """``are_stuck``: no process gets its heartbeat out, or polls."""
        self.now += seconds
        self.ledger.advance(seconds)
        for process in self.processes:
            for socket in process.sockets:
                process.carry_out(socket, socket.connection.tick(self.now), self.now)
            if not are_stuck:
                self.beat(process)
                process.shall_poll = True
        self.shall_sweep = True
        self.ticked_at = self.now
        for _, socket in self.some(lambda s: True):
            self.check_age(socket)

    @rule(limit=st.integers(0, 3))
    def keep_up(self, limit: int) -> None:
        """One batch of the sweep, or all the rest of upkeep."""
        if limit:
            self.ledger.sweep(limit)
            return
        self.ledger.reap()
        self.ledger.expire_lines()
        self.ledger.forget_old()

    @rule(line=st.sampled_from(LINES), limit=st.integers(0, 3), priority=st.sampled_from([None, *Priority]))
    def remove(self, line: str, limit: int, priority: Priority | None) -> None:
        """An operator purges a line, or a device is forgotten."""
        if limit:
            self.ledger.purge(line, limit, priority)
        else:
            self.ledger.forget_line(line)

    # --- connections ----------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.some(lambda s: s.has_client)) < MOST_SOCKETS)
    @rule(index=INDEX, line=st.sampled_from([*LINES, DEVICES[0]]))
    def connect(self, index: int, line: str) -> None:
        self.open(choose(index, self.processes), line)

    @precondition(lambda self: self.has(lambda s: s.has_client))
    @rule(index=INDEX)
    def cut(self, index: int) -> None:
        """The client is gone, and may come back before the server has noticed."""
        self.pick(index, lambda s: s.has_client)[1].cut()

    @precondition(lambda self: self.has(lambda s: s.is_open))
    @rule(index=INDEX, code=st.sampled_from([None, 1000, 1001, 1006, 1012]))
    def disconnect(self, index: int, code: int | None) -> None:
        process, socket = self.pick(index, lambda s: s.is_open)
        process.release(socket, code, self.now)

    @rule(index=INDEX, kills=st.booleans(), commits=st.booleans())
    def end(self, index: int, kills: bool, commits: bool) -> None:
        """SIGKILL, or SIGTERM with a store that answers. ``commits``: what becomes of an append that is killed."""
        self.finish(choose(index, self.processes), kills=kills, commits=commits)

    # --- the host -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.has(lambda s: s.wants_read))
    @rule(index=INDEX)
    def begin_read(self, index: int) -> None:
        process, socket = self.pick(index, lambda s: s.wants_read)
        process.begin_read(socket)

    @precondition(lambda self: self.has(lambda s: s.request))
    @rule(index=INDEX)
    def read(self, index: int) -> None:
        process, socket = self.pick(index, lambda s: s.request)
        process.read(socket)

    @precondition(lambda self: self.has(lambda s: s.batch))
    @rule(index=INDEX, fails=st.sampled_from([False, False, False, True]))
    def take(self, index: int, fails: bool) -> None:
        process, socket = self.pick(index, lambda s: s.batch)
        process.take(socket, self.now, fails=fails)

    @rule(index=INDEX, fails=st.sampled_from([False, False, True]), happens=st.booleans())
    def write(self, index: int, fails: bool, happens: bool) -> None:
        choose(index, self.processes).write(fails=fails, happens=happens)

    @precondition(lambda self: self.has(lambda s: s.waits_for is None))
    @rule(index=INDEX)
    def send_own(self, index: int) -> None:
        """Also from a task of the consumer's that has outlived the socket."""
        self.send_one_own(*self.pick(index, lambda s: s.waits_for is None))

    @precondition(lambda self: self.has(lambda s: s.persists))
    @rule(index=INDEX)
    def persist(self, index: int) -> None:
        process, socket = self.pick(index, lambda s: s.persists)
        process.persist(socket, self.now)

    @precondition(lambda self: self.has(lambda s: s.persists))
    @rule(index=INDEX, commits=st.booleans())
    def persist_fails(self, index: int, commits: bool) -> None:
        """The append raises; perhaps it was committed all the same, and only the answer was lost."""
        process, socket = self.pick(index, lambda s: s.persists)
        messages = socket.persists.popleft()
        if commits:
            process.append(socket, messages)
            self.is_doubled = True
            self.ledger.may_be_repeated |= {message.id for message in messages}
        if socket.waits_for is not None:
            socket.connection.withdraw(socket.waits_for)
            self.refused.add(socket.waits_for)
            socket.waits_for = None
        process.carry_out(socket, socket.connection.persist_failed(self.now), self.now)
        if not socket.is_open:
            process.carry_out(socket, socket.connection.rescue(), self.now)

    # --- clients --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.has(lambda s: s.wire))
    @rule(index=INDEX)
    def deliver(self, index: int) -> None:
        self.pick(index, lambda s: s.wire)[1].receive(self.ledger)

    @precondition(lambda self: self.has(lambda s: s.may_ack))
    @rule(index=INDEX, back=st.sampled_from([0, 0, 1, 2]))
    def ack(self, index: int, back: int) -> None:
        """All that the client has, or a part of it."""
        _, socket = self.pick(index, lambda s: s.may_ack)
        seq = max(socket.acked_seq, socket.received_seq - back)
        if seq == socket.acked_seq and not socket.owes_ack:
            return  # it would say that the client has heard of losses
        self.acknowledge(socket, seq)

    @precondition(lambda self: self.has(lambda s: s.is_open and s.acks))
    @rule(index=INDEX)
    def hear(self, index: int) -> None:
        process, socket = self.pick(index, lambda s: s.is_open and s.acks)
        process.hear(socket, self.now)

    @precondition(lambda self: self.has(lambda s: s.has_client and not s.acks))
    @rule(index=INDEX, back=st.integers(0, 3))
    def ack_again(self, index: int, back: int) -> None:
        """What has been acked is acked again, or less than that."""
        process, socket = self.pick(index, lambda s: s.has_client and not s.acks)
        if any(records for _, records in socket.wire):
            return  # it would say that the client has heard of these losses
        seq = max(0, socket.acked_seq - back)
        again = socket.connection.receive(Ack(seq), self.now)
        assert not any(isinstance(action, Acknowledge) for action in again), "an ack is idempotent"
        assert not any(isinstance(action, Settle) for action in again) or socket.heard
        process.carry_out(socket, again, self.now)

    @precondition(lambda self: self.has(lambda s: s.has_client))
    @rule(index=INDEX)
    def serve(self, index: int) -> None:
        """For a while everything goes as it should, so that the end of long stories is reached, too."""
        process, socket = self.pick(index, lambda s: s.has_client)
        for _ in range(MOST_SERVED):
            self.work_off(process, socket)
