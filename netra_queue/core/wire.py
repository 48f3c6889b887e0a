"""Frames of ``netra-queue.v1`` to and from text, and the close codes. The only file that knows JSON keys.

The protocol is described in docs/protocol.md; tests/golden holds its frames as files.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, IntEnum
from functools import lru_cache
from typing import Any, NoReturn
from urllib.parse import parse_qs

from .message import CLIENT_ID, EPOCH, Losses, LossReason, Message, Payload, PayloadKind, Priority
from .policy import Policy

SUBPROTOCOL = "netra-queue.v1"
CONTROL_PREFIX = "netra."


class Mode(Enum):
    """Whether the client speaks ``netra-queue.v1`` or takes plain frames."""

    PROTOCOL = "protocol"
    RAW = "raw"


class CloseCode(IntEnum):
    """44xx: do not come back unchanged. 45xx: come back with backoff. 1012: the server restarts, come back."""

    RESTART = 1012
    MALFORMED = 4400
    NOT_AUTHENTICATED = 4401
    NOT_YOUR_QUEUE = 4403
    STORE_UNAVAILABLE = 4503
    NOT_RESPONDING = 4508
    SENT_AWAY = 4512
    TOO_MANY_CONNECTIONS = 4529


RAW_ABNORMAL_CODES = frozenset({None, 1005, 1006, 1011, 1012})  # 1005: what Uvicorn says of a reset


class MalformedFrame(ValueError):
    """The peer sent a control frame that the protocol does not know. ``reason`` fits a close frame (123 bytes)."""

    def __init__(self, reason: str) -> None:
        self.reason = reason.encode("ascii", "backslashreplace").decode()[:120]
        super().__init__(self.reason)


@dataclass(frozen=True, slots=True)
class Ack:
    """Every delivery up to ``seq`` on this connection has been processed."""

    seq: int


@dataclass(frozen=True, slots=True)
class Ping:
    """The client is alive."""


ControlFrame = Ack | Ping


def parse_client_frame(text: str) -> ControlFrame | None:
    """The control frame in a client's text frame, or None if the frame is the application's own.

    Raises MalformedFrame for a frame whose type begins with ``netra.`` and that is none of the client's frames.
    """
    if '"netra.' not in text:
        return None
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        return None
    kind = frame.get("type") if isinstance(frame, dict) else None
    if not isinstance(kind, str) or not kind.startswith(CONTROL_PREFIX):
        return None
    if kind == "netra.ack":
        return Ack(_whole_number(frame.get("seq")))
    if kind == "netra.ping":
        return Ping()
    raise MalformedFrame(f"unknown control frame {kind[:60]!r}")


def _whole_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MalformedFrame(f"netra.ack: seq must be a whole number from 0, got {repr(value)[:40]}")
    return value


def client_id(query_string: bytes) -> str:
    """The ``?client=`` of the handshake, or ''. Raises MalformedFrame for one that is not allowed."""
    values = parse_qs(query_string.decode("latin-1"), keep_blank_values=True).get("client")
    if not values:
        return ""
    if len(values) > 1 or CLIENT_ID.fullmatch(values[0]) is None:
        raise MalformedFrame("client: expected 1 to 64 of A-Z a-z 0-9 _ -")
    return values[0]


def hello(*, queue: str, waiting: int, losses: Losses, policy: Policy) -> str:
    frame = {"type": "netra.hello", "queue": queue, "waiting": waiting, "lost": _lost_since(losses)}
    return _encode(frame | {"window": policy.window, "heartbeat": _plain(policy.heartbeat_seconds)})


def lost(losses: Losses) -> str:
    return _encode({"type": "netra.lost", **_lost_counts(losses)})


def live() -> str:
    return '{"type":"netra.live"}'


def pong() -> str:
    return '{"type":"netra.pong"}'


def retry(after_seconds: float) -> str:
    return _encode({"type": "netra.retry", "after": round(after_seconds, 1)})


def messages(first_seq: int, entries: Iterable[tuple[Message, bool]]) -> str:
    """One frame for consecutive deliveries. Payload text goes in as it is stored; it is never decoded."""
    return f'{{"type":"netra.messages","seq":{first_seq},"messages":[{",".join(map(_entry, entries))}]}}'


def joined(frames: Sequence[str]) -> str:
    """One frame for several of ``messages``, each of which goes on where the one before ends."""
    head, *others = frames
    return "".join([head[:-2], *("," + frame[frame.index("[") + 1 : -2] for frame in others), "]}"])


PAYLOAD_KEY = {PayloadKind.JSON: "data", PayloadKind.TEXT: "text", PayloadKind.BYTES: "data_base64"}
_PRIORITY_NAME = {priority: priority.name.lower() for priority in Priority}


def _entry(entry: tuple[Message, bool]) -> str:
    message, replayed = entry
    payload = message.payload
    value = f'"{payload.text}"' if payload.kind is PayloadKind.BYTES else payload.text
    return (
        f'{{"id":"{message.id}","priority":"{_PRIORITY_NAME[message.priority]}",'
        f'"sent_at":"{timestamp(message.created_at)}","replayed":{"true" if replayed else "false"},'
        f'"{PAYLOAD_KEY[payload.kind]}":{value}}}'
    )


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, as JavaScript's ``Date`` writes it."""
    since = moment - EPOCH
    return f"{_second(since.days, since.seconds)}.{since.microseconds // 1000:03}Z"


@lru_cache(maxsize=64)  # messages that follow one another were mostly sent in the same seconds
def _second(days: int, seconds: int) -> str:
    return (EPOCH + timedelta(days, seconds)).isoformat()[:19]


ALWAYS_TOLD = (LossReason.EXPIRED, LossReason.DROPPED)


def _reasons(losses: Losses) -> list[LossReason]:
    return [reason for reason in LossReason if reason in ALWAYS_TOLD or losses.total(reason)]


def _lost_counts(losses: Losses) -> dict[str, Any]:
    return {reason.value: losses.total(reason) for reason in _reasons(losses)}


def _lost_since(losses: Losses) -> dict[str, Any]:
    counts = _lost_counts(losses)
    if losses and losses.since is not None:
        counts["since"] = timestamp(losses.since)
        counts["by_priority"] = {reason.value: losses.by_priority(reason) for reason in _reasons(losses)}
    return counts


def text_payload(text: str) -> Payload:
    """The payload of a text frame: the JSON document it is, or any other text.

    Raises UnicodeEncodeError for lone surrogates, which no WebSocket can carry.
    """
    size = len(text.encode())
    if _is_json(text):
        return Payload(PayloadKind.JSON, text, size)
    stored = json.dumps(text)
    return Payload(PayloadKind.TEXT, stored, len(stored))


def bytes_payload(data: bytes) -> Payload:
    text = base64.b64encode(data).decode("ascii")
    return Payload(PayloadKind.BYTES, text, len(text))


def plain_frame(payload: Payload) -> str | bytes:
    """The frame of raw mode: what the application meant, without an envelope."""
    if payload.kind is PayloadKind.JSON:
        return payload.text
    if payload.kind is PayloadKind.TEXT:
        return str(json.loads(payload.text))
    return base64.b64decode(payload.text)


def decoded(payload: Payload) -> Any:
    """What the application sent: its data, a text that is not JSON, or bytes."""
    return base64.b64decode(payload.text) if payload.kind is PayloadKind.BYTES else json.loads(payload.text)


def _is_json(text: str) -> bool:
    try:
        _STRICT.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_STRICT = json.JSONDecoder(parse_constant=_refuse)


def _plain(seconds: float) -> float | int:
    return int(seconds) if float(seconds).is_integer() else seconds


def _encode(frame: dict[str, Any]) -> str:
    return json.dumps(frame, separators=(",", ":"))
