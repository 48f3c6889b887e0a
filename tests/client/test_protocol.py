"""What the client's protocol decides, moment by moment."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netra_queue.client.protocol import LONGEST_BACKOFF_SECONDS, Protocol
from netra_queue.client.values import (
    Action,
    Connect,
    Disconnect,
    Frame,
    Handle,
    Lost,
    Repeat,
    Save,
    State,
    StateChange,
    Write,
)

PING = Write('{"type":"netra.ping"}')


def ack(seq: int) -> Write:
    return Write(f'{{"type":"netra.ack","seq":{seq}}}')


def hello(*, window: int = 4, waiting: int = 0, heartbeat: float = 20, **lost: int) -> str:
    frame = {"type": "netra.hello", "queue": "user.1", "waiting": waiting, "lost": {"expired": 0, "dropped": 0, **lost}}
    return json.dumps(frame | {"window": window, "heartbeat": heartbeat})


def messages(seq: int, *ids: str) -> str:
    entry = {"priority": "normal", "sent_at": "2026-01-01T00:00:00.000Z", "replayed": False, "data": 1}
    return json.dumps({"type": "netra.messages", "seq": seq, "messages": [{"id": id, **entry} for id in ids]})


LIVE = '{"type":"netra.live"}'
PONG = '{"type":"netra.pong"}'


def opened(protocol: Protocol | None = None, now: float = 0.0, **options: Any) -> Protocol:
    """A client that is live."""
    protocol = protocol or Protocol(random=lambda: 1.0)
    protocol.connect(now)
    protocol.received(hello(**options), now)
    protocol.received(LIVE, now)
    assert protocol.state is State.LIVE
    return protocol


def taken(actions: list[Action], kind: type[Any]) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def given(actions: list[Action]) -> list[str]:
    return [action.message.id for action in taken(actions, Handle)]


def pause(actions: list[Action]) -> float:
    """How long it waits now."""
    (change,) = taken(actions, StateChange)
    assert change.state is State.WAITING
    return float(change.seconds)


def test_connecting_replaying_live() -> None:
    protocol = Protocol(random=lambda: 1.0)
    assert protocol.connect(0) == [StateChange(state=State.CONNECTING), Connect()]
    (change,) = protocol.received(hello(waiting=3), 1)
    assert change == StateChange(state=State.REPLAYING, queue="user.1", waiting=3)
    assert protocol.received(LIVE, 2) == [StateChange(state=State.LIVE)]


def test_one_message_at_a_time_and_acks_after_handling() -> None:
    protocol = opened()
    assert given(protocol.received(messages(1, "a", "b"), 1)) == ["a"]
    assert given(protocol.handled(1)) == ["b"]
    assert protocol.tick(1.05) == []
    assert protocol.wake_at == pytest.approx(1.1)
    assert protocol.tick(1.1) == [Save(), ack(1)], "a only"
    assert protocol.handled(2) == []
    assert protocol.tick(2.1) == [Save(), ack(2)]


def test_acks_no_later_than_after_half_a_window() -> None:
    protocol = opened(window=4)
    protocol.received(messages(1, "a", "b", "c"), 1)
    assert ack(2) not in protocol.handled(1)
    assert [Save(), ack(2)] == protocol.handled(1)[:2]


def test_a_repeat_is_not_handled_and_is_acked() -> None:
    protocol = opened()
    protocol.received(messages(1, "a"), 1)
    protocol.handled(1)
    protocol.disconnected(1006, "", 1.05)
    opened(protocol, 2)
    actions = protocol.received(messages(1, "a", "b"), 2)
    assert [action.message.id for action in taken(actions, Repeat)] == ["a"]
    assert given(actions) == ["b"]
    assert protocol.tick(2.1) == [Save(), ack(1)]


def test_repeats_are_known_after_more_urgent_messages_that_had_piled_up() -> None:
    protocol = opened(window=4)
    protocol.received(messages(1, "low"), 1)
    protocol.handled(1)
    protocol.disconnected(1006, "", 1.05)
    opened(protocol, 2, window=4, waiting=101)
    for seq in range(1, 101):
        protocol.received(messages(seq, f"urgent-{seq}"), 3)
        protocol.handled(3)
    assert given(protocol.received(messages(101, "low"), 4)) == []


def test_what_is_remembered_is_bounded() -> None:
    protocol = opened(window=4, waiting=3)
    for seq in range(1, 101):
        protocol.received(messages(seq, str(seq)), 1)
        protocol.handled(1)
    assert list(protocol.seen.ids) == [str(number) for number in range(90, 101)]


def test_a_message_in_hand_over_a_reconnect_is_not_given_twice() -> None:
    protocol = opened()
    protocol.received(messages(1, "a"), 1)
    protocol.disconnected(1006, "", 1)
    opened(protocol, 2)
    assert given(protocol.received(messages(1, "a", "b"), 2)) == []
    actions = protocol.handled(3)
    assert actions[0] == Save()
    assert [action.message.id for action in taken(actions, Repeat)] == ["a"]
    assert given(actions) == ["b"]
    assert protocol.tick(3.1) == [Save(), ack(1)]


def test_a_failure_acks_what_was_handled_before_and_reconnects() -> None:
    protocol = opened()
    protocol.received(messages(1, "a", "b"), 1)
    protocol.handled(1)
    actions = protocol.failed("oops", 1)
    assert actions[:3] == [Save(), ack(1), Disconnect()]
    assert pause(actions) == 0.5
    opened(protocol, 2)
    assert given(protocol.received(messages(1, "b"), 2)) == ["b"]


def test_what_fails_again_and_again_is_tried_ever_less_often() -> None:
    protocol, pauses = Protocol(random=lambda: 1.0), []
    for attempt in range(8):
        opened(protocol, attempt * 100)
        protocol.received(messages(1, "a"), attempt * 100)
        pauses.append(pause(protocol.failed("oops", attempt * 100)))
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]
    opened(protocol, 900)
    protocol.received(messages(1, "a"), 900)
    protocol.handled(900)
    assert pause(protocol.disconnected(1006, "", 901)) == 0.5


def test_it_comes_back_for_ever_with_random_pauses() -> None:
    numbers = iter([0.0, 0.5] + [1.0] * 3000)
    protocol, now = Protocol(random=lambda: next(numbers)), 0.0
    pauses = []
    for _ in range(2000):
        protocol.connect(now)
        pauses.append(pause(protocol.disconnected(1006, "", now)))
        now += 100
    assert pauses[:4] == [0.0, 0.5, 2.0, 4.0]
    assert set(pauses[10:]) == {LONGEST_BACKOFF_SECONDS}
    assert protocol.tick(now) == [StateChange(state=State.CONNECTING), Connect()]


def test_what_is_live_begins_anew() -> None:
    protocol = Protocol(random=lambda: 1.0)
    for _ in range(5):
        protocol.connect(0)
        protocol.disconnected(1006, "", 0)
    opened(protocol, 1)
    assert pause(protocol.disconnected(1006, "", 1)) == 0.5


def test_a_connection_that_died_counts_until_something_shows_that_the_next_one_does_not() -> None:
    protocol = opened()
    assert pause(protocol.received("no frame", 1)) == 0.5
    opened(protocol, 10)
    assert pause(protocol.received("no frame", 11)) == 1, "no quick loop over a server that is always wrong"
    opened(protocol, 20)
    protocol.received(PONG, 21)
    assert pause(protocol.disconnected(1006, "", 22)) == 0.5


def test_a_paced_return() -> None:
    protocol = opened()
    protocol.received('{"type":"netra.retry","after":2.4}', 1)
    assert pause(protocol.disconnected(1012, "", 1)) == pytest.approx(2.9)
    opened(protocol, 10)
    assert pause(protocol.disconnected(1012, "", 11)) == 0.5, "once"


@pytest.mark.parametrize("code", [4400, 4401, 4403, 4499])
def test_refused(code: int) -> None:
    protocol = opened()
    assert protocol.disconnected(code, "why", 1) == [StateChange(state=State.CLOSED, code=code, reason="why")]
    assert protocol.wake_at is None


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1011, 1012, 4503, 4508, 4529])
def test_not_refused(code: int) -> None:
    assert pause(opened().disconnected(code, "", 1)) == 0.5


def test_heartbeat() -> None:
    protocol = opened(heartbeat=20)
    assert protocol.wake_at == 10
    assert protocol.tick(10) == [PING]
    protocol.received(PONG, 11)
    assert protocol.tick(20) == [PING]
    actions = protocol.tick(30)
    assert actions[0] == Disconnect(), "nothing came for half a heartbeat after the ping"
    assert taken(actions, StateChange)[0].code == 1006


def test_a_process_that_stood_still_asks_before_it_believes_that_the_server_is_silent() -> None:
    protocol = opened(heartbeat=20)
    protocol.tick(10)
    assert protocol.tick(60) == [PING]
    assert protocol.wake_at == 63
    assert protocol.tick(63)[0] == Disconnect()


def test_without_a_hello() -> None:
    protocol = Protocol(random=lambda: 1.0)
    protocol.connect(0)
    assert protocol.tick(14.9) == []
    assert protocol.tick(15)[0] == Disconnect()


def test_a_process_that_stood_still_goes_on_waiting_for_its_hello() -> None:
    protocol = Protocol(random=lambda: 1.0)
    protocol.connect(0)
    assert protocol.tick(60) == []
    assert protocol.tick(63)[0] == Disconnect()


def test_a_gap() -> None:
    protocol = opened()
    protocol.received(messages(1, "a"), 1)
    actions = protocol.received(messages(3, "c"), 1)
    assert actions[0] == Disconnect()
    assert not given(actions)


def test_losses_in_the_hello_are_told_and_acked() -> None:
    protocol = Protocol(random=lambda: 1.0)
    protocol.connect(0)
    (lost,) = taken(protocol.received(hello(expired=2), 0), Lost)
    assert lost.counts == {"expired": 2, "dropped": 0}
    assert protocol.tick(0.1) == [Save(), ack(0)]


def test_losses_are_told_and_acked_with_nothing_new() -> None:
    protocol = opened()
    protocol.received(messages(1, "a"), 1)
    protocol.handled(1)
    told, answer = protocol.received('{"type":"netra.lost","expired":1,"dropped":0}', 1)
    assert told == Lost(counts={"expired": 1, "dropped": 0})
    assert answer == ack(0), "1 is not acked before its time"


def test_what_was_sent_while_offline_is_written_in_order_after_the_hello() -> None:
    protocol = Protocol(random=lambda: 1.0)
    one, two, three, four = (Frame(text) for text in "1234")
    for frame in (one, two, three):
        assert protocol.send(frame) == []
    protocol.withdraw(two)
    protocol.connect(0)
    protocol.send(four)
    written = taken(protocol.received(hello(), 0), Write)
    assert [write.frame for write in written] == [one, three, four]
    assert protocol.send(two) == [Write("2", two)]


def test_what_the_connection_did_not_take_comes_first() -> None:
    protocol = opened()
    one, two, three = (Frame(text) for text in "123")
    protocol.disconnected(1006, "", 1)
    protocol.send(three)
    protocol.unwritten([one, two])
    assert list(protocol.outbox) == [one, two, three]


def test_close() -> None:
    protocol = opened()
    protocol.received(messages(1, "a"), 1)
    protocol.handled(1)
    assert protocol.close() == [Save(), ack(1), Disconnect(), StateChange(state=State.CLOSED)]
    assert protocol.wake_at is None
    assert protocol.close() == []
    assert protocol.tick(100) == []


def test_handled_after_the_end_is_saved() -> None:
    protocol = opened()
    protocol.received(messages(1, "a"), 1)
    protocol.close()
    assert protocol.handled(1) == [Save()]
    assert "a" in protocol.seen
