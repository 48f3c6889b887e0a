"""A policy from its values, as the settings and operators write them. All defaults are here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .message import SENDER, SENDER_NAME, LossReason, Priority
from .policy import Exceeded, Overflow, Policy, Replay, WhileUnavailable
from .rate import Rate
from .rollout import EVERYTHING, Rollout

DAY = 86_400
LONGEST_SECONDS = 36_500 * DAY  # a hundred years from now is still a time that databases know
LARGEST = 2**53 - 1  # what is exact in JSON everywhere, and no database minds

POLICY_DEFAULTS: dict[str, Any] = {
    "MAX_MESSAGES": 1000,
    "MAX_BYTES": 8_388_608,
    "MAX_MESSAGE_BYTES": 262_144,
    "WINDOW": 256,
    "WINDOW_BYTES": 1_048_576,
    "OVERFLOW": "drop_oldest",
    "TTL": {"critical": 7 * DAY, "high": DAY, "normal": DAY, "low": DAY},
    "HEARTBEAT_SECONDS": 25,
    "ACK_TIMEOUT_SECONDS": 60,
    "LINE_SECONDS": 7 * DAY,
    "MAX_LINES": 20,
    "TRACK_SECONDS": DAY,
    "UNDELIVERED_SECONDS": None,
    "ON_UNDELIVERED": None,
    "MAX_DELIVERIES": 20,
    "DEAD_LETTERS": ("dead",),
    "DEAD_LETTER_SECONDS": 14 * DAY,
    "REPLAY": {},
    "ROLLOUT": {},
    "WHILE_UNAVAILABLE": "raise",
    "RATE": None,
    "SENDER_RATES": {},
    "RATE_EXCEEDED": "reject",
    "CLIENT_FRAMES": None,
    "CONTROL_FRAMES": "50/s burst 500",
    "CONNECTIONS": None,
    "REPLAY_RATE": None,
}
ROLLOUT_KEYS = ("PERCENT", "ALLOW", "DENY", "SHADOW")
REPLAY_KEYS = ("NEWEST", "SECONDS", "DIGEST")
MOST_DELIVERIES = 32_767  # what the column holds

WHOLE_NUMBERS = (
    "MAX_MESSAGES",
    "MAX_BYTES",
    "MAX_MESSAGE_BYTES",
    "WINDOW",
    "WINDOW_BYTES",
    "MAX_LINES",
    "MAX_DELIVERIES",
)
RATES = ("RATE", "CLIENT_FRAMES", "CONTROL_FRAMES", "CONNECTIONS", "REPLAY_RATE")
DURATIONS = ("HEARTBEAT_SECONDS", "ACK_TIMEOUT_SECONDS", "LINE_SECONDS", "TRACK_SECONDS", "DEAD_LETTER_SECONDS")


def _check_numbers(values: Mapping[str, Any]) -> None:
    for key in WHOLE_NUMBERS:
        _require_positive(key, values[key], whole=True)
    for key in DURATIONS:
        _require_positive(key, values[key])
        if values[key] > LONGEST_SECONDS:
            raise ValueError(f"{key}: expected at most {LONGEST_SECONDS}, got {values[key]!r}")
    if values["MAX_MESSAGE_BYTES"] > values["MAX_BYTES"]:
        raise ValueError("MAX_MESSAGE_BYTES is larger than MAX_BYTES: such a message could never be queued")
    if not 2 <= values["MAX_DELIVERIES"] <= MOST_DELIVERIES:
        raise ValueError(f"MAX_DELIVERIES: expected 2 to {MOST_DELIVERIES}, got {values['MAX_DELIVERIES']}")


def build(name: str, values: Mapping[str, Any], longest_ttl: float) -> Policy:
    """A policy of these values, one for each key of ``POLICY_DEFAULTS``.

    Raises ValueError, TypeError or KeyError for an impossible or unknown one, or for those that contradict each other.
    """
    if unknown := values.keys() - POLICY_DEFAULTS.keys():
        raise ValueError(f"unknown keys {sorted(unknown)}; known are {sorted(POLICY_DEFAULTS)}")
    _check_numbers(values)
    return Policy(
        name=name,
        max_messages=values["MAX_MESSAGES"],
        max_bytes=values["MAX_BYTES"],
        max_message_bytes=values["MAX_MESSAGE_BYTES"],
        window=values["WINDOW"],
        window_bytes=values["WINDOW_BYTES"],
        overflow=Overflow(values["OVERFLOW"]),
        ttl=_ttl(values["TTL"], longest_ttl),
        heartbeat_seconds=values["HEARTBEAT_SECONDS"],
        ack_timeout_seconds=values["ACK_TIMEOUT_SECONDS"],
        line_seconds=values["LINE_SECONDS"],
        max_lines=values["MAX_LINES"],
        track_seconds=values["TRACK_SECONDS"],
        undelivered=_undelivered(values["UNDELIVERED_SECONDS"]),
        on_undelivered=_dotted_path("ON_UNDELIVERED", values["ON_UNDELIVERED"]),
        max_deliveries=values["MAX_DELIVERIES"],
        dead_letters=_reasons(values["DEAD_LETTERS"]),
        dead_letter_seconds=values["DEAD_LETTER_SECONDS"],
        replay=_replay(values["REPLAY"]),
        rollout=_rollout(values["ROLLOUT"]),
        while_unavailable=WhileUnavailable(values["WHILE_UNAVAILABLE"]),
        rate=_rate("RATE", values["RATE"]),
        sender_rates=_sender_rates(values["SENDER_RATES"]),
        rate_exceeded=Exceeded(values["RATE_EXCEEDED"]),
        client_frames=_rate("CLIENT_FRAMES", values["CLIENT_FRAMES"]),
        control_frames=_rate("CONTROL_FRAMES", values["CONTROL_FRAMES"]),
        connections=_rate("CONNECTIONS", values["CONNECTIONS"]),
        replay_rate=_rate("REPLAY_RATE", values["REPLAY_RATE"]),
    )


def _ttl(given: object, longest_ttl: float) -> dict[Priority, float]:
    """A number for all priorities, or a dict by priority name (what it leaves out keeps its default)."""
    merged = {**POLICY_DEFAULTS["TTL"], **_by_name("TTL", given)}
    for name, seconds in merged.items():
        _require_positive(f"TTL of {name}", seconds)
        if seconds > longest_ttl:
            raise ValueError(f"TTL of {name}: {seconds} is longer than MAX_TTL_SECONDS, {longest_ttl}")
    return {p: float(merged[p.name.lower()]) for p in Priority}


def _undelivered(given: object) -> dict[Priority, float]:
    """None, a number for all priorities, or a dict by priority name (what it leaves out is never handed over)."""
    found = {} if given is None else _by_name("UNDELIVERED_SECONDS", given)
    for name, seconds in found.items():
        _require_positive(f"UNDELIVERED_SECONDS of {name}", seconds)
        if seconds > LONGEST_SECONDS:
            raise ValueError(f"UNDELIVERED_SECONDS of {name}: expected at most {LONGEST_SECONDS}, got {seconds!r}")
    return {Priority[name.upper()]: float(seconds) for name, seconds in found.items()}


def _by_name(key: str, given: object) -> Mapping[str, Any]:
    by_name = given if isinstance(given, Mapping) else {p.name.lower(): given for p in Priority}
    names = {p.name.lower() for p in Priority}
    if unknown := by_name.keys() - names:
        raise ValueError(f"{key}: unknown priorities {sorted(unknown)}; known are {sorted(names)}")
    return by_name


def _dotted_path(key: str, given: object) -> str | None:
    if given is not None and (not isinstance(given, str) or "." not in given):
        raise ValueError(f"{key}: expected the dotted path of a callable, or None, got {given!r}")
    return given


def _reasons(given: object) -> frozenset[LossReason]:
    known = {reason.value: reason for reason in LossReason if reason is not LossReason.UNPROTECTED}  # nobody has those
    names = list(given) if isinstance(given, list | tuple | set | frozenset) else None
    if names is None or any(name not in known for name in names):
        raise ValueError(f"DEAD_LETTERS: expected a list of {sorted(known)}, got {given!r}")
    return frozenset(known[name] for name in names)


def _replay(given: object) -> Replay:
    newest, seconds, digest = _entries("REPLAY", given, REPLAY_KEYS)
    if newest is not None and (isinstance(newest, bool) or not isinstance(newest, int) or newest < 0):
        raise ValueError(f"REPLAY: NEWEST: expected a whole number from 0, got {newest!r}")
    if seconds is not None:
        _require_positive("REPLAY: SECONDS", seconds)
    if digest is not None and (not isinstance(digest, str) or not digest):
        raise ValueError(f"REPLAY: DIGEST: expected a dotted path, got {digest!r}")
    if digest is not None and newest is None and seconds is None:
        raise ValueError("REPLAY: DIGEST without NEWEST or SECONDS: nothing would be left out")
    return Replay(newest=newest, seconds=seconds, digest=digest)


def _rollout(given: object) -> Rollout:
    """Raises ValueError, also for a pattern that is none."""
    percent, allow, deny, shadow = _entries("ROLLOUT", given, ROLLOUT_KEYS)
    percent = EVERYTHING if percent is None else percent
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= EVERYTHING:
        raise ValueError(f"ROLLOUT: PERCENT: expected a number from 0 to 100, got {percent!r}")
    if not isinstance(shadow, bool | None):
        raise ValueError(f"ROLLOUT: SHADOW: expected True or False, got {shadow!r}")
    return Rollout(
        percent=percent, allow=_patterns("ALLOW", allow), deny=_patterns("DENY", deny), is_shadow=bool(shadow)
    )


def _patterns(key: str, given: object) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list | tuple) or not all(isinstance(pattern, str) for pattern in given):
        raise ValueError(f"ROLLOUT: {key}: expected a list of patterns, got {given!r}")
    return tuple(given)


def _entries(key: str, given: object, keys: Sequence[str]) -> list[Any]:
    """The entries of a dict that has no other keys; None: it has none."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{key}: expected a dict, got {given!r}")
    if unknown := given.keys() - set(keys):
        raise ValueError(f"{key}: unknown keys {sorted(unknown)}; known are {sorted(keys)}")
    return [given.get(name) for name in keys]


def _rate(key: str, given: object) -> Rate | None:
    try:
        return None if given is None else Rate.parse(given)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _sender_rates(given: object) -> dict[str, Rate]:
    if not isinstance(given, Mapping):
        raise ValueError(f"SENDER_RATES: expected a dict of rates by class of sender, got {given!r}")
    found: dict[str, Rate] = {}
    for sender, text in given.items():
        if not isinstance(sender, str) or SENDER.fullmatch(sender) is None:
            raise ValueError(f"SENDER_RATES: expected a class of senders ({SENDER_NAME}), got {sender!r}")
        if (rate := _rate(f"SENDER_RATES of {sender}", text)) is not None:
            found[sender] = rate
    return found


def _require_positive(what: str, value: object, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
        raise ValueError(f"{what}: expected a {'whole ' if whole else ''}number above 0, got {value!r}")
    if whole and value > LARGEST:
        raise ValueError(f"{what}: expected at most {LARGEST}, got {value}")
