"""What a sender hands over, checked and encoded. Nothing in here writes or reads anything."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from . import conf
from .core.message import CLIENT_ID, MAX_KEY_LENGTH, QUEUE_NAME, SENDER, SENDER_NAME, Payload, PayloadKind, Priority
from .exceptions import InvalidMessage

Seconds = float | timedelta
WAIT_SECONDS = 10.0  # for room, by default
LONGEST_WAIT_SECONDS = 3600.0
NAME = "1 to 150 of A-Z a-z 0-9 . _ : @ + = -, the first one a letter or digit"
PRIORITIES = [f"Priority.{priority.name}" for priority in Priority]
_encoder = DjangoJSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def check_queue(name: object) -> str:
    """Raises InvalidMessage for anything but a queue's name."""
    if not isinstance(name, str) or QUEUE_NAME.fullmatch(name) is None:
        raise InvalidMessage("queue name", expected=NAME, got=name)
    return name


def check_group(name: object) -> str:
    """Raises InvalidMessage for anything but a group's name: what a queue's name may be, a group's may be."""
    if not isinstance(name, str) or QUEUE_NAME.fullmatch(name) is None:
        raise InvalidMessage("group name", expected=NAME, got=name)
    return name


def check_address(name: object) -> str:
    """Raises InvalidMessage for anything but the name of a queue or of a line of it."""
    if not isinstance(name, str) or "/" not in name:
        return check_queue(name)
    queue, _, client = name.partition("/")
    check_queue(queue)
    if CLIENT_ID.fullmatch(client) is None:
        raise InvalidMessage("line", expected="a queue's name, a slash, and 1 to 64 of A-Z a-z 0-9 _ -", got=name)
    return name


def check_deliver(deliver: object) -> str:
    """Raises InvalidMessage for anything but "all" and "first"."""
    if deliver not in ("all", "first"):
        raise InvalidMessage("deliver", expected="'all' or 'first'", got=deliver)
    return str(deliver)


def check_priority(priority: object) -> Priority:
    """A Priority or its number. Raises InvalidMessage for anything else."""
    if isinstance(priority, Priority):
        return priority
    if isinstance(priority, int) and not isinstance(priority, bool) and priority in Priority.__members__.values():
        return Priority(priority)
    raise InvalidMessage("priority", expected=f"one of {', '.join(map(str, PRIORITIES))}", got=priority)


def check_key(key: object) -> str | None:
    """Raises InvalidMessage for anything but a short text or None."""
    return _short_text("key", key)


def check_collapse(collapse: object) -> str | None:
    """Raises InvalidMessage for anything but a short text or None."""
    return _short_text("collapse", collapse)


def _short_text(what: str, text: object) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_KEY_LENGTH:
        raise InvalidMessage(what, expected=f"a string of 1 to {MAX_KEY_LENGTH} characters", got=text)
    _refuse_surrogates(what, text)
    return text


def check_track(track: object) -> bool:
    """Raises InvalidMessage for anything but True and False."""
    if not isinstance(track, bool):
        raise InvalidMessage("track", expected="True or False", got=track)
    return track


def check_sender(sender: object) -> str:
    """Raises InvalidMessage for anything but the name of a class of senders, or ""."""
    if not isinstance(sender, str) or (sender and SENDER.fullmatch(sender) is None):
        raise InvalidMessage("sender", expected=f"the name of a class of senders: {SENDER_NAME}", got=sender)
    return sender


def check_overflow(overflow: object, timeout: Any) -> float:
    """For how many seconds a send waits for room. Raises InvalidMessage for anything but None and "wait", and for a
    time that is not above 0 or waits for nothing."""
    if overflow not in (None, "wait"):
        raise InvalidMessage("overflow", expected="None or 'wait'", got=overflow)
    if timeout is None:
        return WAIT_SECONDS
    if overflow is None:
        raise InvalidMessage("timeout", expected="overflow='wait' with it", got=timeout)
    return _seconds("timeout", timeout, LONGEST_WAIT_SECONDS, f"at most {LONGEST_WAIT_SECONDS:g} seconds")


def check_ttl(ttl: Any) -> float | None:
    """Seconds, from a number or a timedelta. Raises InvalidMessage for what is not above 0 or too long."""
    if ttl is None:
        return None
    longest = conf.longest_ttl()
    return _seconds("ttl", ttl, longest, f"at most {longest} seconds (MAX_TTL_SECONDS)")


def _seconds(what: str, given: Any, longest: float, limit: str) -> float:
    seconds: Any = given.total_seconds() if isinstance(given, timedelta) else given
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= longest:
        raise InvalidMessage(what, expected=f"above 0 and {limit}", got=given)
    return float(seconds)


def encode(payload: Any) -> Payload:
    """The payload as JSON text, with Django's encoder. Raises InvalidMessage for what JSON cannot hold."""
    try:
        text = _encoder.encode(payload)
    except (TypeError, ValueError, RecursionError) as error:
        expected = f"something that Django's JSON encoder takes, without NaN ({error})"
        raise InvalidMessage("payload", expected=expected, got=payload) from error
    return Payload(PayloadKind.JSON, text, _refuse_surrogates("payload", text))


def _refuse_surrogates(what: str, text: str) -> int:
    """The text's size in bytes of UTF-8. Databases refuse lone surrogates, after they spoiled the transaction."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidMessage(what, expected=f"text without lone surrogates ({error})", got=text) from error
