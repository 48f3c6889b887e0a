"""Connections of queues that are not durable, or whose store is away."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netra_queue.core.actions import Acknowledge, Persist, Read, Return, Transmit
from netra_queue.core.connection import PERSIST_AFTER_SECONDS, Connection
from netra_queue.core.message import Losses
from netra_queue.core.rollout import Standing
from netra_queue.core.states import State
from netra_queue.core.wire import Ack, Mode
from tests.making import NOON, make_message, make_policy

from .test_connection import LOST, SAID_LIVE, live, opened, persisted, sent, stored

LONG = PERSIST_AFTER_SECONDS * 10


def alone(standing: Standing = Standing.OUTSIDE, mode: Mode = Mode.PROTOCOL, **limits: Any) -> Connection:
    connection = Connection("user.1", make_policy(**limits), mode, 0.0, standing)
    connection.opened_alone(0.0)
    return connection


def outside(**limits: Any) -> Connection:
    connection = live(**limits)
    connection.adopt(connection.policy, Standing.OUTSIDE)
    return connection


class TestAlone:
    def test_it_is_live_at_once_and_reads_nothing(self) -> None:
        connection = Connection("user.1", make_policy(), Mode.PROTOCOL, 0.0, Standing.OFF)
        hello, said = connection.opened_alone(0.0)
        assert isinstance(hello, Transmit)
        assert json.loads(hello.frame)["waiting"] == 0
        assert said == Transmit(SAID_LIVE)
        assert connection.state is State.LIVE
        assert connection.ring() == []

    def test_a_raw_client_is_told_nothing(self) -> None:
        assert Connection("user.1", make_policy(), Mode.RAW, 0.0, Standing.OFF).opened_alone(0.0) == []

    def test_what_was_sent_before_goes_out_first(self) -> None:
        connection = Connection("user.1", make_policy(), Mode.PROTOCOL, 0.0, Standing.OUTSIDE)
        assert connection.send_own(make_message(id="own"), 0.0) == []
        assert connection.give(make_message(id="given"), 0.0) == []
        assert sent(connection.opened_alone(0.0)) == ["own", "given"]

    def test_it_reads_when_the_store_knows_of_it(self) -> None:
        connection = alone(Standing.DURABLE)
        assert connection.attached(NOON) == [Read()]
        assert connection.begin_read() is not None
        assert sent(connection.take(stored(1), more=False, now=0.0)) == ["m1"]
        assert connection.receive(Ack(1), 0.0) == [Acknowledge((1,))]

    def test_a_durable_ones_own_sends_are_kept(self) -> None:
        connection = alone(Standing.DURABLE)
        connection.send_own(make_message(id="own"), 0.0)
        assert persisted(connection.tick(LONG)) == ["own"]


class TestGiven:
    def test_it_has_a_number_and_nothing_is_owed_for_it(self) -> None:
        connection = live()
        assert sent(connection.give(make_message(id="given"), 0.0)) == ["given"]
        assert sent(connection.send_own(make_message(id="own"), 0.0)) == ["own"]
        assert connection.receive(Ack(2), 0.0) == []
        connection.give(make_message(id="last"), 0.0)
        assert connection.tick(40.0) == []
        assert connection.close(None, 40.0) == []

    def test_a_full_window_does_not_hold_it_up(self) -> None:
        connection = live(window=1)
        connection.send_own(make_message(id="own"), 0.0)
        assert sent(connection.give(make_message(id="given"), 0.0)) == ["given"]

    def test_a_connection_that_is_over_takes_none(self) -> None:
        connection = live()
        connection.close(None, 0.0)
        assert connection.give(make_message(), 0.0) == []


class TestOutside:
    @pytest.mark.parametrize("standing", [Standing.OUTSIDE, Standing.OFF])
    @pytest.mark.parametrize("mode", list(Mode))
    def test_own_sends_are_transmitted_and_never_stored(self, standing: Standing, mode: Mode) -> None:
        connection = alone(standing, mode, window=2)
        actions = [*connection.send_own(make_message(id="a"), 0.0), *connection.send_own(make_message(id="b"), 0.0)]
        assert sum(isinstance(action, Transmit) for action in actions) == 2
        assert connection.send_own(make_message(id="c"), 0.0) == []
        assert connection.must_wait("c") is False
        for action in [*connection.tick(LONG), *connection.close(None, LONG), *connection.tick(2 * LONG)]:
            assert not isinstance(action, Persist)
        assert not connection.has_unstored
        assert connection.send_own(make_message(id="late"), LONG) == []
        assert connection.must_wait("late") is False

    def test_what_waits_is_still_read(self) -> None:
        connection = outside()
        assert connection.ring() == [Read()]

    def test_own_sends_that_were_to_be_kept_are(self) -> None:
        connection = live()
        connection.send_own(make_message(id="before"), 0.0)
        connection.adopt(connection.policy, Standing.OUTSIDE)
        connection.send_own(make_message(id="after"), 0.0)
        assert persisted(connection.close(None, 0.0)) == ["before"]


class TestOff:
    def test_nothing_is_read_and_the_client_is_live(self) -> None:
        connection = opened()
        connection.take(stored(1), more=True, now=0.0)
        assert connection.adopt(connection.policy, Standing.OFF) == [Transmit(SAID_LIVE)]
        assert connection.begin_read() is None, "what it had decided before"
        assert connection.ring() == []
        assert connection.receive(Ack(1), 0.0) == [Acknowledge((1,))]
        assert connection.adopt(connection.policy, Standing.DURABLE) == [Read()]

    def test_own_sends_do_not_wait_for_those_in_the_store(self) -> None:
        connection = live(window=1)
        connection.send_own(make_message(id="a"), 0.0)
        connection.send_own(make_message(id="b"), 0.0)
        (persist,) = connection.tick(LONG)
        assert persisted([persist]) == ["a", "b"]
        connection.persisted({"a": 1, "b": 2}, LONG)
        connection.adopt(connection.policy, Standing.OFF)
        assert connection.receive(Ack(1), LONG) == [Acknowledge((1,))]
        assert sent(connection.send_own(make_message(id="c"), LONG)) == ["c"]

    def test_what_is_in_flight_at_the_end_is_returned(self) -> None:
        connection = opened()
        connection.take(stored(1), more=False, now=0.0)
        connection.adopt(connection.policy, Standing.OFF)
        assert connection.close(None, 0.0) == [Return((1,), False)]


class TestShadow:
    def test_a_client_is_told_neither_of_what_waits_nor_of_losses(self) -> None:
        connection = Connection("user.1", make_policy(), Mode.PROTOCOL, 0.0, Standing.SHADOW)
        hello, read = connection.opened(waiting=3, losses=LOST, at=NOON)
        assert isinstance(hello, Transmit)
        assert json.loads(hello.frame)["waiting"] == 0
        assert json.loads(hello.frame)["lost"] == {"expired": 0, "dropped": 0}
        assert read == Read()
        assert connection.tell_losses(LOST) == []
        assert connection.tell_losses(Losses()) == []
