"""``manage.py netra_queue doctor``: parts that work, on every database, and parts that do not."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from netra_queue import health, process, readiness, testing, trials, wakeup
from netra_queue.exceptions import StoreUnavailable
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from tests.conftest import needs_redis
from tests.making import force_breaker, make_draft, put
from tests.server.conftest import STORES
from tests.settings import REDIS_URL
from tests.test_architecture import ROOT
from tests.test_health import LAYER, SHORT, Layer, away

NAMES = ["store", "channel layer", "hub", "sweep", "tables", "message", "bell"]
SILENCED = ["netra_queue.W003", "netra_queue.W006", "netra_queue.W007", "netra_queue.W009"]


@pytest.fixture(autouse=True)
def _anew(settings: Any) -> Iterator[None]:
    settings.SILENCED_SYSTEM_CHECKS = SILENCED
    readiness.forget()
    yield
    testing.shutdown()
    readiness.forget()


@pytest.fixture
def store(settings: Any, transactional_db: None) -> Store:
    """In memory; the system checks look into the default database."""
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": LAYER}}
    return current_store()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials.examine, "__defaults__", (SHORT,))


def doctor(*arguments: str) -> tuple[str, str]:
    """What it writes, and what it complains about at the end; nothing, if its exit status is 0."""
    out, complaint = io.StringIO(), ""
    try:
        call_command("netra_queue", "doctor", *arguments, stdout=out)
    except CommandError as error:
        complaint = str(error)
    return out.getvalue(), complaint


def found() -> dict[str, dict[str, Any]]:
    """By name, what it writes as JSON."""
    return {one["name"]: one for one in json.loads(doctor("--json")[0])["probes"]}


def rows(alias: str) -> dict[str, int]:
    models = apps.get_app_config("netra_queue").get_models()
    return {model.__name__: model._default_manager.using(alias).count() for model in models}


def only(alias: str, checks: Any, *, tags: Any, databases: Any) -> Any:
    """The checks without the databases that a test may not use."""
    return checks(tags=tags, databases=[alias] if alias == "default" else None)


def test_all_is_well_and_nothing_is_left(settings: Any, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "run_checks", partial(only, database, run_checks))
    settings.NETRA_QUEUE = {"STORE": STORES[database]}
    put(current_store(), make_draft())
    before = rows(database)
    text, complaint = doctor()
    assert complaint == "", text
    lines = text.splitlines()
    assert [re.sub(r"  +.*", "", line.removeprefix("ok      ")) for line in lines] == ["checks", *NAMES]
    assert all(re.match(r"ok      [a-z ]+ +\d+\.\d{3} s  .*\.$", line) for line in lines), text
    assert "See" not in text
    assert rows(database) == before


@needs_redis
def test_all_is_well_with_redis(store: Store, settings: Any) -> None:
    hosts = [{"address": REDIS_URL, "socket_timeout": 30}]
    redis = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": hosts, "prefix": "doctor"}}
    settings.CHANNEL_LAYERS = {"default": redis}
    text, complaint = doctor()
    assert complaint == "", text
    assert re.search(r"ok      bell .* rung and heard in ", text)


def test_as_json(store: Store) -> None:
    document = json.loads(doctor("--json")[0])
    assert document["health"] == "ok"
    assert [one["name"] for one in document["probes"]] == ["checks", *NAMES]
    assert {one["health"] for one in document["probes"]} == {"ok"}
    assert set(document["probes"][0]) == {"name", "health", "seconds", "text", "page"}


def test_operators_limits_are_not_the_doctors(store: Store, settings: Any) -> None:
    policy = {"MAX_MESSAGES": 1, "MAX_MESSAGE_BYTES": 1, "MAX_BYTES": 1, "OVERFLOW": "reject", "UNDELIVERED_SECONDS": 1}
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": {"default": policy}}
    assert found()["message"]["health"] == "ok"


# --- the configuration ---------------------------------------------------------------------------------------------


def test_what_the_system_checks_find(store: Store, settings: Any) -> None:
    settings.SILENCED_SYSTEM_CHECKS = [id for id in SILENCED if id != "netra_queue.W009"]
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POL_SECONDS": 3}
    settings.DEBUG = False
    text, complaint = doctor()
    assert complaint == "Not well: netra_queue.E002."
    assert re.search(r"^failed  netra_queue.E002 .*key 'POL_SECONDS'. .*POLL.* See docs/checks.md.$", text, re.M)
    assert re.search(r"^warn    netra_queue.W009 ", text, re.M)


def test_a_warning_is_no_failure(store: Store, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}
    text, complaint = doctor()
    assert complaint == ""
    assert {name for name, one in found().items() if one["health"] == "warn"} == {
        "netra_queue.W001",
        "channel layer",
        "bell",
    }, text


def test_settings_that_are_no_settings(settings: Any, transactional_db: None) -> None:
    settings.NETRA_QUEUE = 5
    names = {name for name, one in found().items() if one["health"] == "failed"}
    assert names >= {"netra_queue.E001", "store", "message"}
    settings.NETRA_QUEUE = {}  # what follows has to end


def test_from_a_shell_errors_of_checks_do_not_stop_it(tmp_path: Path) -> None:
    code = (
        "import django; from django.conf import settings; from django.core.management import execute_from_command_line;"
        "settings.NETRA_QUEUE = {'STORE': 'nowhere.Store'};"
        "execute_from_command_line(['manage.py', 'netra_queue', 'doctor', '--json'])"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "project.settings", "DATABASE_URL": f"sqlite:///{tmp_path / 'db'}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    names = {one["name"]: one["health"] for one in json.loads(done.stdout)["probes"]}
    assert names["netra_queue.E005"] == names["store"] == "failed"
    assert names["channel layer"] == "ok"


def test_tables_that_are_missing(store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.NETRA_QUEUE = {}
    applied = MigrationRecorder(connections["default"]).applied_migrations()
    known = {key: value for key, value in applied.items() if key != ("netra_queue", "0005_statistics")}
    monkeypatch.setattr(MigrationRecorder, "applied_migrations", lambda self: known)
    one = found()["tables"]
    assert (one["health"], one["page"]) == ("failed", "docs/installation.md")
    assert "0005_statistics" in one["text"]


# --- a store that does not work ------------------------------------------------------------------------------------


def test_a_store_that_raises(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("waiting", "append", "due"):
        monkeypatch.setattr(store, name, away)
    text, complaint = doctor()
    assert complaint == "Not well: store, message."
    assert re.search(r"^failed  message .*away\. See docs/deployment\.md#databases\.$", text, re.M)


def test_an_open_breaker(store: Store) -> None:
    force_breaker(store, is_open=True)
    text, complaint = doctor()
    assert complaint == "Not well: store, message."
    assert text.count("See docs/breaker.md.") == 2


def test_a_database_that_can_only_be_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "append", away)
    assert doctor()[1] == "Not well: message."


def test_a_store_that_loses_the_message(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    append = store.append

    def lose(drafts: Any, policies: Any) -> Any:
        appended = append(drafts, policies)
        store.purge(drafts[0].queue, 1)
        return appended

    monkeypatch.setattr(store, "append", lose)
    assert doctor()[1] == "Not well: message."


def test_an_ack_that_fails_once_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ack, asked = store.ack, []

    def fails_once(positions: Any) -> Any:
        asked.append(positions)
        if len(asked) == 1:
            raise StoreUnavailable("away")
        return ack(positions)

    monkeypatch.setattr(store, "ack", fails_once)
    assert doctor()[1] == "Not well: message."
    assert len(asked) == 2
    assert store.overview(1, 10).messages == 0


def test_a_store_that_hangs(store: Store, monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    may_answer = threading.Event()
    monkeypatch.setattr(store, "append", lambda *given: may_answer.wait(20) and away())
    assert doctor()[1] == "Not well: message."
    assert "within 0.2 seconds" in found()["message"]["text"] or found()["message"]["text"] == health.STILL_BUSY
    may_answer.set()


# --- a layer that does not work ------------------------------------------------------------------------------------


def test_a_layer_that_loses_messages(store: Store, monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    monkeypatch.setattr(Layer, "loses", True)
    text, complaint = doctor()
    assert complaint == "Not well: channel layer, bell."
    assert re.search(r"^failed  bell  .* not heard within 0.2 seconds\. See docs/deployment\.md#redis\.$", text, re.M)


def test_a_layer_that_loses_bells_alone(store: Store, monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    async def lose(self: Any, group: str, message: Any) -> None:
        return None

    monkeypatch.setattr(Layer, "group_send", lose)
    assert doctor()[1] == "Not well: bell."


def test_the_bell_reaches_no_hub_of_this_process(store: Store) -> None:
    """A hub that is here is told of the doctor's queue, of which it has no connections."""

    async def played() -> None:
        hub = process.current_hub()
        text, complaint = await asyncio.to_thread(doctor)
        assert complaint == "", text
        assert not hub.links()
        assert [name for name in wakeup._local if name != hub.server.id] == []
        await process.stop_hub()

    asyncio.run(played())
