"""The settings: one dict ``NETRA_QUEUE`` with upper-case keys. All defaults are here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from .core.message import LossReason, Priority
from .core.policy import Overflow, Policy, Replay
from .exceptions import NotConfigured

logger = logging.getLogger(__name__)

SETTING = "NETRA_QUEUE"
DAY = 86_400
LONGEST_SECONDS = 36_500 * DAY  # a hundred years from now is still a time that databases know

DEFAULTS: dict[str, Any] = {
    # Where messages live: dotted path of a class that keeps the contract of netra_queue.stores.base.Store.
    "STORE": "netra_queue.stores.database.DatabaseStore",
    # The channel layer that carries the bells. A second alias keeps them apart from the application's own traffic.
    "CHANNEL_LAYER": "default",
    # How long a message waits at most when its bell was lost: every process asks the store this often, with jitter.
    "POLL_SECONDS": 2.0,
    # How often a server process says that it is alive. Its connections count as gone after three missed times.
    "SERVER_HEARTBEAT_SECONDS": 10.0,
    # Threads, and so database connections, with which one server process talks to the store.
    "STORE_THREADS": 4,
    # A store call that takes longer counts as failed; a hung database connection must not hang the process.
    "STORE_TIMEOUT_SECONDS": 15.0,
    # A client that does not take a frame within this time is disconnected; what it missed stays in the queue.
    "WRITE_TIMEOUT_SECONDS": 20.0,
    # A queue without messages or connections is forgotten after this time; its idempotency keys have run out by then.
    "IDLE_QUEUE_SECONDS": 30 * DAY,
    # The longest time to live that a send may ask for; without a bound, messages for lost clients stay for ever.
    "MAX_TTL_SECONDS": 30 * DAY,
    "POLICIES": {},
}

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
}
REPLAY_KEYS = ("NEWEST", "SECONDS", "DIGEST")
MOST_DELIVERIES = 32_767  # what the column holds


def get(key: str) -> Any:
    """The value in force for one of the keys of ``DEFAULTS``."""
    return user_settings().get(key, DEFAULTS[key])


def user_settings() -> Mapping[str, Any]:
    """The project's dict as it stands. Raises NotConfigured when it is none."""
    given = getattr(settings, SETTING, {})
    if not isinstance(given, Mapping):
        raise NotConfigured(SETTING, f"expected a dict, got {type(given).__name__}")
    return given


def longest_ttl() -> Any:
    """MAX_TTL_SECONDS, as far as times can be computed with it."""
    return min(get("MAX_TTL_SECONDS"), LONGEST_SECONDS)


@lru_cache(maxsize=256)
def policy(name: str) -> Policy:
    """The policy with this name. Values it does not give come from ``default``, then from ``POLICY_DEFAULTS``.

    Raises NotConfigured for an unknown name or an impossible value.
    """
    name = name or "default"
    policies = get("POLICIES")
    if name not in policies and name != "default":
        raise NotConfigured(f"{SETTING}['POLICIES']", f"there is no policy {name!r}")
    try:
        return _build(name, {**POLICY_DEFAULTS, **policies.get("default", {}), **policies.get(name, {})})
    except (ValueError, TypeError, KeyError) as error:
        raise NotConfigured(f"{SETTING}['POLICIES'][{name!r}]", str(error)) from error


def policies() -> list[Policy]:
    """All policies that the settings name, the default one first."""
    return [policy(name) for name in {"default": None, **get("POLICIES")}]


def policy_or_default(name: str) -> Policy:
    """The policy of this name; the default one if the settings have none of this name (any more)."""
    try:
        return policy(name)
    except NotConfigured as error:
        if name in ("", "default"):
            raise
        logger.warning("%s; using the default policy", error, extra={"action": "policy_missing", "policy": name})
        return policy("default")


WHOLE_NUMBERS = (
    "MAX_MESSAGES",
    "MAX_BYTES",
    "MAX_MESSAGE_BYTES",
    "WINDOW",
    "WINDOW_BYTES",
    "MAX_LINES",
    "MAX_DELIVERIES",
)
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


def _build(name: str, values: Mapping[str, Any]) -> Policy:
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
        ttl=_ttl(values["TTL"]),
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
    )


def _ttl(given: object) -> dict[Priority, float]:
    """A number for all priorities, or a dict by priority name (what it leaves out keeps its default)."""
    merged = {**POLICY_DEFAULTS["TTL"], **_by_name("TTL", given)}
    for name, seconds in merged.items():
        _require_positive(f"TTL of {name}", seconds)
        if seconds > longest_ttl():
            raise ValueError(f"TTL of {name}: {seconds} is longer than MAX_TTL_SECONDS, {longest_ttl()}")
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
    known = {reason.value: reason for reason in LossReason}
    names = list(given) if isinstance(given, list | tuple | set | frozenset) else None
    if names is None or any(name not in known for name in names):
        raise ValueError(f"DEAD_LETTERS: expected a list of {sorted(known)}, got {given!r}")
    return frozenset(known[name] for name in names)


def _replay(given: object) -> Replay:
    if not isinstance(given, Mapping):
        raise ValueError(f"REPLAY: expected a dict, got {given!r}")
    if unknown := given.keys() - set(REPLAY_KEYS):
        raise ValueError(f"REPLAY: unknown keys {sorted(unknown)}; known are {sorted(REPLAY_KEYS)}")
    newest, seconds, digest = (given.get(key) for key in REPLAY_KEYS)
    if newest is not None and (isinstance(newest, bool) or not isinstance(newest, int) or newest < 0):
        raise ValueError(f"REPLAY: NEWEST: expected a whole number from 0, got {newest!r}")
    if seconds is not None:
        _require_positive("REPLAY: SECONDS", seconds)
    if digest is not None and (not isinstance(digest, str) or not digest):
        raise ValueError(f"REPLAY: DIGEST: expected a dotted path, got {digest!r}")
    if digest is not None and newest is None and seconds is None:
        raise ValueError("REPLAY: DIGEST without NEWEST or SECONDS: nothing would be left out")
    return Replay(newest=newest, seconds=seconds, digest=digest)


def _require_positive(what: str, value: object, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
        raise ValueError(f"{what}: expected a {'whole ' if whole else ''}number above 0, got {value!r}")


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == SETTING:
        policy.cache_clear()


setting_changed.connect(_forget, dispatch_uid="netra_queue.conf")
