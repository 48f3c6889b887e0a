"""What a connection notes of its deliveries, for statistics."""

from __future__ import annotations

from datetime import timedelta

from netra_queue.core.connection import Connection
from netra_queue.core.message import Losses, Priority
from netra_queue.core.wire import Ack, Mode
from tests.making import NOON, make_message, make_policy


def live_connection(now: float = 0.0) -> Connection:
    connection = Connection("user.1", make_policy(), Mode.PROTOCOL, now)
    connection.opened(waiting=0, losses=Losses(), at=NOON + timedelta(minutes=1))
    return connection


def read(connection: Connection, *positions: int, now: float, more: bool = False, **options: Priority) -> None:
    connection.ring()
    connection.begin_read()
    connection.take([make_message(position, **options) for position in positions], more=more, now=now)


def test_what_is_transmitted_and_acked_is_noted_once() -> None:
    connection = live_connection()
    read(connection, 1, 2, now=3.0, priority=Priority.HIGH)
    account = connection.window.take_account()
    assert account.transmitted == [Priority.HIGH] * 2
    assert account.stored_at == NOON
    assert (account.acked, account.live_seconds) == ([], 3.0)
    assert not connection.window.take_account()
    connection.receive(Ack(1), 4.0)
    connection.receive(Ack(2), 5.0)
    connection.receive(Ack(2), 6.0)
    acked = connection.window.take_account().acked
    assert [(delivery.seq, delivery.sent_at, at) for delivery, at in acked] == [(1, NOON, 4.0), (2, NOON, 5.0)]


def test_it_is_live_once_and_not_before_the_end_of_the_replay() -> None:
    connection = live_connection(now=10.0)
    read(connection, 1, now=11.0, more=True)
    assert connection.window.take_account().live_seconds is None
    read(connection, 2, now=12.0)
    assert connection.window.take_account().live_seconds == 2.0
    read(connection, 3, now=13.0)
    assert connection.window.take_account().live_seconds is None


def test_own_sends_come_from_no_store() -> None:
    connection = live_connection()
    read(connection, now=1.0)
    connection.window.take_account()
    connection.send_own(make_message(), 2.0)
    account = connection.window.take_account()
    assert (account.transmitted, account.stored_at) == ([Priority.NORMAL], None)
    assert connection.window.own_sends == 1
    connection.receive(Ack(1), 3.0)
    ((delivery, _),) = connection.window.take_account().acked
    assert delivery.own is not None
    assert connection.window.own_sends == 0


def test_a_raw_connection_notes_what_it_counts_as_delivered() -> None:
    connection = Connection("user.1", make_policy(), Mode.RAW, 0.0)
    connection.opened(waiting=0, losses=Losses(), at=NOON)
    read(connection, 1, now=1.0)
    connection.written(1, 1.0)
    connection.close(1000, 2.0)
    assert len(connection.window.take_account().acked) == 1
