"""The system checks: each number has a cause that a project can really have, and a line in docs/checks.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from channels_redis.core import RedisChannelLayer
from django.core.checks import CheckMessage, run_checks
from django.core.management import call_command
from django.db import connections
from psycopg import IsolationLevel

from netra_queue import alert_checks, checks, conf, control_checks, operating, policies, rate_checks
from netra_queue.models import ControlState, PolicyPattern, QueuePolicy

ROOT = Path(checks.__file__).parent.parent
REDIS = "channels_redis.core.RedisChannelLayer"
MEMORY_LAYER = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}


class PatientLayer(RedisChannelLayer):  # type: ignore[misc]
    """A project's own layer that waits for less than redis-py does."""

    brpop_timeout = 1


@pytest.fixture(autouse=True)
def debug(settings: Any) -> None:
    """As the example runs; the test runner sets DEBUG to False."""
    settings.DEBUG = True


def found(databases: list[str] | None = None) -> list[CheckMessage]:
    return run_checks(tags=[checks.TAG], databases=databases)


def numbers(databases: list[str] | None = None) -> list[str]:
    return sorted(str(message.id).removeprefix("netra_queue.") for message in found(databases))


def test_every_number_is_documented_and_every_documented_number_exists() -> None:
    modules = (alert_checks, checks, control_checks, rate_checks)
    sources = [Path(module.__file__).read_text() for module in modules]
    code = set(re.findall(r"netra_queue\.[EW]\d{3}", "".join(sources)))
    page = re.findall(r"^\| `(netra_queue\.[EW]\d{3})` \|", (ROOT / "docs/checks.md").read_text(), re.MULTILINE)
    assert set(page) == code
    assert len(page) == len(set(page))


def test_the_example_has_no_findings() -> None:
    assert numbers() == []


def test_every_finding_has_a_hint(settings: Any) -> None:
    settings.NETRA_QUEUE = {"POLICY": 1, "POLL_SECONDS": 0, "STORE": "x", "POLICIES": {"a": 1}}
    settings.CHANNEL_LAYERS = {}
    messages = found()
    assert len(messages) == 5
    assert all(message.hint for message in messages)


@pytest.mark.parametrize("value", [5, None, ["STORE"]])
def test_settings_that_are_no_dict(settings: Any, value: object) -> None:
    settings.NETRA_QUEUE = value
    assert numbers() == ["E001"]


@pytest.mark.parametrize(("key", "hint"), [("POLL_SECOND", "'POLL_SECONDS'"), ("policies", "'POLICIES'"), (7, "Known")])
def test_an_unknown_key_is_answered_with_a_close_one(settings: Any, key: object, hint: str) -> None:
    settings.NETRA_QUEUE = {key: 1}
    assert numbers() == ["E002"]
    assert hint in str(found()[0].hint)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("POLL_SECONDS", 0),
        ("POLL_SECONDS", -1.5),
        ("POLL_SECONDS", "2"),
        ("POLL_SECONDS", True),
        ("POLL_SECONDS", float("inf")),
        ("POLL_SECONDS", float("nan")),
        ("POLL_SECONDS", None),
        ("STORE_THREADS", 1.5),
        ("STORE_TIMEOUT_SECONDS", "15"),
        ("MAX_TTL_SECONDS", None),
        ("MAX_TTL_SECONDS", 10**15),
        ("IDLE_QUEUE_SECONDS", 10**15),
        ("CHANNEL_LAYER", ""),
        ("STORE", 5),
        ("POLICIES", ["default"]),
    ],
)
def test_a_value_of_the_wrong_kind_or_range(settings: Any, key: str, value: object) -> None:
    settings.NETRA_QUEUE = {key: value}
    assert "E003" in numbers()
    assert key in str(found()[0].msg)


@pytest.mark.parametrize("key", sorted(conf.DEFAULTS))
def test_each_default_is_a_good_value(settings: Any, key: str) -> None:
    settings.NETRA_QUEUE = {key: conf.DEFAULTS[key]}
    assert numbers() == []


@pytest.mark.parametrize(
    "policies",
    [
        {"default": 5},
        {"default": {"WINDOWS": 1}},
        {"default": {"WINDOW": 0}},
        {"large": {"OVERFLOW": "drop_all"}},
        {"large": {"TTL": {"urgent": 5}}},
        {"large": {"TTL": 10**9}},
        {"large": {"MAX_MESSAGE_BYTES": 10**9}},
        {"": {}},
        {7: {}},
        {"x" * 101: {}},
    ],
)
def test_a_bad_policy_is_reported_once_under_its_name(settings: Any, policies: dict[Any, Any]) -> None:
    settings.NETRA_QUEUE = {"POLICIES": policies}
    assert numbers() == ["E004"]
    assert repr(next(iter(policies))) in str(found()[0].msg)


async def an_asynchronous_digest() -> None: ...


@pytest.mark.parametrize(
    "path", ["nowhere.digest", "nodots", "netra_queue.conf.DEFAULTS", f"{__name__}.an_asynchronous_digest"]
)
def test_a_digest_that_cannot_be_called(settings: Any, path: str) -> None:
    replay = {"NEWEST": 1, "DIGEST": path}
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"REPLAY": replay}, "large": {"WINDOW": 5}}}
    assert numbers() == ["E010"]
    assert path in str(found()[0].msg)
    replay["DIGEST"] = "tests.making.make_message"
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"REPLAY": replay}}}
    assert numbers() == []


@pytest.mark.parametrize("path", ["nowhere.Store", "netra_queue.stores.nothing", "nodots", "netra_queue.conf.DEFAULTS"])
def test_a_store_that_cannot_be_used(settings: Any, path: str) -> None:
    settings.NETRA_QUEUE = {"STORE": path}
    assert numbers() == ["E005"]
    assert path in str(found()[0].msg)


def test_times_without_zones_cannot_be_stored(settings: Any) -> None:
    settings.USE_TZ = False
    assert numbers() == ["E006"]


@pytest.mark.parametrize("layers", [{}, None])
def test_no_channel_layer(settings: Any, layers: object) -> None:
    settings.CHANNEL_LAYERS = layers
    assert numbers() == ["W001"]


def test_the_named_channel_layer_is_missing(settings: Any) -> None:
    settings.NETRA_QUEUE = {"CHANNEL_LAYER": "bells"}
    settings.CHANNEL_LAYERS = MEMORY_LAYER
    assert numbers() == ["W002"]
    settings.CHANNEL_LAYERS = {**MEMORY_LAYER, "bells": MEMORY_LAYER["default"]}
    assert numbers() == []


def test_the_layer_in_memory_is_for_development(settings: Any) -> None:
    settings.CHANNEL_LAYERS, settings.DEBUG = MEMORY_LAYER, False
    assert numbers() == ["W003"]


UNSAFE_HOSTS = [
    None,
    [],
    [("127.0.0.1", 6379)],
    ["redis://127.0.0.1:6379/1"],
    ["redis://127.0.0.1:6379/1?socket_timeout=5"],
    [{"address": "redis://127.0.0.1:6379/1"}],
    [{"address": "redis://127.0.0.1:6379/1", "socket_timeout": 5}],
    [{"address": "redis://127.0.0.1:6379/1?socket_timeout=2", "socket_timeout": None}],
    [{"host": "127.0.0.1", "port": 6379}],
    [{"sentinels": [("127.0.0.1", 26379)], "master_name": "main"}],
    [{"address": "redis://a", "socket_timeout": 30}, "redis://b"],
]
SAFE_HOSTS = [
    ["redis://127.0.0.1:6379/1?socket_timeout=30"],
    [{"address": "redis://127.0.0.1:6379/1", "socket_timeout": 5.5}],
    [{"address": "redis://127.0.0.1:6379/1", "socket_timeout": None}],
    [{"host": "127.0.0.1", "port": 6379, "socket_timeout": None}],
    [{"sentinels": [("127.0.0.1", 26379)], "master_name": "main", "socket_timeout": 30}],
]


def use_redis(settings: Any, hosts: object, backend: str = REDIS) -> None:
    config = {} if hosts is None else {"CONFIG": {"hosts": hosts}}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, **config}}


@pytest.fixture
def redis_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "redis_version", lambda: 8)


@pytest.mark.usefixtures("redis_8")
@pytest.mark.parametrize("hosts", UNSAFE_HOSTS)
def test_redis_layer_whose_client_gives_up_before_it(settings: Any, hosts: object) -> None:
    use_redis(settings, hosts)
    assert numbers() == ["W004"]


@pytest.mark.usefixtures("redis_8")
@pytest.mark.parametrize("hosts", SAFE_HOSTS)
def test_redis_layer_with_a_timeout_of_its_own(settings: Any, hosts: object) -> None:
    use_redis(settings, hosts)
    assert numbers() == []


@pytest.mark.usefixtures("redis_8")
@pytest.mark.parametrize("backend", ["channels_redis.pubsub.RedisPubSubChannelLayer", f"{__name__}.PatientLayer"])
def test_layers_that_wait_in_another_way(settings: Any, backend: str) -> None:
    use_redis(settings, None, backend)
    assert numbers() == []


@pytest.mark.parametrize("version", [7, None])
def test_an_older_redis_py_waits_for_ever(settings: Any, monkeypatch: pytest.MonkeyPatch, version: int | None) -> None:
    monkeypatch.setattr(checks, "redis_version", lambda: version)
    use_redis(settings, None)
    assert numbers() == []


def test_the_timeouts_assumed_here_are_those_of_the_installed_packages() -> None:
    """redis-py's default that the check goes by, and what the hosts above become in channels_redis."""
    from channels_redis.utils import create_pool, decode_hosts

    version = checks.redis_version()
    assert version is not None
    expected = checks.DEFAULT_TIMEOUT_SECONDS if version >= checks.FIRST_REDIS_VERSION else None
    for host in decode_hosts(None), decode_hosts([("127.0.0.1", 6379)]):
        connection = create_pool(host[0]).make_connection()
        assert connection.socket_timeout == expected
    (host,) = decode_hosts([{"address": "redis://a?socket_timeout=2", "socket_timeout": 30}])
    assert create_pool(host).make_connection().socket_timeout == 2


@pytest.mark.parametrize("mode", [None, "DEFERRED"])
def test_sqlite_without_immediate_transactions(
    settings: Any, monkeypatch: pytest.MonkeyPatch, mode: str | None
) -> None:
    connection = connections["default"]
    assert connection.vendor == "sqlite"
    options = {**connection.settings_dict["OPTIONS"], "transaction_mode": mode}
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", options)
    assert numbers() == ["W005"]


def test_nothing_removes_expired_messages(settings: Any) -> None:
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_celery_beat"]
    assert numbers() == ["W006"]
    sweep = {"clean-up": {"task": "netra_queue.sweep", "schedule": 60}}
    settings.CELERY_BEAT_SCHEDULE = sweep
    assert numbers() == ["W006"]
    settings.CELERY_BEAT_SCHEDULE = {**sweep, "upkeep": {"task": "netra_queue.upkeep", "schedule": 300}}
    assert numbers() == []


@pytest.mark.django_db(transaction=True)
def test_the_schedules_rows_are_looked_at_when_a_database_is_named(settings: Any) -> None:
    from django_celery_beat.models import PeriodicTask

    assert numbers() == []
    assert numbers(["default"]) == ["W007"]
    call_command("netra_queue", "schedule", stdout=sys.stderr)
    assert numbers(["default"]) == []
    PeriodicTask.objects.filter(task="netra_queue.upkeep").update(enabled=False)
    assert "netra_queue.upkeep" in str(found(["default"])[0].msg)


@pytest.mark.parametrize(
    ("pool", "size"),
    [(None, None), (False, None), (True, 4), ({}, None), ({"min_size": 2}, 2), ({"min_size": 2, "max_size": 9}, 9)],
)
def test_the_size_of_a_pool(pool: object, size: int | None) -> None:
    assert checks._pool_size(pool) == size


def test_a_pool_smaller_than_the_stores_threads(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connections["default"]
    monkeypatch.setattr(connection, "vendor", "postgresql")
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"pool": {"max_size": 3}})
    assert numbers() == ["W008"]
    settings.NETRA_QUEUE = {"STORE_THREADS": 3}
    assert numbers() == []


def test_messages_in_memory_are_for_tests(settings: Any) -> None:
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore"}
    assert numbers() == []
    settings.DEBUG, settings.CHANNEL_LAYERS = False, {"default": {"BACKEND": f"{__name__}.PatientLayer"}}
    assert numbers() == ["W009"]


def test_a_store_call_may_not_outlast_the_lease(settings: Any) -> None:
    settings.NETRA_QUEUE = {"STORE_TIMEOUT_SECONDS": 30, "SERVER_HEARTBEAT_SECONDS": 10}
    assert numbers() == ["W010"]
    settings.NETRA_QUEUE = {"STORE_TIMEOUT_SECONDS": 29, "SERVER_HEARTBEAT_SECONDS": 10}
    assert numbers() == []


@pytest.mark.parametrize("alias", [["default"], {}, 5, None])
def test_a_layer_alias_that_is_no_text(settings: Any, alias: object) -> None:
    settings.NETRA_QUEUE = {"CHANNEL_LAYER": alias}
    assert {"E003", "W002"} <= set(numbers())


@pytest.mark.parametrize("layer", ["channels.layers.InMemoryChannelLayer", None, 5])
def test_a_layer_that_is_no_dict(settings: Any, layer: object) -> None:
    settings.CHANNEL_LAYERS = {"default": layer}
    assert numbers() == ["W002"]


def test_a_redis_url_that_is_none(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "redis_version", lambda: 8)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": REDIS, "CONFIG": {"hosts": ["redis://[bad"]}}}
    assert numbers() == ["W004"], "as without a timeout of its own"


def test_autocommit_that_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "AUTOCOMMIT", False)
    assert numbers() == ["E007"]


@pytest.mark.parametrize(
    ("vendor", "level", "expected"),
    [
        ("mysql", "REPEATABLE READ", ["W011"]),
        ("mysql", None, ["W011"]),
        ("mysql", "read committed", []),
        ("postgresql", IsolationLevel.SERIALIZABLE, ["W011"]),
        ("postgresql", 3, ["W011"]),
        ("postgresql", IsolationLevel.READ_COMMITTED, []),
        ("postgresql", 2, []),
    ],
)
def test_another_isolation_level(
    monkeypatch: pytest.MonkeyPatch, vendor: str, level: object, expected: list[str]
) -> None:
    monkeypatch.setattr(connections["default"], "vendor", vendor)
    monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", {"isolation_level": level})
    assert numbers() == expected


@pytest.mark.parametrize("path", ["no.such.module", "netra_queue.maintenance.nothing", "netra_queue.maintenance.BATCH"])
def test_what_undelivered_messages_cannot_be_handed_to(settings: Any, path: str) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"default": {}, "loud": {"ON_UNDELIVERED": path}}}
    assert numbers() == ["E009"]
    assert "'loud'" in str(found()[0].msg)
    settings.NETRA_QUEUE = {"POLICIES": {"loud": {"ON_UNDELIVERED": "netra_queue.maintenance.purge"}}}
    assert numbers() == []


WATCHING = {"POLICIES": {"loud": {"UNDELIVERED_SECONDS": 60}}}


def test_undelivered_messages_that_nothing_hands_over(settings: Any) -> None:
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_celery_beat"]
    names = ("sweep", "upkeep", "hand_over")
    entries = {name: {"task": f"netra_queue.{name}", "schedule": 60} for name in names}
    settings.CELERY_BEAT_SCHEDULE = {name: entries[name] for name in ("sweep", "upkeep")}
    assert numbers() == []
    settings.NETRA_QUEUE = WATCHING
    assert numbers() == ["W013"]
    settings.CELERY_BEAT_SCHEDULE = entries
    assert numbers() == []


@pytest.mark.django_db
def test_the_schedules_row_for_undelivered_messages_is_looked_at(settings: Any) -> None:
    from django_celery_beat.models import PeriodicTask

    call_command("netra_queue", "schedule", stdout=sys.stderr)
    PeriodicTask.objects.filter(task="netra_queue.hand_over").delete()
    assert numbers(["default"]) == []
    settings.NETRA_QUEUE = WATCHING
    assert numbers(["default"]) == ["W007"]
    settings.NETRA_QUEUE = {}
    assert numbers(["default"]) == []
    operating.carry_out(operating.policy_changed("loud", {"UNDELIVERED_SECONDS": 60}))
    assert numbers(["default"]) == ["W007"], "an operator's policy, too"
    policies.forget()


@pytest.mark.parametrize("path", ["no.such.module", "netra_queue.maintenance.BATCH", 5])
def test_a_resolver_that_cannot_be_asked(settings: Any, path: object) -> None:
    settings.NETRA_QUEUE = {"POLICY_RESOLVER": path}
    assert numbers() == ["E011"]
    for path in (None, "netra_queue.maintenance.purge"):
        settings.NETRA_QUEUE = {"POLICY_RESOLVER": path}
        assert numbers() == []


@pytest.mark.parametrize("path", ["no.such.module", "netra_queue.maintenance.BATCH", "netra_queue.asend", 5])
def test_what_cannot_redact(settings: Any, path: object) -> None:
    settings.NETRA_QUEUE = {"REDACT": path}
    assert numbers() == ["E013"]
    for path in (None, "netra_queue.maintenance.purge"):
        settings.NETRA_QUEUE = {"REDACT": path}
        assert numbers() == []


@pytest.mark.django_db
def test_what_operators_have_set_and_cannot_be_in_force(settings: Any) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"wide": {"WINDOW": 5000}}}
    call_command("netra_queue", "schedule", stdout=sys.stderr)
    operating.carry_out(operating.policy_changed("large", {"WINDOW": 5}))
    operating.carry_out(operating.pattern_set("user.*", "wide", 1))
    assert numbers(["default"]) == []
    settings.NETRA_QUEUE = {}
    assert numbers(["default"]) == ["W014"], "a policy that the settings do not have any more"
    QueuePolicy.objects.filter(pk="large").update(values='{"WINDOW": 0, "NEW_KEY": 1}')
    PolicyPattern.objects.filter(pk="user.*").update(pattern="user.[")
    ControlState.objects.update(version=5)
    assert numbers() == []
    assert numbers(["default"]) == ["E012", "E012"]
    text = " ".join(str(message.msg) for message in found(["default"]))
    assert "policy 'large'" in text
    assert "NEW_KEY" in text
    assert "pattern 'user.['" in text
    policies.forget()


@pytest.mark.parametrize("value", ["fast", 100, "1/d", "0/s"])
def test_a_replay_rate_that_is_none(settings: Any, value: object) -> None:
    settings.NETRA_QUEUE = {"PROCESS_REPLAY_RATE": value}
    assert numbers() == ["E003"]


@pytest.mark.parametrize(
    "values",
    [
        {"RATE": 100},
        {"RATE_EXCEEDED": "wait"},
        {"SENDER_RATES": {"a b": "1/s"}},
        {"SENDER_RATES": {"a": "often"}},
        {"SENDER_RATES": ["a"]},
        {"CLIENT_FRAMES": "1/d"},
        {"CONTROL_FRAMES": ""},
        {"CONNECTIONS": "-1/s"},
        {"REPLAY_RATE": True},
    ],
)
def test_rates_of_policies_that_are_none(settings: Any, values: dict[str, object]) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"a": values}}
    assert numbers() == ["E004"]
    assert next(iter(values)) in found()[0].msg or "RATE_EXCEEDED" in values


def test_rates_that_keep_honest_clients_out(settings: Any) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"a": {"CONNECTIONS": "60/m burst 19"}, "b": {"CONTROL_FRAMES": "4/m"}}}
    assert numbers() == ["W021", "W022"]
    fine = {"CONNECTIONS": "60/m burst 20", "CONTROL_FRAMES": "5/m"}
    settings.NETRA_QUEUE = {"PROCESS_REPLAY_RATE": "2000/s", "POLICIES": {"a": fine}}
    assert numbers() == []


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"oldest": {}}, "there is no alert 'oldest'; known are sends_refused, "),
        ({"oldest_waiting": 60}, "['oldest_waiting']: expected None or a dict with ABOVE and FOR_SECONDS, got 60"),
        ({"oldest_waiting": {"BELOW": 6}}, "expected None or a dict with ABOVE and FOR_SECONDS, got {'BELOW': 6}"),
        ({"oldest_waiting": {"ABOVE": "60"}}, "ABOVE: expected a number from 0 on, got '60'"),
        ({"oldest_waiting": {"ABOVE": True}}, "ABOVE: expected a number from 0 on, got True"),
        ({"oldest_waiting": {"FOR_SECONDS": -1}}, "FOR_SECONDS: expected a number from 0 on, got -1"),
        ({"oldest_waiting": {"FOR_SECONDS": float("nan")}}, "FOR_SECONDS: expected a number from 0 on, got nan"),
    ],
)
def test_wrong_alerts(given: dict[str, Any], problem: str, settings: Any) -> None:
    settings.NETRA_QUEUE = {"ALERTS": given}
    assert numbers() == ["E020"]
    assert problem in found()[0].msg


def test_alerts_that_are_no_dict(settings: Any) -> None:
    settings.NETRA_QUEUE = {"ALERTS": ["oldest_waiting"]}
    assert numbers() == ["E003"]
