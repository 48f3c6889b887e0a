"""What the server says, from text. The only file of the client that knows JSON keys; tests/golden has the frames."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..core.message import Priority
from .values import Lost, Message

PING = '{"type":"netra.ping"}'


class UnreadableFrame(ValueError):
    """Not what ``netra-queue.v1`` describes."""


@dataclass(frozen=True, slots=True)
class Hello:
    queue: str
    waiting: int
    lost: Lost
    window: int
    heartbeat_seconds: float


@dataclass(frozen=True, slots=True)
class Messages:
    """Deliveries ``seq``, ``seq + 1``, …"""

    seq: int
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Live: ...


@dataclass(frozen=True, slots=True)
class Pong: ...


@dataclass(frozen=True, slots=True)
class Retry:
    after_seconds: float


ServerFrame = Hello | Messages | Lost | Live | Pong | Retry


def ack(seq: int) -> str:
    return f'{{"type":"netra.ack","seq":{seq}}}'


def parse(text: str | bytes) -> ServerFrame | None:
    """None for a frame that this client does not know: to be ignored. Raises UnreadableFrame."""
    try:
        frame = json.loads(text)
        return _parse(frame) if isinstance(frame, dict) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableFrame(f"a frame that cannot be read: {type(error).__name__}") from error


def _parse(frame: Mapping[str, Any]) -> ServerFrame | None:
    match frame.get("type"):
        case "netra.hello":
            lost = _lost(frame["lost"])
            return Hello(frame["queue"], int(frame["waiting"]), lost, int(frame["window"]), float(frame["heartbeat"]))
        case "netra.messages":
            return Messages(int(frame["seq"]), tuple(_message(entry) for entry in frame["messages"]))
        case "netra.lost":
            return _lost(frame)
        case "netra.live":
            return Live()
        case "netra.pong":
            return Pong()
        case "netra.retry":
            return Retry(float(frame["after"]))
    return None


def _message(entry: Mapping[str, Any]) -> Message:
    return Message(
        data=_payload(entry),
        id=str(entry["id"]),
        priority=Priority[entry["priority"].upper()],
        sent_at=datetime.fromisoformat(entry["sent_at"]),
        replayed=bool(entry["replayed"]),
    )


def _payload(entry: Mapping[str, Any]) -> Any:
    if "data" in entry:
        return entry["data"]
    return entry["text"] if "text" in entry else base64.b64decode(entry["data_base64"])


def _lost(frame: Mapping[str, Any]) -> Lost:
    reasons = [key for key in frame if key not in ("type", "since", "by_priority")]
    since = frame.get("since")
    return Lost(
        counts={reason: int(frame[reason]) for reason in reasons},
        since=datetime.fromisoformat(since) if since else None,
        by_priority=frame.get("by_priority", {}),
    )
