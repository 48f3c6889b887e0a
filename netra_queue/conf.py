"""The settings: one dict ``NETRA_QUEUE`` with upper-case keys. All defaults are here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from .core.message import Priority
from .core.policy import Overflow, Policy
from .exceptions import NotConfigured

SETTING = "NETRA_QUEUE"
DAY = 86_400

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
}


def get(key: str) -> Any:
    """The value in force for one of the keys of ``DEFAULTS``."""
    return user_settings().get(key, DEFAULTS[key])


def user_settings() -> Mapping[str, Any]:
    """The project's dict as it stands. Raises NotConfigured when it is none."""
    given = getattr(settings, SETTING, {})
    if not isinstance(given, Mapping):
        raise NotConfigured(SETTING, f"expected a dict, got {type(given).__name__}")
    return given


@lru_cache(maxsize=256)
def policy(name: str) -> Policy:
    """The policy with this name. Values it does not give come from ``default``, then from ``POLICY_DEFAULTS``.

    Raises NotConfigured for an unknown name or an impossible value.
    """
    name = name or "default"
    policies = get("POLICIES")
    if name not in policies and name != "default":
        raise NotConfigured(f"{SETTING}['POLICIES']", f"there is no policy {name!r}")
    values = {**POLICY_DEFAULTS, **policies.get("default", {}), **policies.get(name, {})}
    try:
        return _build(name, values)
    except (ValueError, TypeError, KeyError) as error:
        raise NotConfigured(f"{SETTING}['POLICIES'][{name!r}]", str(error)) from error


def _build(name: str, values: Mapping[str, Any]) -> Policy:
    if unknown := values.keys() - POLICY_DEFAULTS.keys():
        raise ValueError(f"unknown keys {sorted(unknown)}; known are {sorted(POLICY_DEFAULTS)}")
    for key in ("MAX_MESSAGES", "MAX_BYTES", "MAX_MESSAGE_BYTES", "WINDOW", "WINDOW_BYTES"):
        _require_positive(key, values[key], whole=True)
    for key in ("HEARTBEAT_SECONDS", "ACK_TIMEOUT_SECONDS"):
        _require_positive(key, values[key])
    if values["MAX_MESSAGE_BYTES"] > values["MAX_BYTES"]:
        raise ValueError("MAX_MESSAGE_BYTES is larger than MAX_BYTES: such a message could never be queued")
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
    )


def _ttl(given: object) -> dict[Priority, float]:
    """A number for all priorities, or a dict by priority name (what it leaves out keeps its default)."""
    by_name = given if isinstance(given, Mapping) else {p.name.lower(): given for p in Priority}
    names = {p.name.lower() for p in Priority}
    if unknown := by_name.keys() - names:
        raise ValueError(f"TTL: unknown priorities {sorted(unknown)}; known are {sorted(names)}")
    merged = {**POLICY_DEFAULTS["TTL"], **by_name}
    for name, seconds in merged.items():
        _require_positive(f"TTL of {name}", seconds)
        if seconds > get("MAX_TTL_SECONDS"):
            raise ValueError(f"TTL of {name}: {seconds} is longer than MAX_TTL_SECONDS, {get('MAX_TTL_SECONDS')}")
    return {p: float(merged[p.name.lower()]) for p in Priority}


def _require_positive(what: str, value: object, *, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
        raise ValueError(f"{what}: expected a {'whole ' if whole else ''}number above 0, got {value!r}")


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == SETTING:
        policy.cache_clear()


setting_changed.connect(_forget, dispatch_uid="netra_queue.conf")
