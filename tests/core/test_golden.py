"""The frames in tests/golden are what ``core.wire`` writes and understands. Clients in other languages read them too.

A file has ``name``, ``direction``, ``input`` (the values) and ``frame`` (the text). Of a client's frame it may say
``close_code`` (the server closes with it), ``passed_on`` (it is the application's own frame) and
``after_deliveries`` (how many deliveries were sent before).
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from netra_queue.core import wire
from netra_queue.core.actions import Close, Transmit
from netra_queue.core.connection import Connection
from netra_queue.core.message import Losses, LossReason, Message, Payload, PayloadKind, Priority
from netra_queue.core.wire import Mode
from tests.making import make_message, make_policy

GOLDEN = {
    path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent.parent / "golden").glob("*"))
}
SERVERS = [name for name, case in GOLDEN.items() if case["direction"] == "server_to_client" and case["frame"]]
CLIENTS = [name for name, case in GOLDEN.items() if case["direction"] == "client_to_server"]


def losses(given: dict[str, Any]) -> Losses:
    counts: Counter[tuple[LossReason, Priority]] = Counter()
    for reason, priority, count in given["lost"]:
        counts[LossReason(reason), Priority[priority.upper()]] += count
    since = datetime.fromisoformat(given["since"]) if "since" in given else None
    return Losses(counts=counts, since=since, records=tuple(range(len(counts))))


def entry(position: int, given: dict[str, Any]) -> tuple[Message, bool]:
    payload = Payload(PayloadKind[given["kind"].upper()], given["text"], len(given["text"].encode()))
    message = Message(
        position=position,
        id=given["id"],
        payload=payload,
        priority=Priority[given["priority"].upper()],
        created_at=datetime.fromisoformat(given["created_at"]),
    )
    return message, given["replayed"]


def write(given: dict[str, Any]) -> str:
    match given["frame"]:
        case "hello":
            policy = make_policy(window=given["window"], heartbeat_seconds=given["heartbeat_seconds"])
            return wire.hello(queue=given["queue"], waiting=given["waiting"], losses=losses(given), policy=policy)
        case "lost":
            return wire.lost(losses(given))
        case "messages":
            return wire.messages(given["seq"], [entry(*item) for item in enumerate(given["messages"])])
        case "retry":
            return wire.retry(given["after_seconds"])
        case "live":
            return wire.live()
        case "pong":
            return wire.pong()
        case other:
            raise AssertionError(f"unknown frame {other!r}")


@pytest.mark.parametrize("name", SERVERS)
def test_what_the_server_writes(name: str) -> None:
    case = GOLDEN[name]
    assert write(case["input"]) == case["frame"]
    assert json.loads(case["frame"])["type"] == f"netra.{case['input']['frame']}"


@pytest.mark.parametrize("name", CLIENTS)
def test_what_the_server_understands(name: str) -> None:
    case = GOLDEN[name]
    if case["input"] is not None:
        given = case["input"]
        expected = wire.Ack(given["seq"]) if given["frame"] == "ack" else wire.Ping()
        assert wire.parse_client_frame(case["frame"]) == expected
    elif case.get("passed_on"):
        assert wire.parse_client_frame(case["frame"]) is None
    else:
        with pytest.raises(wire.MalformedFrame) as caught:
            wire.parse_client_frame(case["frame"])
        assert 0 < len(caught.value.reason.encode()) <= 123
        assert case["close_code"] == wire.CloseCode.MALFORMED


@pytest.mark.parametrize("name", [name for name in CLIENTS if "after_deliveries" in GOLDEN[name]])
def test_what_a_connection_answers(name: str) -> None:
    case = GOLDEN[name]
    connection = Connection("user.1", make_policy(), Mode.PROTOCOL, 0.0)
    connection.opened(waiting=0, losses=Losses(), at=make_message().created_at)
    assert connection.begin_read() is not None
    actions = connection.take([make_message(n) for n in range(case["after_deliveries"])], more=False, now=0.0)
    assert [a.last_seq for a in actions if isinstance(a, Transmit)] == [case["after_deliveries"], None]
    frame = wire.parse_client_frame(case["frame"])
    assert frame is not None
    (close,) = connection.receive(frame, 0.0)
    assert isinstance(close, Close)
    assert close.code == case["close_code"]


def test_close_codes() -> None:
    assert {code.name.lower(): code.value for code in wire.CloseCode} == GOLDEN["close_codes"]["codes"]


def test_every_frame_of_the_protocol_has_a_file() -> None:
    frames = {case["input"]["frame"] for case in GOLDEN.values() if case["input"]}
    assert frames == {"hello", "messages", "live", "lost", "pong", "retry", "ack", "ping"}
