"""What a client may send: pings and empty acks up to a rate, its own frames up to another, acks of deliveries."""

from __future__ import annotations

from netra_queue.core.deliveries import Delivery, Window
from netra_queue.core.gate import Gate
from netra_queue.core.rate import Rate
from netra_queue.core.wire import Ack, ControlFrame, Ping
from tests.making import make_message, make_policy

THREE = Rate(60, 60, 3)  # and one a second
POLICY = make_policy(control_frames=THREE, client_frames=None)


def passes(gate: Gate, window: Window, frame: ControlFrame | None, now: float = 100.0) -> bool:
    refused = gate.refuses(frame, window, POLICY, now)
    assert refused in (None, THREE)
    return refused is None


def test_pings_and_empty_acks_count_together() -> None:
    gate, window = Gate(), Window(POLICY)
    assert [passes(gate, window, frame) for frame in (Ping(), Ack(0), Ack(7), Ping())] == [True] * 3 + [False]


def test_the_rate_comes_back() -> None:
    gate, window = Gate(), Window(POLICY)
    assert [passes(gate, window, Ping(), 100.0) for _ in range(3)] == [True] * 3
    assert [passes(gate, window, Ping(), 101.5) for _ in range(2)] == [True, False]


def test_acks_of_something_new_are_free() -> None:
    gate, window = Gate(), Window(POLICY)
    for seq in range(1, 51):
        message = make_message(seq)
        window.add(Delivery(seq, message.id, 1, 100.0, (seq,)), message)
        assert passes(gate, window, Ack(seq))
        window.release(seq, 100.0)
    assert [passes(gate, window, Ack(50)) for _ in range(4)] == [True] * 3 + [False]


def test_the_applications_own_frames_have_a_rate_of_their_own() -> None:
    gate, window = Gate(), Window(POLICY)
    assert all(passes(gate, window, None) for _ in range(50)), "and none by default"
    limited = make_policy(control_frames=None, client_frames=THREE)
    refused = [gate.refuses(None, window, limited, 100.0) for _ in range(4)]
    assert refused == [None, None, None, THREE]
    assert all(gate.refuses(Ping(), window, limited, 100.0) is None for _ in range(50))
