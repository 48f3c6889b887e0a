"""``manage.py netra_queue``."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

from netra_queue.core.message import Priority
from netra_queue.management import subcommands
from netra_queue.stores import current_store
from tests.making import AdvancingStore, make_draft, put

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def store(settings: Any) -> AdvancingStore:
    settings.NETRA_QUEUE = {"STORE": "tests.making.AdvancingDatabaseStore"}
    return current_store()  # type: ignore[return-value]


def netra_queue(*arguments: str) -> str:
    out = io.StringIO()
    call_command("netra_queue", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize("name", subcommands.NAMES)
def test_every_subcommand_has_a_module_with_help(name: str) -> None:
    assert subcommands.load(name).HELP.endswith(".")


def test_without_a_known_subcommand_it_says_which_there_are() -> None:
    with pytest.raises(CommandError, match="sweep"):
        netra_queue("swep")
    with pytest.raises(CommandError, match="subcommand"):
        netra_queue()


def test_sweep_says_what_it_removed(store: AdvancingStore) -> None:
    put(store, make_draft(ttl=10, key="once"), make_draft(ttl=10), make_draft(ttl=1000))
    store.advance(11)
    dry = netra_queue("sweep", "--dry-run")
    assert "expired messages: 2 would be removed\n" in dry
    assert "keys and receipts that have run out: 1 would be removed\n" in dry
    assert "unacknowledged messages: 0 would be handed over\n" in dry
    wet = netra_queue("sweep")
    assert "expired messages: 2 removed\n" in wet
    assert "expired messages: 0 removed\n" in netra_queue("sweep")


def test_sweep_says_when_its_time_was_over(store: AdvancingStore) -> None:
    put(store, *(make_draft(ttl=10) for _ in range(3)))
    store.advance(11)
    assert "run it again" in netra_queue("sweep", "--batch", "1", "--budget-seconds", "0.000001")


@pytest.mark.parametrize("arguments", [("--batch", "0"), ("--batch", "x"), ("--budget-seconds", "-1")])
def test_sweep_refuses_impossible_numbers(arguments: tuple[str, str]) -> None:
    with pytest.raises(CommandError, match=arguments[0]):
        netra_queue("sweep", *arguments)


def test_purge_removes_one_queue_or_priority(store: AdvancingStore) -> None:
    put(store, make_draft(), make_draft(priority=Priority.LOW), make_draft("user.2"))
    assert netra_queue("purge", "user.1", "--dry-run") == "messages of user.1: 2 would be removed\n"
    assert netra_queue("purge", "user.1", "--priority", "low") == "messages of user.1 with priority low: 1 removed\n"
    assert netra_queue("purge", "user.1") == "messages of user.1: 1 removed\n"
    assert store.stat("user.2").messages == 1


def test_purge_of_an_unknown_queue_or_priority_is_an_error(store: AdvancingStore) -> None:
    with pytest.raises(CommandError, match=r"There is no queue 'user\.404'"):
        netra_queue("purge", "user.404")
    with pytest.raises(CommandError, match="--priority"):
        netra_queue("purge", "user.1", "--priority", "urgent")


def test_stats_as_text_and_as_json(store: AdvancingStore) -> None:
    put(store, make_draft(collapse="k"), make_draft("user.2"))
    put(store, make_draft(collapse="k"), make_draft())
    store.ensure(["user.1", "user.2"])
    text = netra_queue("stats")
    assert text.index("user.1") < text.index("user.2")
    assert text.splitlines()[-2].split()[:3] == ["2", "14", "1"]
    assert json.loads(netra_queue("stats", "--json", "--limit", "1")) == {
        "messages": 3,
        "size": 21,
        "expired": 0,
        "queues": 2,
        "connections": 0,
        "servers": 0,
        "complete": True,
        "largest": [
            {
                "queue": "user.1",
                "messages": 2,
                "size": 14,
                "oldest_at": store.stat("user.1").oldest_at.isoformat(),  # type: ignore[union-attr]
                "superseded": 1,
            }
        ],
    }


def test_schedule_creates_all_tasks_once(store: AdvancingStore) -> None:
    assert netra_queue("schedule", "--dry-run").count("would be created") == 3
    assert not PeriodicTask.objects.exists()
    changed_before = PeriodicTasks.last_change()
    assert netra_queue("schedule").count(": created") == 3
    assert PeriodicTasks.last_change() != changed_before  # a running beat takes note
    for task in PeriodicTask.objects.select_related("interval"):
        assert task.enabled
        assert task.expire_seconds < task.interval.every
    assert netra_queue("schedule").count("exists, left as it is") == 3
    assert PeriodicTask.objects.count() == 3


def test_schedule_leaves_an_operators_edits(store: AdvancingStore) -> None:
    netra_queue("schedule")
    hourly = IntervalSchedule.objects.create(every=1, period=IntervalSchedule.HOURS)
    PeriodicTask.objects.filter(name="netra_queue: sweep").update(enabled=False, interval=hourly)
    netra_queue("schedule")
    task = PeriodicTask.objects.get(name="netra_queue: sweep")
    assert (task.enabled, task.interval) == (False, hourly)


def test_schedule_uses_one_of_several_equal_intervals(store: AdvancingStore) -> None:
    for _ in range(2):
        IntervalSchedule.objects.create(every=60, period=IntervalSchedule.SECONDS)
    netra_queue("schedule")
    assert IntervalSchedule.objects.filter(every=60).count() == 2


def test_schedule_without_django_celery_beat_says_what_to_do(settings: Any) -> None:
    settings.INSTALLED_APPS = [app for app in settings.INSTALLED_APPS if app != "django_celery_beat"]
    with pytest.raises(CommandError, match="INSTALLED_APPS"):
        netra_queue("schedule")


def test_an_unusable_store_is_an_error_without_a_traceback(settings: Any) -> None:
    settings.NETRA_QUEUE = 5
    with pytest.raises(CommandError, match="expected a dict"):
        netra_queue("stats")
