"""The golden frames, from the client's side: what it understands of the server's, and what it writes."""

from __future__ import annotations

import base64
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from netra_queue.client import frames
from netra_queue.client.values import Lost, Message
from netra_queue.core.message import Priority

GOLDEN = {
    path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent.parent / "golden").glob("*"))
}
SERVERS = [name for name, case in GOLDEN.items() if case["direction"] == "server_to_client" and case["frame"]]


def lost(given: dict[str, Any]) -> Lost:
    counts: Counter[str] = Counter({"expired": 0, "dropped": 0})
    by_priority: dict[str, dict[str, int]] = {}
    for reason, priority, count in given["lost"]:
        counts[reason] += count
        by_priority.setdefault(reason, {})[priority] = count
    if "since" not in given:
        return Lost(counts=dict(counts))
    by_priority = {reason: by_priority.get(reason, {}) for reason in counts}
    return Lost(counts=dict(counts), since=datetime.fromisoformat(given["since"]), by_priority=by_priority)


def message(given: dict[str, Any]) -> Message:
    data = base64.b64decode(given["text"]) if given["kind"] == "bytes" else json.loads(given["text"])
    return Message(
        data=data,
        id=given["id"],
        priority=Priority[given["priority"].upper()],
        sent_at=datetime.fromisoformat(given["created_at"]),
        replayed=given["replayed"],
    )


def expected(given: dict[str, Any]) -> frames.ServerFrame:
    match given["frame"]:
        case "hello":
            queue, waiting, window = given["queue"], given["waiting"], given["window"]
            return frames.Hello(queue, waiting, lost(given), window, given["heartbeat_seconds"])
        case "messages":
            return frames.Messages(given["seq"], tuple(message(entry) for entry in given["messages"]))
        case "lost":
            return Lost(counts=lost(given).counts)
        case "retry":
            return frames.Retry(pytest.approx(given["after_seconds"], abs=0.05))
        case "live":
            return frames.Live()
        case "pong":
            return frames.Pong()
        case other:
            raise AssertionError(f"unknown frame {other!r}")


@pytest.mark.parametrize("name", SERVERS)
def test_what_the_client_understands(name: str) -> None:
    assert frames.parse(GOLDEN[name]["frame"]) == expected(GOLDEN[name]["input"])


def test_what_the_client_writes() -> None:
    assert GOLDEN["ping"]["frame"] == frames.PING
    assert frames.ack(GOLDEN["ack"]["input"]["seq"]) == GOLDEN["ack"]["frame"]


@pytest.mark.parametrize("text", ['{"type":"netra.news","n":1}', '{"n":1}', "[1]", "null", '{"type":7}'])
def test_what_it_does_not_know_is_ignored(text: str) -> None:
    assert frames.parse(text) is None


def test_keys_that_it_does_not_know_are_ignored() -> None:
    frame = json.loads(GOLDEN["messages_data"]["frame"])
    frame["messages"][0]["new"] = frame["new"] = 1
    assert frames.parse(json.dumps(frame)) == frames.parse(GOLDEN["messages_data"]["frame"])


@pytest.mark.parametrize(
    "text",
    [
        "plain text",
        '{"type":"netra.hello"}',
        '{"type":"netra.messages","seq":1,"messages":[{"id":"a"}]}',
        '{"type":"netra.messages","seq":"x","messages":[]}',
        '{"type":"netra.retry","after":null}',
        f'{{"type":"netra.messages","seq":1,"messages":{"[" * 100_000}',
    ],
)
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(frames.UnreadableFrame):
        frames.parse(text)
