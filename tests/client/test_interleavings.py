"""The client's protocol and the server's connection, two machines that only think, under arbitrary interleavings.

The test plays the network between them, the store, the application and the clock. Whatever the order: what the server
removes was handled; nothing is handled twice in one process; within a priority, nothing is handled before its turn;
and in the end everything was handled.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from netra_queue.client.protocol import Protocol
from netra_queue.client.values import Action, Connect, Disconnect, Frame, Handle, Repeat, Save, State, Write
from netra_queue.core import wire
from netra_queue.core.actions import Acknowledge, Close, Read, Transmit
from netra_queue.core.connection import Connection
from netra_queue.core.message import Losses, Message, Priority
from netra_queue.core.states import State as ServerState
from netra_queue.core.wire import Mode
from tests.making import NOON, make_message, make_policy

WINDOW = 4
POLICY = make_policy(window=WINDOW)


@dataclass
class Network:
    """One connection: what is under way in both directions, and whether each side still has it."""

    server: Connection
    down: deque[str] = field(default_factory=deque)
    up: deque[str] = field(default_factory=deque)
    is_silent: bool = False


class Interleavings(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.stored: list[Message] = []
        self.sent: list[Message] = []
        self.handled: list[str] = []
        self.unsaved: set[str] = set()  # handled, but a restart forgets it
        self.said: list[str] = []  # what the consumer got
        self.saved: list[str] = []
        self.network: Network | None = None
        self.turn: Message | None = None
        self.wants_connection = False
        self.client = Protocol(random=random.Random(1).random)
        self.do(self.client.connect(self.now))

    # --- the client's host ---

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Connect():
                    self.wants_connection = True
                case Disconnect():
                    self.network, self.wants_connection = None, False
                case Write(text):
                    assert self.network is not None, "written to a connection that is gone"
                    self.network.up.append(text)
                case Handle(message):
                    assert self.turn is None, "one message at a time"
                    assert message.id not in self.handled, "handled twice"
                    self.turn = next(known for known in self.sent if known.id == message.id)
                case Repeat(message):
                    assert message.id in self.handled
                case Save():
                    self.saved, self.unsaved = list(self.client.seen.ids), set()

    # --- the server's host and its store ---

    def serve(self, network: Network, actions: list[object]) -> None:
        for action in actions:
            match action:
                case Transmit(frame=text):
                    network.down.append(str(text))
                case Read():
                    self.read(network)
                case Acknowledge(positions=positions):
                    gone = [message for message in self.stored if message.position in positions]
                    assert {message.id for message in gone} <= set(self.handled), "removed before it was handled"
                    self.stored = [message for message in self.stored if message not in gone]
                case Close():
                    raise AssertionError(f"the server has to close: {action}")

    def read(self, network: Network) -> None:
        if (request := network.server.begin_read()) is None:
            return
        rest = [message for message in self.stored if message.position not in request.excluded]
        rest.sort(key=lambda message: (message.priority, message.position))
        taken = network.server.take(rest[: request.limit], more=len(rest) > request.limit, now=self.now)
        self.serve(network, [*taken])

    # --- what happens ---

    @rule(priority=st.sampled_from(Priority))
    def send(self, priority: Priority) -> None:
        message = make_message(len(self.sent), priority=priority)
        self.sent.append(message)
        self.stored.append(message)
        if self.network is not None:
            self.serve(self.network, [*self.network.server.ring()])

    @precondition(lambda self: self.wants_connection and self.network is None)
    @rule()
    def connect(self) -> None:
        self.network = Network(Connection("user.1", POLICY, Mode.PROTOCOL, self.now))
        waiting = len(self.stored)
        self.serve(self.network, [*self.network.server.opened(waiting=waiting, losses=Losses(), at=NOON)])

    @precondition(lambda self: self.wants_connection and self.network is None)
    @rule()
    def fail_to_connect(self) -> None:
        self.wants_connection = False
        self.do(self.client.disconnected(1006, "nobody listens", self.now))

    @precondition(lambda self: self.network is not None and self.network.down and not self.network.is_silent)
    @rule(most=st.integers(1, 3))
    def client_hears(self, most: int) -> None:
        network = self.network
        for _ in range(most):
            if network is not None and network is self.network and network.down:
                self.do(self.client.received(network.down.popleft(), self.now))

    @precondition(lambda self: self.network is not None and self.network.up and not self.network.is_silent)
    @rule()
    def server_hears(self) -> None:
        assert self.network is not None
        text = self.network.up.popleft()
        if (frame := wire.parse_client_frame(text)) is None:
            self.said.append(text)
        else:
            self.serve(self.network, [*self.network.server.receive(frame, self.now)])

    @precondition(lambda self: self.turn is not None)
    @rule()
    def handle(self) -> None:
        assert self.turn is not None
        turn, self.turn = self.turn, None
        earlier = [m.id for m in self.sent if m.priority == turn.priority and m.position < turn.position]
        assert set(earlier) <= set(self.handled), "out of order"
        self.handled.append(turn.id)
        self.unsaved.add(turn.id)
        self.do(self.client.handled(self.now))

    @precondition(lambda self: self.turn is not None)
    @rule()
    def fail(self) -> None:
        self.turn = None
        self.do(self.client.failed("the handler raised", self.now))

    @precondition(lambda self: self.network is not None)
    @rule(code=st.sampled_from([1006, 1012, 4503]))
    def cut(self, code: int) -> None:
        self.network, self.wants_connection = None, False
        self.do(self.client.disconnected(code, "", self.now))

    @precondition(lambda self: self.network is not None)
    @rule()
    def go_silent(self) -> None:
        assert self.network is not None
        self.network.is_silent = True

    @rule(seconds=st.sampled_from([0.05, 0.2, 1.0, 14.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        """The timer is on time."""
        until = self.now + seconds
        while (at := self.client.wake_at) is not None and at <= until:
            self.now = max(self.now, at)
            self.do(self.client.tick(self.now))
        self.now = until

    @rule()
    def restart_the_client(self) -> None:
        """What was handled and not saved may be handled again."""
        self.handled = [id for id in self.handled if id not in self.unsaved]
        self.network = self.turn = None
        self.client = Protocol(random=random.Random(2).random, seen=self.saved)
        self.do(self.client.connect(self.now))

    @rule()
    def say(self) -> None:
        self.do(self.client.send(Frame(f'"{len(self.said)}"')))

    # --- what holds ---

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.client._inbox) + (self.client.busy is not None) <= WINDOW + 1
        assert len(self.client.seen.ids) <= max(len(self.saved), 2 * WINDOW + len(self.sent))

    @invariant()
    def it_always_goes_on(self) -> None:
        """It waits for something that will come, or for a moment."""
        assert self.client.state is not State.CLOSED
        assert self.client.wake_at is not None

    def teardown(self) -> None:
        """With a network that works and an application that does, everything is handled soon."""
        for _ in range(40 + 20 * len(self.sent)):
            if self.network is not None and self.network.server.state is not ServerState.CLOSED:
                while self.network is not None and self.network.up and not self.network.is_silent:
                    self.server_hears()
                if self.network is not None and self.network.down and not self.network.is_silent:
                    self.client_hears(1)
            elif self.wants_connection:
                self.connect()
            if self.turn is not None:
                self.handle()
            self.pass_time(0.2 if self.network is None or not self.network.is_silent else 14.0)
        assert sorted(self.handled) == sorted(message.id for message in self.sent)
        assert not self.stored, "all was acked"


def test_nothing_is_lost_or_handled_twice() -> None:
    run_state_machine_as_test(
        Interleavings,
        settings=settings(
            max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
