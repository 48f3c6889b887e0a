"""``manage.py netra_queue``."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django_celery_beat.models import IntervalSchedule, PeriodicTask, PeriodicTasks

from netra_queue import operating, policies, wakeup
from netra_queue.core.breaker import BreakerState
from netra_queue.core.message import Priority
from netra_queue.core.statistics import Bucket, Event, Figures, Gauge, Timing, aligned
from netra_queue.management import subcommands
from netra_queue.stores import current_store
from netra_queue.stores.guarded import current_guard
from netra_queue.stores.values import Detail
from tests import counts
from tests.making import HERE, AdvancingStore, get, ids, make_draft, make_policy, make_presence, put

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
        "paused": 0,
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
                "pause": None,
            }
        ],
    }


def test_schedule_creates_all_tasks_once(store: AdvancingStore) -> None:
    assert netra_queue("schedule", "--dry-run").count("would be created") == 4
    assert not PeriodicTask.objects.exists()
    changed_before = PeriodicTasks.last_change()
    assert netra_queue("schedule").count(": created") == 4
    assert PeriodicTasks.last_change() != changed_before  # a running beat takes note
    for task in PeriodicTask.objects.select_related("interval"):
        assert task.enabled
        assert task.expire_seconds < task.interval.every
    assert netra_queue("schedule").count("exists, left as it is") == 4
    assert PeriodicTask.objects.count() == 4


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


@pytest.fixture
def operated(settings: Any) -> Iterator[Any]:
    """Policies in the settings and in the database."""
    settings.NETRA_QUEUE = {
        "POLICIES": {"default": {"WINDOW": 64}, "tier": {"MAX_MESSAGES": 7, "DEAD_LETTERS": {"dead"}}}
    }
    operating.carry_out(operating.policy_changed("tier", {"WINDOW": 9}))
    operating.carry_out(operating.pattern_set("vip.*", "tier", 1))
    yield current_store()
    policies.forget()


def test_policies_says_what_is_in_force_and_where_it_is_from(operated: Any) -> None:
    text = netra_queue("policies")
    assert re.search(r'default\n(  .*\n)*  WINDOW +64 +settings, policy "default"\n', text)
    assert re.search(r'tier\n(  .*\n)*  WINDOW +9 +database, policy "tier"\n', text)
    assert re.search(r"  HEARTBEAT_SECONDS +25 +built in\n", text)
    assert re.search(r"  vip\.\* +tier", text)
    only = json.loads(netra_queue("policies", "--policy", "tier", "--json"))["policies"]
    assert list(only) == ["tier"]
    assert only["tier"]["MAX_MESSAGES"] == {"value": 7, "source": "settings", "policy": "tier"}
    with pytest.raises(CommandError, match="There are default, tier"):
        netra_queue("policies", "--policy", "teir")


def test_policies_says_which_one_a_queue_has_and_why(operated: Any) -> None:
    operated.attach(make_presence("user.1", policy="tier"), make_policy())
    operated.attach(replace(make_presence("user.2", policy="tier"), is_resolved=True), make_policy())
    found = {
        queue: netra_queue("policies", queue).splitlines() for queue in ("user.1", "user.2", "vip.3/tab", "user.4")
    }
    assert [lines[0] for lines in found.values()] == [
        "user.1: durable, policy tier: the consumer's queue_policy",
        "user.2: durable, policy tier: POLICY_RESOLVER",
        "vip.3/tab: durable, policy tier: an operator's pattern, vip.*",
        "user.4: durable, policy default: nothing else was chosen",
    ]
    assert any("WINDOW" in line and " 9 " in line for line in found["user.1"])
    with pytest.raises(CommandError, match="queue name"):
        netra_queue("policies", "user 1")


def test_inspect_says_how_connections_stand(store: AdvancingStore) -> None:
    store.heartbeat(HERE)
    presence, gone = (replace(make_presence(f"user.1/{client}"), client=client) for client in ("phone", "tab"))
    for each in (presence, gone):
        store.attach(each, make_policy())
    acked_at = store.now()
    store.detach([replace(gone, acked_at=acked_at)])
    shown = acked_at.isoformat(timespec="milliseconds")
    text = netra_queue("inspect", "user.1")
    assert f"last acknowledged by one that has left {shown}" in text
    head = f"  connection {presence.id} on here:1 since "
    (line,) = [line for line in text.splitlines() if line.startswith(head)]
    assert line.endswith(": not answered")
    store.tell_details([Detail(connection=presence.id, window=9, unacked=4, acked_at=None)])
    (line,) = [line for line in netra_queue("inspect", "user.1").splitlines() if line.startswith(head)]
    assert ": not answered; as of " in line
    assert line.endswith(": 4 not acknowledged of a window of 9, last acknowledged never")
    wakeup.register_local(
        HERE.id,
        lambda queues: None,
        on_describe=lambda lines: store.tell_details(
            [Detail(connection=presence.id, window=9, unacked=0, acked_at=acked_at)]
        ),
    )
    try:
        (line,) = [line for line in netra_queue("inspect", "user.1").splitlines() if line.startswith(head)]
        (found,) = json.loads(netra_queue("inspect", "user.1/phone", "--json"))["connections"]
    finally:
        wakeup.unregister_local(HERE.id)
    assert "not answered" not in line
    assert line.endswith(f": 0 not acknowledged of a window of 9, last acknowledged {shown}")
    assert {**found, "since": "", "told_at": ""} == {
        "id": presence.id,
        "line": "user.1/phone",
        "server": "here:1",
        "is_alive": True,
        "client": "phone",
        "since": "",
        "is_answer": True,
        "told_at": "",
        "window": 9,
        "unacked": 0,
        "acked_at": shown,
    }


def test_inspect_shows_a_queue_with_its_devices(store: AdvancingStore) -> None:
    store.attach(make_presence("user.1/phone", policy="default"), make_policy())
    secret = make_draft(text='{"secret": 7}', priority=Priority.HIGH)
    put(store, secret, make_draft())
    store.purge("user.1/phone", 1, Priority.NORMAL)
    text = netra_queue("inspect", "user.1")
    assert text.startswith("user.1: durable, policy default: ")
    assert "user.1/phone: 1 waiting (13 bytes): high 1" in text
    assert "lost, client not told yet: dropped normal 1" in text
    assert secret.id in text
    assert "secret" not in text
    assert '{"secret": 7}' in netra_queue("inspect", "user.1", "--payload")
    document = json.loads(netra_queue("inspect", "user.1/phone", "--json"))
    assert [line["line"] for line in document["lines"]] == ["user.1/phone"]
    assert document["lines"][0]["next"][0]["id"] == secret.id
    assert ids(get(store, "user.1/phone")) == [secret.id], "nothing has changed"
    with pytest.raises(CommandError, match="There is no queue"):
        netra_queue("inspect", "user.2")
    with pytest.raises(CommandError, match="queue name"):
        netra_queue("inspect", "user 1")


def test_stats_again_and_again(store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", pause)
    assert len(netra_queue("stats", "--json", "--watch", "3").split('"largest"')) == 3
    assert pauses == [3, 3]
    with pytest.raises(CommandError, match="--watch"):
        netra_queue("stats", "--watch", "0")


def test_breaker_is_forced_for_a_while_and_let_go(store: AdvancingStore) -> None:
    assert netra_queue("breaker") == "The breakers do what the store shows.\n"
    assert re.fullmatch(
        r"The breakers are forced open until .* UTC\.\n", netra_queue("breaker", "open", "--minutes", "5")
    )
    assert current_guard().state is BreakerState.OPEN
    assert re.fullmatch(r"The breakers are forced open until .* UTC\.\n", netra_queue("breaker"))
    assert re.fullmatch(r"The breakers are forced closed until .* UTC\.\n", netra_queue("breaker", "closed"))
    assert netra_queue("breaker", "auto") == "The breakers do what the store shows.\n"
    assert current_guard().state is BreakerState.CLOSED
    with pytest.raises(CommandError, match="--minutes"):
        netra_queue("breaker", "open", "--minutes", "0")


def test_rollout_shows_the_switch_and_pulls_it(store: AdvancingStore) -> None:
    assert netra_queue("rollout") == "The kill switch is not pulled.\n  default                 all queues\n"
    assert "every queue is plain Channels" in netra_queue("rollout", "off")
    operating.carry_out(
        operating.policy_changed("default", {"ROLLOUT": {"PERCENT": 12.5, "ALLOW": ["a", "b.*"], "DENY": ["c"]}})
    )
    assert "12.5 % of the queues, and a, b.*, without c\n" in netra_queue("rollout")
    document = json.loads(netra_queue("rollout", "on", "--json"))
    assert document == {
        "is_off": False,
        "policies": {"default": {"percent": 12.5, "allow": ["a", "b.*"], "deny": ["c"], "shadow": False}},
        "shadow": None,
    }


def test_rollout_reports_what_shadow_mode_has_shown(store: AdvancingStore) -> None:
    operating.carry_out(operating.policy_changed("default", {"ROLLOUT": {"SHADOW": True}}))
    figures = Figures()
    for event, count in ((Event.ACCEPTED, 9), (Event.ACKED, 4), (Event.MISSED, 3), (Event.UNCONFIRMED, 2)):
        figures.counts[event][Priority.NORMAL] = count
    now = store.now()
    store.record_statistics("one", [Bucket(aligned(now - timedelta(hours=hours)), figures) for hours in (1, 3)])
    report = json.loads(netra_queue("rollout", "--json", "--hours", "2"))["shadow"]
    assert report == {"accepted": 9, "acked": 4, "missed": 3, "unconfirmed": 2, "expired": 0, "dropped": 0}
    assert re.search(r"would have been replayed +10\n.*: missed +6\n.*perhaps missed +4\n", netra_queue("rollout"))


def test_statistics_as_text_and_as_json(store: AdvancingStore) -> None:
    counts.take()
    put(store, make_draft(priority=Priority.HIGH), make_draft())
    figures = counts.take()
    figures.timings[Timing.ACK].observe(0.25)
    figures.counts[Event.CONNECTED][0] = 3
    figures.gauges[Gauge.CONNECTIONS] = 600
    start = aligned(store.now(), 3600)
    store.record_statistics("one", [Bucket(start, figures)])
    head, line = netra_queue("statistics", "--minutes", "120", "--step", "3600").splitlines()
    assert head.split()[:4] == ["from", "accepted", "transmitted", "acked"]
    assert line.startswith(f"{start:%Y-%m-%d %H:%M:%S}")
    assert line.split()[2:7] == ["2", "0", "0", "0", "0"]
    assert line.split()[-1] == "0.2"
    (found,) = json.loads(netra_queue("statistics", "--json", "--minutes", "120", "--step", "3600"))
    assert found["counts"] == {"accepted": {"high": 1, "normal": 1}, "connected": 3}
    assert found["timings"]["ack"]["count"] == 1
    assert 0.125 <= found["timings"]["ack"]["p99"] <= 0.256
    assert found["timings"]["live"] == {"count": 0, "total": 0, "p50": None, "p95": None, "p99": None}
    assert found["gauges"]["connections"] == pytest.approx(600 / 3600, abs=0.001)


def test_sweep_adds_old_statistics_up(store: AdvancingStore) -> None:
    store.record_statistics("one", [Bucket(aligned(store.now()), counts.make())])
    store.advance(7200)
    assert "old statistics" not in netra_queue("sweep", "--dry-run")
    assert "old statistics: 1 added up or removed\n" in netra_queue("sweep")
    assert "old statistics: 0 added up or removed\n" in netra_queue("sweep")
