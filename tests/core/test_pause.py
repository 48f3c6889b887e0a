"""core.connection: what it does while an operator has paused its queue."""

from __future__ import annotations

import pytest

from netra_queue.core.actions import Read
from netra_queue.core.connection import Connection
from netra_queue.core.states import State
from netra_queue.core.wire import Ack, Mode
from tests.core.test_connection import SAID_LIVE, STALLED, acknowledged, live, opened, persisted, sent, stored
from tests.making import make_message


def paused(connection: Connection, until: float | None = None) -> Connection:
    """A live one whose queue was paused since."""
    assert connection.ring() == [Read()]
    assert connection.begin_read() is not None
    assert connection.pause(until) == []
    assert connection.is_paused
    return connection


def test_it_is_not_live_before_the_pause_is_over() -> None:
    connection = opened()
    assert connection.pause(None) == []
    assert connection.state is State.REPLAYING
    assert connection.tick(5.0) == [], "it does not ask again by itself"
    assert connection.ring() == [Read()]
    connection.begin_read()
    actions = connection.take(stored(1), more=False, now=6.0)
    assert sent(actions) == ["m1"]
    assert any(getattr(action, "frame", "") == SAID_LIVE for action in actions)
    assert not connection.is_paused


def test_own_sends_are_held_and_stored() -> None:
    connection = paused(live())
    assert sent(connection.send_own(make_message(id="a"), 0.0)) == []
    assert connection.held == 1
    assert persisted(connection.tick(STALLED / 2)) == []
    assert persisted(connection.tick(STALLED + 0.1)) == ["a"]
    assert connection.persisted({"a": 5}, 1.2) == [Read()], "they come back from the store"
    connection.begin_read()
    connection.pause(None)
    assert (connection.held, connection.tick(9.0)) == (0, [])


def test_own_sends_go_out_in_order_when_it_is_over() -> None:
    connection = paused(live())
    for id in "ab":
        connection.send_own(make_message(id=id), 0.0)
    assert connection.ring() == [Read()]
    connection.begin_read()
    assert sent(connection.take([], more=False, now=0.5)) == ["a", "b"]
    assert sent(connection.send_own(make_message(id="c"), 0.6)) == ["c"]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_burst_of_own_sends_is_stored_at_once(mode: Mode) -> None:
    """No ack can make room: nobody waits for one."""
    connection = paused(live(mode, window=2))
    stored_at_once = [persisted(connection.send_own(make_message(id=str(n)), 0.0)) for n in range(4)]
    assert [id for ids in stored_at_once for id in ids][:2] == ["0", "1"]


def test_what_is_in_flight_is_acked() -> None:
    connection = live()
    connection.ring()
    connection.begin_read()
    connection.take(stored(1, 2), more=False, now=0.0)
    paused(connection)
    assert acknowledged(connection.receive(Ack(2), 0.1)) == [1, 2]


def test_a_pause_with_an_end_is_over_by_itself() -> None:
    connection = paused(live(), until=30.0)
    assert connection.tick(29.9) == []
    assert connection.tick(30.0) == [Read()]
    connection.begin_read()
    assert sent(connection.take(stored(1), more=False, now=30.1)) == ["m1"]
    assert connection.tick(31.0) == []


def test_a_bell_that_came_meanwhile_is_not_forgotten() -> None:
    connection = live()
    connection.ring()
    connection.begin_read()
    assert connection.ring() == []
    assert connection.pause(None) == [Read()], "it was rung after the read had begun: it may be over"


def test_at_its_end_own_sends_are_stored() -> None:
    connection = paused(live())
    connection.send_own(make_message(id="a"), 0.0)
    assert persisted(connection.close(None, 0.1)) == ["a"]
