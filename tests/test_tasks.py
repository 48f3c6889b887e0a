"""The Celery tasks, and the example's Celery app that finds them."""

from __future__ import annotations

from typing import Any

import pytest
from celery.signals import worker_process_shutdown

from netra_queue import statistics, tasks
from netra_queue.core.statistics import Bucket, Event, aligned
from netra_queue.models import Message, ServerProcess, Statistics
from netra_queue.stores import current_store
from project.celery import app
from tests import counts
from tests.making import AdvancingStore, make_draft, make_policy, make_presence, put

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def store(settings: Any) -> AdvancingStore:
    settings.NETRA_QUEUE = {"STORE": "tests.making.AdvancingDatabaseStore"}
    return current_store()  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["netra_queue.sweep", "netra_queue.upkeep"])
def test_the_app_of_the_example_finds_the_tasks(name: str) -> None:
    app.loader.import_default_modules()
    task = app.tasks[name]
    assert task.ignore_result
    assert task.soft_time_limit > tasks.BUDGET_SECONDS


def test_sweep_removes_expired_messages(store: AdvancingStore) -> None:
    put(store, make_draft(ttl=10), make_draft(ttl=1000))
    store.advance(11)
    tasks.sweep.apply().get()
    assert Message.objects.count() == 1


def test_upkeep_removes_dead_servers_old_keys_and_idle_queues(store: AdvancingStore) -> None:
    presence = make_presence()
    store.heartbeat(presence.server)
    store.attach(presence, make_policy())
    put(store, make_draft("user.2", key="once", ttl=10))
    store.advance(40 * 86_400)
    tasks.upkeep.apply().get()
    assert not ServerProcess.objects.exists()
    due = store.due(10)
    assert (due.connections, due.keys, due.idle_queues) == (0, 0, 0)


def test_upkeep_adds_statistics_up(store: AdvancingStore) -> None:
    store.record_statistics("one", [Bucket(aligned(store.now()), counts.make())])
    store.advance(7200)
    tasks.upkeep.apply().get()
    assert set(Statistics.objects.values_list("span", flat=True)) == {0, 60}


def test_a_worker_process_writes_what_it_has_counted_at_its_end(
    store: AdvancingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery's child processes end without what Python does at the end of others."""
    monkeypatch.setattr(statistics, "ledger", statistics.Ledger())
    counts.take()
    put(store, make_draft())
    worker_process_shutdown.send(sender=None)
    assert store.statistics_total().count(Event.ACCEPTED) == 1
