"""The tables' history: forwards with data in them, backwards again, and nothing that the models say is left out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.apps.registry import Apps
from django.core.management import call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from netra_queue.models import queue_id
from tests.making import AdvancingDatabaseStore, get, ids, make_draft, make_policy, make_presence, put

APP = "netra_queue"
FIRST = "0001_initial"


def go_to(alias: str, name: str | None) -> Apps:
    """Migrate the app to this migration (None: to before the first). Returns the models as they were then."""
    MigrationExecutor(connections[alias]).migrate([(APP, name)])
    state = MigrationExecutor(connections[alias]).loader.project_state([(APP, name or FIRST)])
    return state.apps


def newest(alias: str) -> str:
    (leaf,) = MigrationExecutor(connections[alias]).loader.graph.leaf_nodes(APP)
    return str(leaf[1])


@pytest.fixture
def alias(database: str) -> Iterator[str]:
    """A database whose tables a test may change: they are as the models say when it is over."""
    yield database
    go_to(database, newest(database))


def old_message(apps: Apps, alias: str, **changes: Any) -> None:
    now = timezone.now()
    values = {
        "queue_id": queue_id("user.1"),
        "uid": "0" * 32,
        "priority": 2,
        "kind": 0,
        "payload": '{"old":"Grüße"}',
        "size": 17,
        "created_at": now,
        "expires_at": now + timedelta(days=1),
    }
    apps.get_model(APP, "Message").objects.using(alias).create(**values | changes)


@pytest.mark.django_db
def test_the_migrations_are_what_the_models_say() -> None:
    call_command("makemigrations", APP, check=True, dry_run=True, verbosity=0)


def test_what_was_queued_before_is_delivered_after(alias: str) -> None:
    old_message(go_to(alias, FIRST), alias)
    go_to(alias, newest(alias))
    store = AdvancingDatabaseStore(alias)
    (message,) = get(store).messages
    assert (message.id, message.payload.text, message.deliveries) == ("0" * 32, '{"old":"Grüße"}', 0)
    store.attach(make_presence("user.1/phone"), make_policy())
    assert ids(get(store, "user.1/phone")) == ["0" * 32], "a device takes it over"


def test_a_process_of_the_release_before_can_still_send(alias: str) -> None:
    """It runs on while the new tables are there already, and knows nothing of the new columns."""
    apps = MigrationExecutor(connections[alias]).loader.project_state([(APP, FIRST)]).apps
    old_message(apps, alias)
    assert ids(get(AdvancingDatabaseStore(alias))) == ["0" * 32]


def test_back_to_the_first_with_messages_queued(alias: str) -> None:
    draft = make_draft()
    put(AdvancingDatabaseStore(alias), draft)
    apps = go_to(alias, FIRST)
    (row,) = apps.get_model(APP, "Message").objects.using(alias).all()
    assert (row.uid, row.payload) == (draft.id, draft.payload.text)
    go_to(alias, newest(alias))
    assert ids(get(AdvancingDatabaseStore(alias))) == [draft.id]


def test_back_to_the_first_with_a_payload_that_two_devices_share(alias: str) -> None:
    store, draft = AdvancingDatabaseStore(alias), make_draft()
    for line in ("user.1/phone", "user.1/tab"):
        store.attach(make_presence(line), make_policy())
    put(store, draft)
    rows = go_to(alias, FIRST).get_model(APP, "Message").objects.using(alias)
    assert list(rows.values_list("payload", flat=True)) == [draft.payload.text] * 2
    go_to(alias, newest(alias))
    assert ids(get(store, "user.1/tab")) == [draft.id]


def test_back_to_nothing_and_forwards_again(alias: str) -> None:
    put(AdvancingDatabaseStore(alias), make_draft())
    go_to(alias, None)
    tables = connections[alias].introspection.table_names()
    assert [table for table in tables if table.startswith(APP)] == []
    go_to(alias, newest(alias))
    assert ids(get(AdvancingDatabaseStore(alias))) == []
