"""core.connection: events in, actions out."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from netra_queue.core.actions import Acknowledge, Action, Close, Persist, Read, ReadRequest, Return, Settle, Transmit
from netra_queue.core.connection import RAW_REPLAY_SECONDS, RAW_SETTLE_SECONDS, Connection
from netra_queue.core.message import Losses, LossReason, Message, Priority
from netra_queue.core.rollout import Standing
from netra_queue.core.states import State
from netra_queue.core.wire import Ack, CloseCode, Mode, Ping, bytes_payload
from tests.making import NOON, make_message, make_policy

ALONE_FROM = 10  # half of the default policy's limit
STALLED = 1.0  # seconds without an ack, after which what is held goes to the store
SAID_LIVE = '{"type":"netra.live"}'
LOST = Losses(counts={(LossReason.EXPIRED, Priority.NORMAL): 2}, since=NOON, records=(7, 8))


def make(mode: Mode = Mode.PROTOCOL, **limits: Any) -> Connection:
    return Connection("user.1", make_policy(**limits), mode, 0.0)


def opened(mode: Mode = Mode.PROTOCOL, losses: Losses | None = None, **limits: Any) -> Connection:
    """A connection that has been opened and has begun its first read."""
    connection = make(mode, **limits)
    actions = connection.opened(waiting=0, losses=losses or Losses(), at=NOON)
    assert actions[-1] == Read()
    assert connection.begin_read() is not None
    return connection


def live(mode: Mode = Mode.PROTOCOL, losses: Losses | None = None, **limits: Any) -> Connection:
    connection = opened(mode, losses, **limits)
    connection.take([], more=False, now=0.0)
    assert connection.state is State.LIVE
    return connection


def stored(*positions: int, **values: Any) -> list[Message]:
    return [make_message(position, id=f"m{position}", **values) for position in positions]


def sent(actions: list[Action]) -> list[str]:
    """The ids of the messages in these actions' frames."""
    frames = [json.loads(action.frame) for action in actions if isinstance(action, Transmit)]
    return [message["id"] for frame in frames for message in frame.get("messages", [])]


def persisted(actions: list[Action]) -> list[str]:
    return [message.id for action in actions if isinstance(action, Persist) for message in action.messages]


def acknowledged(actions: list[Action]) -> list[int]:
    return [position for action in actions if isinstance(action, Acknowledge) for position in action.positions]


class TestOpening:
    def test_hello_then_read_then_live(self) -> None:
        connection = make()
        hello, read = connection.opened(waiting=3, losses=LOST, at=NOON)
        assert isinstance(hello, Transmit)
        frame = json.loads(hello.frame)
        assert (frame["waiting"], frame["lost"]["expired"], frame["window"]) == (3, 2, 256)
        assert read == Read()
        assert connection.begin_read() == ReadRequest(256, 1_048_576, frozenset(), ALONE_FROM)
        actions = connection.take(stored(1, 2), more=False, now=0.0)
        assert sent(actions) == ["m1", "m2"]
        assert actions[-1] == Transmit(SAID_LIVE)
        assert connection.state is State.LIVE

    def test_live_is_said_once(self) -> None:
        connection = live()
        assert connection.ring() == [Read()]
        connection.begin_read()
        assert connection.take([], more=False, now=0.0) == []

    def test_live_waits_for_the_end_of_the_replay(self) -> None:
        connection = opened()
        actions = connection.take(stored(1), more=True, now=0.0)
        assert actions[-1] == Read()
        assert connection.state is State.REPLAYING

    def test_replayed_is_what_was_sent_before(self) -> None:
        connection = opened()
        old, new = make_message(1), make_message(2)
        old = type(old)(
            position=1, id="old", payload=old.payload, priority=old.priority, created_at=NOON - timedelta(seconds=1)
        )
        (transmit, _) = connection.take([old, new], more=False, now=0.0)
        assert isinstance(transmit, Transmit)
        assert [m["replayed"] for m in json.loads(transmit.frame)["messages"]] == [True, False]

    def test_nothing_is_read_before_opened(self) -> None:
        assert make().ring() == []

    def test_a_ping_before_the_hello_is_answered_after_it(self) -> None:
        connection = make()
        assert connection.receive(Ping(), 0.0) == []
        hello, pong, read = connection.opened(waiting=0, losses=Losses(), at=NOON)
        assert isinstance(hello, Transmit)
        assert "netra.hello" in str(hello.frame)
        assert (pong, read) == (Transmit('{"type":"netra.pong"}'), Read())


class TestWindow:
    def test_no_more_than_the_window_is_asked_for(self) -> None:
        connection = opened(window=3)
        connection.take(stored(1, 2), more=True, now=0.0)
        assert connection.begin_read() == ReadRequest(1, 1_048_576 - 14, frozenset({1, 2}), ALONE_FROM)
        assert Read() not in connection.take(stored(3), more=True, now=0.0)
        assert connection.ring() == []
        assert connection.receive(Ack(1), 0.0) == [Acknowledge((1,)), Read()]
        request = connection.begin_read()
        assert request is not None
        assert (request.limit, request.excluded) == (1, frozenset({2, 3}))

    def test_bytes_fill_the_window_too(self) -> None:
        connection = opened(window_bytes=20)
        connection.take(stored(1, text='"' + "x" * 18 + '"'), more=True, now=0.0)
        assert connection.ring() == []
        assert Read() in connection.receive(Ack(1), 0.0)

    def test_one_read_at_a_time(self) -> None:
        connection = opened()
        assert connection.ring() == []
        assert connection.take([], more=False, now=0.0)[-1] == Read(), "the ring during the read is not forgotten"
        assert connection.ring() == []
        assert connection.begin_read() is not None

    def test_no_room_any_more_when_the_read_begins(self) -> None:
        connection = live(window=1)
        assert connection.ring() == [Read()]
        connection.send_own(make_message(id="own"), 0.0)
        assert connection.begin_read() is None
        assert Read() in connection.receive(Ack(1), 0.0)

    def test_own_sends_take_room_while_the_store_is_read(self) -> None:
        connection = live(window=3, window_bytes=10_000)
        connection.ring()
        assert connection.begin_read() == ReadRequest(3, 10_000, frozenset(), ALONE_FROM)
        connection.send_own(make_message(id="a"), 0.0)
        connection.send_own(make_message(id="b"), 0.0)
        assert sent(connection.take(stored(1, 2, 3), more=False, now=0.0)) == ["m1"]
        assert Read() in connection.receive(Ack(2), 0.0), "what had no room is read again"

    def test_own_sends_take_bytes_while_the_store_is_read(self) -> None:
        connection = live(window_bytes=20)
        connection.ring()
        assert connection.begin_read() is not None
        connection.send_own(make_message(id="a", text='"' + "x" * 18 + '"'), 0.0)
        assert sent(connection.take(stored(1), more=False, now=0.0)) == []
        actions = connection.receive(Ack(1), 0.0)
        assert Read() in actions

    def test_urgent_overtakes_what_was_not_transmitted(self) -> None:
        connection = opened(window=2)
        connection.take(stored(1, 2, priority=Priority.LOW), more=True, now=0.0)
        connection.receive(Ack(2), 0.0)
        assert connection.begin_read() is not None
        urgent = make_message(9, id="urgent", priority=Priority.CRITICAL)
        assert sent(connection.take([urgent, *stored(3, priority=Priority.LOW)], more=True, now=0.0)) == [
            "urgent",
            "m3",
        ]

    def test_large_batches_are_cut_into_frames(self) -> None:
        connection = opened()
        actions = connection.take(stored(1, 2, 3, text='"' + "x" * 200_000 + '"'), more=False, now=0.0)
        frames = [json.loads(a.frame) for a in actions if isinstance(a, Transmit) and a.last_seq]
        assert [(frame["seq"], len(frame["messages"])) for frame in frames] == [(1, 1), (2, 1), (3, 1)]

    def test_what_is_in_flight_is_not_sent_twice(self) -> None:
        connection = opened()
        connection.take(stored(1), more=True, now=0.0)
        connection.begin_read()
        assert sent(connection.take(stored(1, 2), more=False, now=0.0)) == ["m2"]

    def test_a_failed_read_is_made_again_with_the_next_ring(self) -> None:
        connection = opened()
        assert connection.read_failed() == []
        assert connection.ring() == [Read()]


class TestAck:
    def test_cumulative_and_idempotent(self) -> None:
        connection = opened()
        connection.take(stored(5, 6, 7), more=False, now=0.0)
        assert acknowledged(connection.receive(Ack(2), 0.0)) == [5, 6]
        assert connection.receive(Ack(2), 0.0) == []
        assert connection.receive(Ack(1), 0.0) == []
        assert connection.receive(Ack(0), 0.0) == []
        assert acknowledged(connection.receive(Ack(3), 0.0)) == [7]

    @pytest.mark.parametrize("seq", [3, 10**20])
    def test_beyond_what_was_sent(self, seq: int) -> None:
        connection = opened()
        connection.take(stored(1, 2), more=False, now=0.0)
        (close,) = connection.receive(Ack(seq), 0.0)
        assert isinstance(close, Close)
        assert close.code == CloseCode.MALFORMED
        assert len(close.reason) <= 123
        assert acknowledged(connection.close(4400, 0.0)) == [], "the queue keeps what it had"

    def test_ping(self) -> None:
        assert live().receive(Ping(), 0.0) == [Transmit('{"type":"netra.pong"}')]

    def test_nothing_after_the_end(self) -> None:
        connection = opened()
        connection.take(stored(1), more=False, now=0.0)
        connection.close(1000, 0.0)
        assert connection.receive(Ack(1), 0.0) == []
        assert connection.ring() == []
        assert connection.tick(1e9) == []
        assert connection.begin_read() is None
        assert connection.take(stored(2), more=False, now=0.0) == []
        assert connection.tell_losses(LOST) == []


class TestTime:
    def test_silence_closes_after_two_heartbeats(self) -> None:
        connection = live(heartbeat_seconds=10)
        connection.heard(5.0)
        assert connection.tick(25.0) == []
        (close,) = connection.tick(25.1)
        assert isinstance(close, Close)
        assert close.code == CloseCode.NOT_RESPONDING

    def test_no_ack_closes(self) -> None:
        connection = opened(ack_timeout_seconds=30, heartbeat_seconds=1000)
        connection.take(stored(1, 2), more=False, now=100.0)
        assert connection.tick(130.0) == []
        connection.receive(Ack(1), 130.0)
        assert connection.tick(160.0) == []
        (close,) = connection.tick(160.1)
        assert isinstance(close, Close)
        assert close.code == CloseCode.NOT_RESPONDING

    def test_nothing_in_flight_needs_no_ack(self) -> None:
        connection = opened(ack_timeout_seconds=30, heartbeat_seconds=1000)
        connection.take(stored(1), more=False, now=0.0)
        connection.receive(Ack(1), 0.0)
        assert connection.tick(500.0) == []
        connection.ring()
        connection.begin_read()
        connection.take(stored(2), more=False, now=500.0)
        assert connection.tick(530.0) == []

    def test_excuse_starts_the_deadlines_anew(self) -> None:
        connection = opened(ack_timeout_seconds=30, heartbeat_seconds=10)
        connection.take(stored(1), more=False, now=0.0)
        connection.excuse(100.0)
        assert connection.tick(120.0) == []

    def test_raw_clients_have_no_deadlines(self) -> None:
        assert live(Mode.RAW).tick(1e6) == []


class TestLosses:
    def test_hello_settles_with_the_first_ack(self) -> None:
        connection = live(losses=LOST)
        assert list(connection.told()) == [7, 8]
        assert connection.receive(Ping(), 0.0) == [Transmit('{"type":"netra.pong"}')]
        assert connection.receive(Ack(0), 0.0) == [Settle((7, 8))]
        assert connection.receive(Ack(0), 0.0) == []
        assert list(connection.told()) == []

    def test_told_once_a_record(self) -> None:
        connection = live()
        assert connection.tell_losses(LOST) == [Transmit('{"type":"netra.lost","expired":2,"dropped":0}')]
        assert connection.tell_losses(LOST) == []
        assert connection.tell_losses(Losses()) == []
        assert connection.receive(Ack(0), 0.0) == [Settle((7, 8))]

    def test_an_ack_that_was_under_way_says_nothing_of_a_later_loss(self) -> None:
        connection = live()
        connection.take([make_message(1), make_message(2)], more=False, now=0.0)
        connection.tell_losses(LOST)
        assert connection.receive(Ack(1), 0.0) == [Acknowledge((1,))]
        assert connection.receive(Ack(2), 0.0) == [Acknowledge((2,))]
        assert list(connection.told()) == [7, 8]

    @pytest.mark.parametrize("seq", [0, 1])
    def test_an_ack_for_nothing_new_says_that_a_loss_was_heard_of(self, seq: int) -> None:
        connection = live()
        connection.take([make_message(1), make_message(2)], more=False, now=0.0)
        connection.receive(Ack(1), 0.0)
        connection.tell_losses(LOST)
        assert connection.receive(Ack(seq), 0.0) == [Settle((7, 8))]

    def test_an_ack_for_a_delivery_after_the_loss_does_so_too(self) -> None:
        connection = live()
        connection.take([make_message(1)], more=False, now=0.0)
        connection.tell_losses(LOST)
        connection.take([make_message(2)], more=False, now=0.0)
        assert connection.receive(Ack(2), 0.0) == [Settle((7, 8)), Acknowledge((1, 2))]

    def test_an_ack_for_nothing_new_says_nothing_of_a_second_word(self) -> None:
        """It may have crossed that one on its way."""
        connection = live()
        connection.tell_losses(LOST)
        connection.tell_losses(replace(LOST, records=(7, 8, 9)))
        assert connection.receive(Ack(0), 0.0) == [Settle((7, 8))]
        assert list(connection.told()) == [9]
        assert connection.receive(Ack(0), 0.0) == [Settle((9,))]

    def test_raw_clients_cannot_be_told(self) -> None:
        connection = opened(Mode.RAW, LOST)
        assert connection.tell_losses(LOST) == []
        assert list(connection.told()) == []

    def test_nobody_is_told_before_hello(self) -> None:
        connection = make()
        assert connection.tell_losses(LOST) == []
        assert list(connection.told()) == []


class TestOwnSends:
    def own(self, name: str, text: str = '{"n":1}') -> Message:
        return make_message(id=name, text=text)

    def test_directly_to_a_live_client_at_no_cost(self) -> None:
        connection = live()
        assert sent(connection.send_own(self.own("a"), 0.0)) == ["a"]
        assert connection.receive(Ack(1), 0.5) == []
        assert connection.tick(10.0) == []

    def test_held_until_live_then_sent_in_order(self) -> None:
        connection = opened()
        assert connection.send_own(self.own("a"), 0.0) == []
        assert connection.send_own(self.own("b"), 0.0) == []
        assert sent(connection.take(stored(1), more=False, now=0.1)) == ["m1", "a", "b"]

    def test_held_for_room(self) -> None:
        connection = live(window=1)
        connection.send_own(self.own("a"), 0.0)
        assert connection.send_own(self.own("b"), 0.0) == []
        assert sent(connection.receive(Ack(1), 0.1)) == ["b"]

    def test_persisted_when_not_acked_within_a_second(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        assert connection.tick(0.9) == []
        assert persisted(connection.tick(1.0)) == ["a"]
        assert connection.tick(5.0) == [], "asked once"
        assert connection.persisted({"a": 17}, 5.0) == []
        assert acknowledged(connection.receive(Ack(1), 5.0)) == [17]

    def test_what_became_due_while_the_store_was_busy_is_offered_at_once(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        connection.tick(1.0)
        connection.send_own(self.own("b"), 1.0)
        assert connection.tick(2.0) == [], "one at a time"
        assert persisted(connection.persisted({"a": 17}, 2.1)) == ["b"]

    def test_its_stored_copy_is_not_sent_again(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        connection.tick(1.0)
        connection.persisted({"a": 17}, 1.0)
        connection.ring()
        request = connection.begin_read()
        assert request is not None
        assert request.excluded == {17}

    def test_its_stored_copy_is_not_sent_again_before_the_store_answered(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        connection.tick(1.0)
        connection.ring()
        connection.begin_read()
        assert sent(connection.take([make_message(17, id="a")], more=False, now=1.0)) == []

    def test_the_store_has_it_after_all(self) -> None:
        """An append whose commit was not answered: every copy leaves the store with the ack, and none is read twice."""
        connection = live(window=2)
        connection.send_own(self.own("a"), 0.0)
        connection.tick(1.0)
        connection.persist_failed(1.0)
        connection.tick(2.0)
        connection.persisted({"a": 18}, 2.0)
        connection.ring()
        connection.begin_read()
        assert Read() in connection.take([make_message(17, id="a")], more=True, now=2.0)
        request = connection.begin_read()
        assert request is not None
        assert request.excluded == {17, 18}
        connection.take([], more=False, now=2.0)
        assert sorted(acknowledged(connection.receive(Ack(1), 3.0))) == [17, 18]

    def test_seen_in_the_store_is_not_persisted_again(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        connection.ring()
        connection.begin_read()
        connection.take([make_message(17, id="a")], more=False, now=0.1)
        assert connection.tick(5.0) == []
        assert persisted(connection.close(1006, 5.0)) == []

    def test_acked_while_the_store_takes_it(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        connection.tick(1.0)
        assert connection.receive(Ack(1), 1.1) == []
        assert acknowledged(connection.persisted({"a": 17}, 1.2)) == [17]

    def test_dropped_by_policy(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        connection.tick(1.0)
        assert connection.persisted({"a": None}, 1.0) == []
        assert connection.tick(10.0) == []
        assert connection.receive(Ack(1), 10.0) == []

    def test_held_and_dropped_by_policy_is_not_waited_for(self) -> None:
        connection = live(window=1)
        connection.send_own(self.own("a"), 0.0)
        connection.send_own(self.own("b"), 0.0)
        assert persisted(connection.send_own(self.own("c"), STALLED)) == ["a", "b", "c"]
        connection.persisted({"a": None, "b": None, "c": None}, STALLED)
        connection.receive(Ack(1), 0.0)
        connection.begin_read()
        connection.take([], more=False, now=0.0)
        assert sent(connection.send_own(self.own("d"), 0.0)) == ["d"]

    def test_a_failed_persist_is_offered_again_after_a_second(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        connection.tick(1.0)
        assert connection.persist_failed(1.5) == []
        assert connection.tick(2.4) == []
        assert persisted(connection.tick(2.5)) == ["a"]

    def test_acked_while_the_store_failed_to_take_it(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        connection.tick(1.0)
        connection.receive(Ack(1), 1.1)
        assert connection.persist_failed(1.2) == []
        assert connection.close(1006, 9.0) == []

    def test_more_than_the_window_goes_to_the_store_in_order(self) -> None:
        connection = live(window=2)
        for name in "abcd":
            assert persisted(connection.send_own(self.own(name), 0.5)) == []
        names = ["a", "b", "c", "d", "e"]
        assert persisted(connection.send_own(self.own("e"), 1.5)) == names, "those in flight too: they come before"
        connection.persisted({name: position for position, name in enumerate(names, -1)}, 1.6)
        assert Read() in connection.receive(Ack(2), 1.7)
        assert connection.send_own(self.own("f"), 1.7) == [], "held behind those in the store, though there is room"
        connection.begin_read()
        batch = [make_message(1, id="c"), make_message(2, id="d")]
        assert sent(connection.take(batch, more=True, now=1.7)) == ["c", "d"]
        connection.receive(Ack(4), 1.8)
        connection.begin_read()
        assert sent(connection.take([make_message(3, id="e")], more=False, now=1.8)) == ["e", "f"]

    def test_more_than_the_window_waits_for_a_client_that_acks(self) -> None:
        connection = live(window=2)
        for name in "abcde":
            assert persisted(connection.send_own(self.own(name), 0.0)) == []
        assert connection.must_wait("e")
        assert persisted(connection.tick(0.9)) == []
        assert sent(connection.receive(Ack(2), 0.9)) == ["c", "d"]
        assert not connection.must_wait("e")
        connection.send_own(self.own("f"), 0.9)
        connection.send_own(self.own("g"), 0.9)
        assert connection.must_wait("g")
        assert persisted(connection.tick(0.99)) == [], "it has acked a moment ago"
        assert persisted(connection.tick(2.0)) == ["c", "d", "e", "f", "g"], "it has stopped"

    @pytest.mark.parametrize("mode", Mode)
    def test_more_than_the_window_before_the_client_is_live_goes_to_the_store(self, mode: Mode) -> None:
        connection = opened(mode=mode, window=2)
        for name in "ab":
            assert persisted(connection.send_own(self.own(name), 0.0)) == []
        assert persisted(connection.send_own(self.own("c"), 0.0)) == ["a", "b", "c"]

    def test_more_than_the_window_for_a_client_that_cannot_ack_goes_to_the_store(self) -> None:
        connection = live(mode=Mode.RAW, window=1)
        for name in "ab":
            assert persisted(connection.send_own(self.own(name), 0.0)) == []
        assert persisted(connection.send_own(self.own("c"), 0.0)) == ["a", "b", "c"]

    def test_what_this_connection_is_sent_is_no_replay(self) -> None:
        connection = opened()
        connection.send_own(make_message(id="early")._replace(created_at=NOON - timedelta(seconds=1)), 0.0)
        (frame,) = [a.frame for a in connection.take([], more=False, now=0.0) if sent([a])]
        assert json.loads(frame)["messages"][0]["replayed"] is False

    def test_one_persist_at_a_time(self) -> None:
        connection = live(window=1)
        for name in "abc":
            actions = connection.send_own(self.own(name), 0.0)
        assert persisted(actions) == []
        actions = connection.tick(STALLED)
        assert persisted(actions) == ["a", "b", "c"]
        assert connection.send_own(self.own("d"), STALLED) == []
        assert connection.must_wait("d")
        assert connection.tick(5.0) == []
        connection.persist_failed(5.0)
        assert persisted(connection.tick(6.0)) == ["a", "b", "c", "d"], "nothing overtakes what failed"
        connection.persisted({"a": 1, "b": 2, "c": 3, "d": 4}, 6.0)
        assert not connection.must_wait("d")

    def test_what_came_meanwhile_goes_to_the_store_next(self) -> None:
        connection = live(window=1)
        for name in "abc":
            connection.send_own(self.own(name), 0.0)
        for name in "de":
            connection.send_own(self.own(name), STALLED)
        assert persisted(connection.persisted({"a": 1, "b": 2, "c": 3}, STALLED)) == ["d", "e"]

    def test_sent_after_the_end_it_follows_what_came_before(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        assert persisted(connection.close(1006, 0.1)) == ["a"]
        assert connection.send_own(self.own("b"), 0.2) == []
        assert connection.must_wait("b")
        connection.persist_failed(0.3)
        assert persisted(connection.rescue()) == ["a", "b"]
        connection.persisted({"a": 1, "b": 2}, 0.4)
        assert not connection.must_wait("b")
        assert persisted(connection.send_own(self.own("c"), 0.5)) == ["c"]

    def test_a_raw_clients_written_sends_are_stored_before_those_that_wait(self) -> None:
        connection = live(Mode.RAW, window=1)
        connection.send_own(self.own("a"), 0.0)
        connection.send_own(self.own("b"), 0.0)
        assert persisted(connection.tick(1.0)) == ["a", "b"]

    def test_an_acked_send_is_not_read_again_before_its_store_has_answered(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        connection.tick(1.0)
        connection.ring()
        connection.begin_read()
        connection.receive(Ack(1), 1.1)
        assert sent(connection.take([make_message(17, id="a")], more=False, now=1.2)) == []
        assert acknowledged(connection.persisted({"a": 17}, 1.3)) == [17]

    def test_too_large_for_the_store_it_waits_for_the_client(self) -> None:
        connection = opened(max_message_bytes=91, window_bytes=60)
        large = self.own("large", '"' + "x" * 90 + '"')  # by one byte
        assert connection.send_own(large, 0.0) == []
        assert connection.must_wait("large")
        assert connection.send_own(self.own("b"), 0.0) == []
        assert connection.tick(5.0) == [], "what is behind it waits with it"
        assert sent(connection.take([], more=False, now=6.0)) == ["large"]
        assert not connection.must_wait("large")
        assert sent(connection.receive(Ack(1), 6.1)) == ["b"]
        assert persisted(connection.tick(8.0)) == ["b"]

    def test_too_large_for_the_store_and_the_client_gone_it_is_for_the_store_to_count(self) -> None:
        connection = live(max_message_bytes=50)
        connection.send_own(self.own("large", '"' + "x" * 90 + '"'), 0.0)
        assert connection.tick(5.0) == []
        assert persisted(connection.close(1006, 6.0)) == ["large"]

    def test_bytes_of_held_sends_are_bounded(self) -> None:
        connection = opened(window_bytes=100)
        assert connection.send_own(self.own("a", '"' + "x" * 90 + '"'), 0.0) == []
        assert persisted(connection.send_own(self.own("b", '"' + "x" * 90 + '"'), 0.0)) == ["a", "b"]

    def test_withdraw(self) -> None:
        connection = opened()
        connection.send_own(self.own("a"), 0.0)
        connection.send_own(self.own("b"), 0.0)
        connection.withdraw("a")
        assert sent(connection.take([], more=False, now=0.0)) == ["b"]

    def test_what_is_being_persisted_is_not_sent_meanwhile(self) -> None:
        connection = opened()
        connection.send_own(self.own("a"), 0.0)
        assert persisted(connection.tick(1.0)) == ["a"]
        assert sent(connection.take([], more=False, now=1.1)) == []
        assert sent(connection.persist_failed(1.2)) == ["a"]

    def test_close_hands_over_what_only_memory_has(self) -> None:
        connection = live(window=3)
        for name in "abcde":
            connection.send_own(self.own(name), 0.0)
        connection.receive(Ack(1), 0.0)
        assert persisted(connection.close(1006, 0.5)) == ["b", "c", "d", "e"]
        assert connection.close(1006, 0.5) == []

    def test_close_leaves_out_what_is_on_its_way(self) -> None:
        connection = live()
        connection.send_own(self.own("a"), 0.0)
        connection.tick(1.0)
        assert connection.close(1006, 1.1) == []
        connection.persist_failed(1.2)
        assert persisted(connection.rescue()) == ["a"]

    def test_before_the_opening_and_closed_at_once(self) -> None:
        connection = make()
        assert connection.send_own(self.own("a"), 0.0) == []
        assert persisted(connection.close(None, 0.1)) == ["a"]


class TestRawMode:
    def test_plain_frames_one_a_message_without_hello(self) -> None:
        connection = make(Mode.RAW)
        assert connection.opened(waiting=2, losses=LOST, at=NOON) == [Read()]
        connection.begin_read()
        message = make_message(3)
        binary = type(message)(
            position=3, id="m3", payload=bytes_payload(b"\x00"), priority=message.priority, created_at=NOON
        )
        batch = [*stored(1), *stored(2, text="not JSON"), binary]
        assert connection.take(batch, more=False, now=0.0) == [
            Transmit('{"n":1}', 1),
            Transmit("not JSON", 2),
            Transmit(b"\x00", 3),
        ]

    def replayed(self, code: int | None, *, written: int = 2) -> tuple[list[int], list[str]]:
        """Positions released and own sends handed over when a connection with a stored and an own delivery ends."""
        connection = opened(Mode.RAW)
        connection.take(stored(1), more=False, now=0.0)
        connection.send_own(make_message(id="own"), 0.0)
        if written:
            connection.written(written, 0.1)
        actions = connection.close(code, 0.2)
        return acknowledged(actions), persisted(actions)

    @pytest.mark.parametrize("code", [1000, 1001, 4000])
    def test_a_normal_close_counts_what_was_written_as_delivered(self, code: int) -> None:
        assert self.replayed(code) == ([1], [])
        assert self.replayed(code, written=1) == ([1], ["own"])
        assert self.replayed(code, written=0) == ([], ["own"])

    @pytest.mark.parametrize("code", [None, 1005, 1006, 1011, 1012])
    def test_an_abnormal_close_keeps_what_was_written(self, code: int | None) -> None:
        assert self.replayed(code) == ([], ["own"])

    def test_written_for_long_counts_as_delivered(self) -> None:
        connection = opened(Mode.RAW)
        connection.take(stored(1, 2), more=False, now=0.0)
        connection.written(1, 0.1)
        assert connection.tick(RAW_REPLAY_SECONDS - 0.1) == []
        assert acknowledged(connection.tick(RAW_REPLAY_SECONDS)) == [1]
        assert connection.tick(1000.0) == [], "the second one was never written"

    def test_a_full_window_moves_on_soon(self) -> None:
        connection = opened(Mode.RAW, window=2)
        connection.take(stored(1, 2), more=True, now=0.0)
        connection.written(2, 0.1)
        assert connection.tick(RAW_SETTLE_SECONDS - 0.01) == []
        actions = connection.tick(RAW_SETTLE_SECONDS)
        assert acknowledged(actions) == [1, 2]
        assert Read() in actions

    def test_own_sends_that_were_written_are_not_persisted_each_second(self) -> None:
        connection = live(Mode.RAW)
        connection.send_own(make_message(id="own"), 0.0)
        assert connection.tick(30.0) == []


def suspects(*positions: int, deliveries: int = 10) -> list[Message]:
    """Messages that have been returned so often that they travel alone."""
    return [message._replace(deliveries=deliveries) for message in stored(*positions)]


def returned(actions: list[Action]) -> list[Return]:
    return [action for action in actions if isinstance(action, Return)]


class TestReturns:
    def test_what_was_not_acked_is_returned(self) -> None:
        connection = opened()
        connection.take(stored(1, 2, 3), more=False, now=0.0)
        connection.receive(Ack(1), 1.0)
        assert connection.close(1006, 2.0) == [Return((2, 3), is_alone=False)]
        assert connection.close(1006, 2.0) == []

    def test_a_client_that_acked_everything_returns_nothing(self) -> None:
        connection = opened()
        connection.take(stored(1, 2), more=False, now=0.0)
        connection.receive(Ack(2), 1.0)
        assert connection.close(1006, 2.0) == []

    def test_own_sends_that_only_memory_has_are_not_returned(self) -> None:
        connection = live()
        connection.send_own(make_message(id="own"), 0.0)
        assert returned(connection.close(1006, 2.0)) == []

    def test_what_a_raw_client_was_written_before_a_clean_close_is_not_returned(self) -> None:
        for code, positions in ((1000, [(2,)]), (1006, [(1, 2)])):
            connection = opened(Mode.RAW)
            connection.take(stored(1, 2), more=False, now=0.0)
            connection.written(1, 0.0)
            assert [action.positions for action in returned(connection.close(code, 1.0))] == positions


class TestTravellingAlone:
    def test_it_goes_when_nothing_else_is_in_flight_and_fills_the_window(self) -> None:
        connection = opened()
        actions = connection.take([*stored(1, 2), *suspects(3), *stored(4)], more=False, now=0.0)
        assert sent(actions) == ["m1", "m2"]
        assert Read() not in actions, "no read before the window is empty"
        assert connection.ring() == []
        assert Read() not in connection.receive(Ack(1), 0.0)
        assert connection.receive(Ack(2), 0.0)[-1] == Read()
        connection.begin_read()
        actions = connection.take([*suspects(3), *stored(4)], more=False, now=0.0)
        assert sent(actions) == ["m3"]
        assert Read() not in actions
        assert connection.ring() == []
        assert connection.receive(Ack(3), 0.0)[-1] == Read()
        assert connection.begin_read() == ReadRequest(256, 1_048_576, frozenset(), ALONE_FROM)

    def test_it_waits_for_what_earlier_reads_gave(self) -> None:
        connection = opened()
        connection.take(stored(1), more=False, now=0.0)
        assert connection.ring() == [Read()]
        connection.begin_read()
        assert connection.take(suspects(2), more=False, now=0.0) == []
        assert connection.receive(Ack(1), 0.0)[-1] == Read()

    def test_it_is_returned_as_alone(self) -> None:
        connection = opened()
        connection.take(suspects(1), more=False, now=0.0)
        assert connection.close(1006, 1.0) == [Return((1,), is_alone=True)]

    def test_below_half_of_the_limit_it_travels_in_company(self) -> None:
        connection = opened(max_deliveries=5)
        assert sent(connection.take(suspects(1, 2, deliveries=2), more=False, now=0.0)) == ["m1", "m2"]
        connection = opened(max_deliveries=5)
        assert sent(connection.take(suspects(1, 2, deliveries=3), more=False, now=0.0)) == ["m1"]

    def test_many_of_them_are_read_two_at_a_time(self) -> None:
        connection = opened()
        connection.take(suspects(1, 2, 3), more=False, now=0.0)
        connection.receive(Ack(1), 0.0)
        request = connection.begin_read()
        assert request is not None
        assert request.limit == 2
        assert sent(connection.take(suspects(2, 3), more=True, now=0.0)) == ["m2"]

    def test_own_sends_wait_beside_it(self) -> None:
        connection = opened()
        connection.take(suspects(1), more=False, now=0.0)
        assert sent(connection.send_own(make_message(id="own"), 0.0)) == []
        assert sent(connection.receive(Ack(1), 0.0)) == ["own"]

    def test_own_sends_do_not_keep_it_from_going(self) -> None:
        connection = live()
        connection.ring()
        connection.begin_read()
        connection.take([*stored(1), *suspects(2)], more=False, now=0.0)
        assert connection.receive(Ack(1), 0.0)[-1] == Read()
        assert sent(connection.send_own(make_message(id="own"), 0.0)) == []
        connection.begin_read()
        assert sent(connection.take(suspects(2), more=False, now=0.0)) == ["m2"]
        assert sent(connection.receive(Ack(2), 0.0)) == ["own"]

    def test_one_that_is_gone_meanwhile_is_not_waited_for(self) -> None:
        connection = opened()
        connection.take([*stored(1), *suspects(2)], more=False, now=0.0)
        connection.receive(Ack(1), 0.0)
        connection.begin_read()
        connection.take([], more=False, now=0.0)
        assert sent(connection.send_own(make_message(id="own"), 0.0)) == ["own"]

    def test_a_raw_client_is_given_it_and_goes_on(self) -> None:
        connection = opened(Mode.RAW)
        assert sent_raw(connection.take(suspects(1, 2), more=False, now=0.0)) == 1
        connection.written(1, 0.0)
        actions = connection.tick(RAW_SETTLE_SECONDS)
        assert acknowledged(actions) == [1]
        assert actions[-1] == Read()


def sent_raw(actions: list[Action]) -> int:
    return sum(isinstance(action, Transmit) for action in actions)


def has_taken(count: int, **limits: Any) -> Connection:
    """A live connection with so many stored messages in flight, and nothing more to read."""
    connection = live(**limits)
    connection.ring()
    assert connection.begin_read() is not None
    connection.take(stored(*range(1, count + 1)), more=False, now=0.0)
    return connection


class TestOtherLimits:
    def test_a_wider_window_is_filled_at_once(self) -> None:
        connection = has_taken(2, window=2)
        assert connection.ring() == []
        assert connection.adopt(make_policy(window=5), Standing.DURABLE) == [Read()]
        request = connection.begin_read()
        assert request is not None
        assert request.limit == 3

    def test_a_narrower_window_waits_for_acks(self) -> None:
        connection = has_taken(3, window=4)
        assert connection.adopt(make_policy(window=2), Standing.DURABLE) == []
        assert connection.ring() == []
        assert connection.receive(Ack(1), 1.0) == [Acknowledge((1,))], "two are still in flight"
        assert connection.receive(Ack(2), 1.0) == [Acknowledge((2,)), Read()]

    def test_the_ack_timeout_holds_at_once(self) -> None:
        connection = has_taken(1, ack_timeout_seconds=60)
        connection.adopt(make_policy(ack_timeout_seconds=10), Standing.DURABLE)
        assert connection.tick(9.0) == []
        assert [type(action) for action in connection.tick(11.0)] == [Close]

    def test_the_heartbeat_stays_what_the_client_was_told(self) -> None:
        connection = live(heartbeat_seconds=25)
        connection.adopt(make_policy(heartbeat_seconds=1, max_lines=3), Standing.DURABLE)
        assert connection.tick(40.0) == []
        assert (connection.policy.heartbeat_seconds, connection.policy.max_lines) == (25, 3)
        opening = make()
        opening.adopt(make_policy(heartbeat_seconds=1), Standing.DURABLE)
        assert opening.policy.heartbeat_seconds == 1, "nothing was told yet"

    def test_a_connection_that_is_over_asks_for_nothing(self) -> None:
        connection = has_taken(1, window=1)
        connection.ring()
        connection.close(None, 0.0)
        assert connection.adopt(make_policy(window=9), Standing.DURABLE) == []
