"""The system checks. Each finding has a number, what is wrong, and a hint; docs/checks.md lists them all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import metadata
from inspect import iscoroutinefunction
from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, connections, router
from django.utils.module_loading import import_string

from . import conf
from .control_checks import TAG, watching_policies
from .exceptions import NotConfigured
from .rate_checks import rate_problem
from .stores.base import MISSED_HEARTBEATS, Store
from .stores.connecting import foreign_isolation
from .stores.database import DatabaseStore
from .stores.memory import MemoryStore

TASKS = ("netra_queue.sweep", "netra_queue.upkeep")
HAND_OVER_TASK = "netra_queue.hand_over"
ALERTS_TASK = "netra_queue.alerts"
REDIS_LAYER = "channels_redis.core.RedisChannelLayer"
FIRST_REDIS_VERSION = 8  # redis-py from here on gives up after 5 seconds unless it is told otherwise
DEFAULT_TIMEOUT_SECONDS = 5.0


@register(TAG)
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    try:
        given = conf.user_settings()
    except NotConfigured as error:
        hint = 'Write NETRA_QUEUE = {"POLICIES": {…}}, or leave it out.'
        return [Error(str(error), hint=hint, id="netra_queue.E001")]
    wrong = {key: problem for key in given if key in conf.DEFAULTS and (problem := _problem(key, given[key]))}
    found: list[CheckMessage] = [*_unknown_keys(given), *(_wrong_value(key, what) for key, what in wrong.items())]
    if not wrong.keys() & {"POLICIES", "MAX_TTL_SECONDS"}:
        found += _policies(conf.get("POLICIES"))
    if not wrong.keys() & {"STORE_TIMEOUT_SECONDS", "SERVER_HEARTBEAT_SECONDS"}:
        found += _lease()
    return [*found, *_time_zones()]


def _unknown_keys(given: Mapping[Any, Any]) -> Iterator[CheckMessage]:
    for key in given:
        if key in conf.DEFAULTS:
            continue
        close = get_close_matches(str(key).upper(), conf.DEFAULTS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(sorted(conf.DEFAULTS))}."
        yield Error(f"{conf.SETTING} has the unknown key {key!r}.", hint=hint, id="netra_queue.E002")


def _wrong_value(key: str, problem: str) -> CheckMessage:
    return Error(
        f"{conf.SETTING}[{key!r}]: {problem}.", hint=f"The default is {conf.DEFAULTS[key]!r}.", id="netra_queue.E003"
    )


def _problem(key: str, value: object) -> str | None:
    """What is wrong with a value, judged by its default; None: nothing."""
    default = conf.DEFAULTS[key]
    if default is None:
        if value is None or key in ("POLICY_RESOLVER", "REDACT"):  # see control_checks
            return None
        if key == "PROCESS_REPLAY_RATE":
            return rate_problem(value)
        return None if isinstance(value, str) and len(value) >= 16 else "expected a text of at least 16 characters"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else f"expected True or False, got {value!r}"
    if isinstance(default, Mapping):
        return None if isinstance(value, Mapping) else f"expected a dict, got {value!r}"
    if isinstance(default, str):
        return None if isinstance(value, str) and value else f"expected a text, got {value!r}"
    is_whole = not key.endswith("_SECONDS")
    kinds = int if is_whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < float("inf"):
        return f"expected a {'whole ' if is_whole else ''}number above 0, got {value!r}"
    if key.endswith("_SECONDS") and value > conf.LONGEST_SECONDS:
        return f"expected at most {conf.LONGEST_SECONDS} seconds, got {value!r}"
    return None


def _policies(policies: Mapping[Any, Any]) -> Iterator[CheckMessage]:
    for name in {"default": None, **policies}:
        problem = _policy_problem(name, policies.get(name, {}))
        if problem:
            hint = f"A policy may have {', '.join(conf.POLICY_DEFAULTS)}; what it leaves out comes from 'default'."
            yield Error(problem, hint=hint, id="netra_queue.E004")
        else:
            yield from _receiver(name, policies.get(name, {}))


def _receiver(name: object, values: Mapping[str, Any]) -> Iterator[CheckMessage]:
    """What this policy, if it says so itself, has undelivered messages handed to, or left-out ones digested by."""
    replay = values.get("REPLAY")
    paths = {
        "netra_queue.E009": ("ON_UNDELIVERED", values.get("ON_UNDELIVERED")),
        "netra_queue.E010": ("REPLAY: DIGEST", replay.get("DIGEST") if isinstance(replay, Mapping) else None),
    }
    for id, (key, path) in paths.items():
        if isinstance(path, str) and (problem := _callable_problem(path)):
            where = f"{conf.SETTING}['POLICIES'][{name!r}]: {key}"
            yield Error(f"{where}: {problem}", hint="Name a function of one argument.", id=id)


def _callable_problem(path: str) -> str | None:
    """What is wrong with the dotted path of a synchronous callable; None: nothing."""
    try:
        found = import_string(path)
    except Exception as error:  # whatever happens when somebody's module is imported
        return f"cannot import {path!r}: {error}."
    if not callable(found) or iscoroutinefunction(found):
        return f"{path!r} is not a synchronous callable."
    return None


def _policy_problem(name: object, values: object) -> str | None:
    where = f"{conf.SETTING}['POLICIES'][{name!r}]"
    if not isinstance(name, str) or not 0 < len(name) <= 100:
        return f"{where}: expected a name of 1 to 100 characters."
    if not isinstance(values, Mapping):
        return f"{where}: expected a dict, got {values!r}."
    if not isinstance(conf.get("POLICIES").get("default", {}), Mapping):
        return None  # reported for "default" itself
    try:
        conf.policy(name)
    except NotConfigured as error:
        return f"{error}."
    return None


def _lease() -> Iterator[CheckMessage]:
    timeout, heartbeat = conf.get("STORE_TIMEOUT_SECONDS"), conf.get("SERVER_HEARTBEAT_SECONDS")
    if timeout >= MISSED_HEARTBEATS * heartbeat:
        yield Warning(
            f"STORE_TIMEOUT_SECONDS ({timeout}) is not below {MISSED_HEARTBEATS} times SERVER_HEARTBEAT_SECONDS "
            f"({heartbeat}): one slow heartbeat, and a living server's connections count as gone.",
            hint="Lower STORE_TIMEOUT_SECONDS or raise SERVER_HEARTBEAT_SECONDS.",
            id="netra_queue.W010",
        )


def _time_zones() -> Iterator[CheckMessage]:
    if not settings.USE_TZ:
        yield Error(
            "USE_TZ is False: times of messages cannot be stored.", hint="Set USE_TZ = True.", id="netra_queue.E006"
        )


@register(TAG)
def check_store(**kwargs: Any) -> list[CheckMessage]:
    try:
        store = store_class()
    except NotConfigured as error:
        hint = f"The default is {conf.DEFAULTS['STORE']!r}."
        return [Error(f"{error}.", hint=hint, id="netra_queue.E005")]
    if store is None:
        return []
    if issubclass(store, MemoryStore) and not settings.DEBUG:
        return [
            Warning(
                "Messages are kept in the memory of one process: they end with it, and no other process sees them.",
                hint=f"Use {conf.DEFAULTS['STORE']!r}.",
                id="netra_queue.W009",
            )
        ]
    return _database() if issubclass(store, DatabaseStore) else []


def store_class() -> type[Store] | None:
    """The class that STORE names; None when the settings are too wrong to tell. Raises NotConfigured."""
    try:
        path = conf.get("STORE")
    except NotConfigured:
        return None
    if not isinstance(path, str) or not path:
        return None
    try:
        found = import_string(path)
    except Exception as error:  # whatever happens when somebody's module is imported
        raise NotConfigured(f"{conf.SETTING}['STORE']", f"cannot import {path!r}: {error}") from error
    if not isinstance(found, type) or not issubclass(found, Store):
        raise NotConfigured(f"{conf.SETTING}['STORE']", f"{path!r} is not a Store")
    return found


def _database() -> list[CheckMessage]:
    alias = router.db_for_write(apps.get_model("netra_queue", "Message"))
    found = [*_autocommit(alias), *_isolation(alias)]
    connection = connections[alias]
    options = connection.settings_dict.get("OPTIONS", {})
    mode = options.get("transaction_mode") or ""
    if connection.vendor == "sqlite" and str(mode).upper() not in ("IMMEDIATE", "EXCLUSIVE"):
        found.append(
            Warning(
                f"The SQLite database {alias!r} begins transactions without a lock: the second of two that read "
                "and then write fails at once, whatever the timeout.",
                hint='Set OPTIONS = {"transaction_mode": "IMMEDIATE", "timeout": 20} for it.',
                id="netra_queue.W005",
            )
        )
    pool, threads = options.get("pool"), conf.get("STORE_THREADS")
    size = _pool_size(pool)
    if connection.vendor == "postgresql" and size is not None and isinstance(threads, int) and size < threads:
        found.append(
            Warning(
                f"The pool of the database {alias!r} has at most {size} connections, and STORE_THREADS is {threads}: "
                "threads wait for each other, and with the project's own requests, until calls time out.",
                hint='Raise OPTIONS["pool"]["max_size"], or lower STORE_THREADS.',
                id="netra_queue.W008",
            )
        )
    return found


def _autocommit(alias: str) -> Iterator[CheckMessage]:
    if not connections[alias].settings_dict["AUTOCOMMIT"]:
        yield Error(
            f"The database {alias!r} has AUTOCOMMIT = False: what is sent outside transaction.atomic() is not kept.",
            hint="Leave AUTOCOMMIT at True, Django's default.",
            id="netra_queue.E007",
        )


def _isolation(alias: str) -> Iterator[CheckMessage]:
    if (level := foreign_isolation(alias)) is not None:
        yield Warning(
            f"Transactions on the database {alias!r} do not have the isolation level READ COMMITTED ({level}): a send "
            "inside one of yours does not see what others have written since it began. It may drop messages of a queue "
            "that has been emptied, and fail for a key that was used meanwhile.",
            hint='Leave "isolation_level" out of OPTIONS, or send after the commit (transaction.on_commit).',
            id="netra_queue.W011",
        )


def _pool_size(pool: object) -> int | None:
    """The most connections of a psycopg pool; None: there is no pool. ``max_size`` defaults to ``min_size``, 4."""
    if not pool:
        return None
    options = pool if isinstance(pool, Mapping) else {}
    size = options.get("max_size") or options.get("min_size", 4)
    return size if isinstance(size, int) else None


@register(TAG)
def check_channel_layer(**kwargs: Any) -> list[CheckMessage]:
    try:
        alias = conf.get("CHANNEL_LAYER")
    except NotConfigured:
        return []
    layers = getattr(settings, "CHANNEL_LAYERS", None)
    poll = "messages wait for the next poll (POLL_SECONDS) instead of arriving at once"
    if not layers:
        hint = "Set CHANNEL_LAYERS, for example with channels_redis.core.RedisChannelLayer."
        return [Warning(f"There is no channel layer: {poll}.", hint=hint, id="netra_queue.W001")]
    if not isinstance(layers, Mapping) or not isinstance(alias, str) or not isinstance(layers.get(alias), Mapping):
        hint = "Name one of CHANNEL_LAYERS in NETRA_QUEUE['CHANNEL_LAYER']."
        text = f"CHANNEL_LAYERS has no dict for {alias!r}: {poll}."
        return [Warning(text, hint=hint, id="netra_queue.W002")]
    return list(_layer(alias, layers[alias]))


def _layer(alias: str, layer: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if layer.get("BACKEND") == "channels.layers.InMemoryChannelLayer" and not settings.DEBUG:
        yield Warning(
            f"The channel layer {alias!r} reaches only its own process, and DEBUG is False: what another process "
            "sends waits for the next poll.",
            hint="Use channels_redis.core.RedisChannelLayer where more than one process runs.",
            id="netra_queue.W003",
        )
    if problem := _unsafe_redis_layer(layer):
        yield Warning(
            f"The channel layer {alias!r} {problem}: idle connections are torn down again and again.",
            hint='Give each host a timeout of its own: {"address": "redis://…", "socket_timeout": 30}.',
            id="netra_queue.W004",
        )


def _unsafe_redis_layer(layer: Mapping[str, Any]) -> str | None:
    """How this layer waits longer for an answer than redis-py lets it, as the end of a sentence; None: it does not."""
    wait_seconds = _idle_wait_seconds(layer.get("BACKEND"))
    version = redis_version()
    if wait_seconds is None or version is None or version < FIRST_REDIS_VERSION:
        return None
    timeouts = [_timeout(host) for host in _hosts(layer.get("CONFIG") or {})]
    worst = min((seconds for seconds in timeouts if seconds is not None), default=None)
    if worst is None or worst > wait_seconds:
        return None
    return f"waits {wait_seconds:g} seconds for a message, and redis-py {version} gives up after {worst:g}"


def redis_version() -> int | None:
    """The major version of redis-py; None: it is not installed."""
    try:
        return int(metadata.version("redis").partition(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return None


def _idle_wait_seconds(backend: object) -> float | None:
    """How long this layer class lets an idle ``receive`` wait; None: it is not the layer in question.

    A layer class that cannot be imported is Channels' to report.
    """
    if not isinstance(backend, str):
        return None
    try:
        found = import_string(backend)
    except Exception:  # whatever happens when somebody's module is imported
        return None
    if not any(f"{base.__module__}.{base.__qualname__}" == REDIS_LAYER for base in getattr(found, "__mro__", ())):
        return None
    return float(getattr(found, "brpop_timeout", DEFAULT_TIMEOUT_SECONDS))


def _hosts(config: Mapping[str, Any]) -> list[Any]:
    """The forms that the layer takes: a list of URLs, of pairs of host and port, or of dicts."""
    hosts = config.get("hosts")
    return list(hosts) if isinstance(hosts, list | tuple) and hosts else ["redis://localhost:6379"]


def _timeout(host: object) -> float | None:
    """The socket timeout of one host in seconds; None: it waits for ever."""
    options = host if isinstance(host, Mapping) else {}
    address = options.get("address", "") if options else host
    try:
        in_url = parse_qs(urlsplit(address).query).get("socket_timeout") if isinstance(address, str) else None
        given = in_url[0] if in_url else options.get("socket_timeout", DEFAULT_TIMEOUT_SECONDS)
        return None if given is None else float(given)
    except (TypeError, ValueError):
        return DEFAULT_TIMEOUT_SECONDS


@register(TAG)
def check_hand_over(**kwargs: Any) -> list[CheckMessage]:
    watching = watching_policies()
    is_scheduled = _is_scheduled_in_settings([HAND_OVER_TASK]) or apps.is_installed("django_celery_beat")
    if not watching or is_scheduled:
        return []
    return [
        Warning(
            f"{' and '.join(watching)} with UNDELIVERED_SECONDS, and nothing is known to hand messages over.",
            hint="Add django_celery_beat to INSTALLED_APPS and run `manage.py netra_queue schedule`, or name the task "
            f"{HAND_OVER_TASK} in CELERY_BEAT_SCHEDULE. If cron runs `manage.py netra_queue sweep`, silence this with "
            "SILENCED_SYSTEM_CHECKS.",
            id="netra_queue.W013",
        )
    ]


@register(TAG)
def check_clean_up(**kwargs: Any) -> list[CheckMessage]:
    if _is_scheduled_in_settings() or apps.is_installed("django_celery_beat"):
        return []
    return [
        Warning(
            "Nothing is known to remove expired messages.",
            hint="Add django_celery_beat to INSTALLED_APPS and run `manage.py netra_queue schedule`, or name the tasks "
            "netra_queue.sweep and netra_queue.upkeep in CELERY_BEAT_SCHEDULE. If cron runs `manage.py netra_queue "
            "sweep`, silence this with SILENCED_SYSTEM_CHECKS.",
            id="netra_queue.W006",
        )
    ]


@register(TAG, Tags.database)
def check_clean_up_rows(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """With ``check --database``: whether django-celery-beat really starts the tasks."""
    wanted = {*TASKS, ALERTS_TASK, *([HAND_OVER_TASK] if watching_policies(databases) else [])}
    if not databases or _is_scheduled_in_settings(wanted) or not apps.is_installed("django_celery_beat"):
        return []
    model = apps.get_model("django_celery_beat", "PeriodicTask")
    alias = router.db_for_read(model)
    if alias not in databases:
        return []
    try:
        rows = model._default_manager.using(alias).filter(task__in=wanted, enabled=True)
        missing = sorted(wanted - set(rows.values_list("task", flat=True)))
    except DatabaseError:
        return []  # not migrated yet; there is nothing to clean up then
    if not missing:
        return []
    hint = "Run `manage.py netra_queue schedule`, or enable them in the admin."
    return [Warning(f"django-celery-beat does not start {' and '.join(missing)}.", hint=hint, id="netra_queue.W007")]


def _is_scheduled_in_settings(tasks: Collection[str] = TASKS) -> bool:
    schedule = getattr(settings, "CELERY_BEAT_SCHEDULE", None)
    entries = schedule.values() if isinstance(schedule, Mapping) else ()
    return {entry.get("task") for entry in entries if isinstance(entry, Mapping)} >= set(tasks)
