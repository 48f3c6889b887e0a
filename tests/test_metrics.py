"""What Prometheus is shown, by which process, and who may see it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.core.checks import run_checks
from django.test import Client, RequestFactory
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import netra_queue
from netra_queue import known, maintenance, metrics, statistics, views
from netra_queue.core.message import Priority
from netra_queue.core.statistics import BOUNDS, Bucket, Event, Figures, Gauge, Timing, aligned
from netra_queue.counting import adder
from netra_queue.exceptions import StoreUnavailable
from netra_queue.known import Known
from netra_queue.statistics import Ledger
from netra_queue.stores import current_store
from netra_queue.sweeps import LastSweep
from tests import counts
from tests.making import AdvancingMemoryStore, force_breaker, make_draft, put
from tests.server.conftest import database_url
from tests.test_docs import ROOT
from tests.waiting import await_until

TOKEN = "a-secret-of-the-scraper"
NORMAL = Priority.NORMAL
DOCUMENT = (ROOT / "docs/metrics.md").read_text()


@pytest.fixture
def store(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdvancingMemoryStore]:
    settings.NETRA_QUEUE = {"STORE": "tests.making.AdvancingMemoryStore", "METRICS_TOKEN": TOKEN}
    monkeypatch.setattr(statistics, "ledger", Ledger())
    monkeypatch.setattr(known, "CACHE_SECONDS", 0)
    counts.take()
    yield current_store()  # type: ignore[misc]
    statistics.close()
    counts.take()


def samples(text: bytes | str) -> dict[str, float]:
    """By name with labels, as they are written."""
    found = {}
    text = text if isinstance(text, str) else text.decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


# --- of this process -----------------------------------------------------------------------------------------------


def test_native_metrics_are_fed(store: AdvancingMemoryStore) -> None:
    registry = CollectorRegistry()
    mine = metrics.ProcessMetrics(registry)
    statistics.ledger.listeners.append(mine.feed)
    statistics.ledger.note_gauges(1, {Gauge.CONNECTIONS: 3, Gauge.IN_FLIGHT: 2, Gauge.OWN_SENDS: 1})
    adder.add(Event.ACKED, Priority.HIGH, 2)
    adder.add(Event.CONNECTED)
    adder.observe(Timing.ACK, [0.003, 0.004, 100_000_000])
    adder.observe(Timing.REPLAY_ACK, [60])
    adder.observe(Timing.LIVE, [BOUNDS[4]])
    for _ in range(2):
        found = samples(generate_latest(registry))
        assert found["netra_queue_messages_total{event=acked,priority=high}"] == 2
        assert found["netra_queue_connections_opened_total"] == 1
        assert found["netra_queue_ack_seconds_count{replayed=no}"] == 3
        assert found["netra_queue_ack_seconds_bucket{le=0.004,replayed=no}"] == 2
        assert found["netra_queue_ack_seconds_bucket{le=0.002,replayed=no}"] == 0
        assert found["netra_queue_ack_seconds_sum{replayed=yes}"] == 60
        assert found["netra_queue_live_seconds_bucket{le=0.016}"] == 1, "a bound is in its bucket"
        assert found["netra_queue_live_seconds_bucket{le=0.008}"] == 0
        assert (found["netra_queue_connections"], found["netra_queue_in_flight"]) == (3, 2)
        assert found["netra_queue_own_sends"] == 1
    statistics.ledger.note_gauges(1, dict.fromkeys(Gauge, 0))
    assert samples(generate_latest(registry))["netra_queue_connections"] == 0


def test_the_default_registry_has_them(store: AdvancingMemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any ``/metrics`` of a project shows it, up to the moment of the scrape."""
    statistics.ledger.listeners.append(metrics.process_metrics.feed)
    name = "netra_queue_messages_total{event=accepted,priority=normal}"
    before = samples(generate_latest(REGISTRY)).get(name, 0)
    netra_queue.send("user.1", "hello")
    found = samples(generate_latest(REGISTRY))
    assert found[name] == before + 1
    assert found["netra_queue_store_messages"] == 1


def test_django_begins_to_feed_them() -> None:
    assert metrics.process_metrics.feed in statistics.ledger.listeners
    metrics.begin()
    assert statistics.ledger.listeners.count(metrics.process_metrics.feed) == 1


def test_no_label_has_more_values_than_the_code(store: AdvancingMemoryStore) -> None:
    registry = CollectorRegistry()
    statistics.ledger.listeners.append(metrics.ProcessMetrics(registry).feed)
    for number in range(50):
        netra_queue.send(f"user.{number}", number)
    text = generate_latest(registry).decode() + generate_latest(metrics.cluster_registry).decode()
    assert "user." not in text
    assert len([line for line in text.splitlines() if "accepted" in line and "_total" in line]) == 1 + len(Priority)


# --- of the store --------------------------------------------------------------------------------------------------


def test_the_store_and_the_cluster(store: AdvancingMemoryStore) -> None:
    put(store, make_draft(text='"123"', ttl=10), make_draft("user.2", ttl=1000))
    statistics.ledger.write()
    store.record_statistics("another", store.statistics(store.now().replace(year=2000), store.now(), 10))
    store.advance(30)
    found = samples(metrics.exposition()[0])
    assert found["netra_queue_store_messages"] == 2
    assert found["netra_queue_store_expired"] == 1
    assert found["netra_queue_store_bytes"] == 12
    assert found["netra_queue_store_complete"] == found["netra_queue_store_up"] == 1
    assert 30 <= found["netra_queue_store_oldest_seconds"] < 40
    assert found["netra_queue_cluster_messages_total{event=accepted,priority=normal}"] == 4
    assert found["netra_queue_cluster_ack_seconds_count{replayed=no}"] == 0
    assert not any(name.startswith("netra_queue_messages") for name in found), "this process's are elsewhere"


def test_queues_that_are_nearly_full_are_counted(store: AdvancingMemoryStore, settings: Any) -> None:
    settings.NETRA_QUEUE = {"STORE": "tests.making.AdvancingMemoryStore", "POLICIES": {"default": {"MAX_MESSAGES": 5}}}
    for queue, number in (("user.1", 4), ("user.2", 5), ("user.3", 3)):
        put(current_store(), *(make_draft(queue) for _ in range(number)))
    assert samples(metrics.exposition()[0])["netra_queue_store_near_limit"] == 2


def test_cluster_totals_survive_the_roll_up(store: AdvancingMemoryStore) -> None:
    put(store, make_draft())
    adder.observe(Timing.LIVE, [0.5])
    statistics.ledger.write()
    for days in (0.2, 3, 40):
        store.advance(days * 86_400)
        store.roll_up_statistics(100)
        found = samples(metrics.exposition()[0])
        assert found["netra_queue_cluster_messages_total{event=accepted,priority=normal}"] == 1
        assert found["netra_queue_cluster_live_seconds_sum"] == 0.5
        assert found["netra_queue_cluster_live_seconds_bucket{le=0.512}"] == 1


def test_dead_letters_that_are_kept(store: AdvancingMemoryStore, settings: Any) -> None:
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": {"default": {"DEAD_LETTERS": ["expired"]}}}
    store = current_store()  # type: ignore[assignment]
    assert samples(metrics.exposition()[0])["netra_queue_store_dead_letters"] == 0
    put(store, make_draft(ttl=1))
    store.advance(10)
    maintenance.sweep()
    assert samples(metrics.exposition()[0])["netra_queue_store_dead_letters"] == 1


def test_when_the_last_sweep_was(store: AdvancingMemoryStore) -> None:
    name = "netra_queue_cluster_last_sweep_timestamp_seconds"
    assert name not in samples(metrics.exposition()[0])
    maintenance.sweep(dry_run=True)
    statistics.ledger.write()
    assert name not in samples(metrics.exposition()[0]), "a dry run sweeps nothing"
    store.advance(3600)
    for _ in range(2):
        store.advance(60)
        maintenance.sweep()
        statistics.ledger.write()
        found = samples(metrics.exposition()[0])
        assert 0 <= store.now().timestamp() - found[name] <= 11
    assert found["netra_queue_cluster_sweeps_total"] == 2
    at = found[name]
    store.advance(86_400)
    assert samples(metrics.exposition()[0])[name] == at
    store.roll_up_statistics(100)
    assert samples(metrics.exposition()[0])[name] == at, "what was rolled up is known to have been later"


def test_the_last_sweep_of_long_ago(store: AdvancingMemoryStore) -> None:
    """A process that begins looks at all there is; then only at what may be new, written late or not."""
    at = aligned(store.now(), 3600)
    swept = Figures()
    swept.counts[Event.SWEPT][0] = 1
    for seconds in (-86_400, -7200, 50):
        store.record_statistics("one", [Bucket(at + timedelta(seconds=seconds), swept)])
    store.advance(5 * 86_400)
    last = LastSweep()
    assert last.ask(store) == at + timedelta(seconds=50)
    store.roll_up_statistics(100)
    asked: list[datetime] = []
    real = store.statistics
    store.statistics = lambda since, *others: asked.append(since) or real(since, *others)  # type: ignore[method-assign,func-returns-value]
    for _ in range(2):
        store.advance(600)
        assert last.ask(store) == at + timedelta(seconds=50)
    assert asked[-1] > store.now() - timedelta(minutes=30)
    late = aligned(store.now() - timedelta(minutes=10))
    store.record_statistics("two", [Bucket(late, swept)])
    assert last.ask(store) == late
    assert LastSweep().ask(store) == late


def test_a_sweep_that_fails_is_none(store: AdvancingMemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "sweep", away)
    with pytest.raises(StoreUnavailable):
        maintenance.sweep(batch=1)
    assert Event.SWEPT not in counts.counted()


def test_the_state_of_the_breaker(store: AdvancingMemoryStore) -> None:
    registry = CollectorRegistry()
    statistics.ledger.listeners.append(metrics.ProcessMetrics(registry).feed)

    def states() -> dict[str, float]:
        found = samples(generate_latest(registry))
        return {
            state: found[f"netra_queue_breaker_state{{state={state}}}"] for state in ("closed", "open", "half_open")
        }

    assert states() == {"closed": 1, "open": 0, "half_open": 0}
    force_breaker(store, True)
    assert states() == {"closed": 0, "open": 1, "half_open": 0}
    with pytest.raises(StoreUnavailable):
        store.describe(["user.1"])
    force_breaker(store, None)
    store.describe(["user.1"])
    assert states() == {"closed": 1, "open": 0, "half_open": 0}
    assert samples(generate_latest(registry))["netra_queue_breaker_opened_total"] == 1


def test_a_store_that_is_away_is_said_to_be(store: AdvancingMemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "overview", away)
    monkeypatch.setattr(store, "statistics_total", away)
    assert samples(metrics.exposition()[0]) == {"netra_queue_store_up": 0}


def test_the_store_is_asked_now_and_then(store: AdvancingMemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    asked = Known(lambda store: calls.append(1) or len(calls))
    monkeypatch.setattr(known, "CACHE_SECONDS", 1000)
    assert [asked.get(), asked.get()] == [1, 1]
    monkeypatch.setattr(known, "CACHE_SECONDS", 0)
    assert asked.get() == 2


@pytest.mark.asyncio
async def test_an_event_loop_does_not_wait_for_the_store(store: AdvancingMemoryStore) -> None:
    import threading

    may_answer = threading.Event()
    asked = Known(lambda store: may_answer.wait(10))
    began = asyncio.get_running_loop().time()
    assert asked.get() is None
    assert not asked.was_asked
    assert asyncio.get_running_loop().time() - began < 1
    may_answer.set()
    await await_until(lambda: asked.was_asked)
    assert asked.get() is True


# --- who may see it ------------------------------------------------------------------------------------------------


def get(user: Any = None, **headers: str) -> Any:
    request = RequestFactory().get("/metrics/", **{f"HTTP_{name.upper()}": value for name, value in headers.items()})
    request.user = user or AnonymousUser()
    return views.metrics(request)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer ä\x00"],
)
def test_without_the_token_nothing_is_shown(store: AdvancingMemoryStore, authorization: str) -> None:
    answer = get(authorization=authorization)
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("authorization", [f"Bearer {TOKEN}", f"bearer  {TOKEN} "])
def test_with_the_token_it_is(store: AdvancingMemoryStore, authorization: str) -> None:
    answer = get(authorization=authorization)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "no-store" in answer.headers["Cache-Control"]
    assert "netra_queue_store_up" in samples(answer.content)


def test_no_token_in_the_settings_is_no_token(store: AdvancingMemoryStore, settings: Any) -> None:
    for token in (None, ""):
        settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "METRICS_TOKEN": token}
        for given in ("", "None"):
            assert get(authorization=f"Bearer {given}").status_code == 401


@pytest.mark.django_db
def test_users_need_the_permission(store: AdvancingMemoryStore) -> None:
    user = User.objects.create_user("clerk", is_staff=True)
    assert get(user).status_code == 403
    user.user_permissions.add(Permission.objects.get(codename="view_statistics"))
    assert get(User.objects.get(pk=user.pk)).status_code == 200
    user.is_active = False
    user.save()
    assert get(User.objects.get(pk=user.pk)).status_code == 403


@pytest.mark.urls("netra_queue.urls")
def test_the_address(store: AdvancingMemoryStore) -> None:
    client = Client(headers={"Authorization": f"Bearer {TOKEN}"})
    assert client.get("/metrics/").status_code == 200
    assert client.post("/metrics/").status_code == 405
    assert Client().get("/metrics/").status_code == 401


def test_without_prometheus_client_it_says_what_to_install(
    store: AdvancingMemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(netra_queue, "metrics")
    monkeypatch.delitem(sys.modules, "netra_queue.metrics")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    answer = get(authorization=f"Bearer {TOKEN}")
    assert answer.status_code == 501
    assert b"netra-queue[prometheus]" in answer.content


@pytest.mark.parametrize("token", ["short", 12345678901234567890, ""])
def test_a_token_that_is_none_is_found_by_the_checks(settings: Any, token: object) -> None:
    settings.NETRA_QUEUE = {"METRICS_TOKEN": token}
    (found,) = [one for one in run_checks(tags=["netra_queue"]) if one.id == "netra_queue.E003"]
    assert "METRICS_TOKEN" in found.msg
    assert "short" not in found.msg


# --- several processes ---------------------------------------------------------------------------------------------

SENDER = """
import sys, django
django.setup()
import netra_queue
for n in range(int(sys.argv[1])):
    netra_queue.send("user.1", n)
"""
SCRAPE = """
from prometheus_client import CollectorRegistry, generate_latest, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def run(program: str, *arguments: str, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", program, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_multiprocess_mode_adds_processes_up(transactional_db: None, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DATABASE_URL": database_url("default"),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    for number in ("3", "4"):
        run(SENDER, number, environment=environment)
    found = samples(run(SCRAPE, environment=environment))
    assert found["netra_queue_messages_total{event=accepted,priority=normal}"] == 7


# --- the page of the documents -------------------------------------------------------------------------------------


def test_every_name_is_in_the_document(store: AdvancingMemoryStore) -> None:
    registry = CollectorRegistry()
    statistics.ledger.listeners.append(metrics.ProcessMetrics(registry).feed)
    adder.add(Event.ACKED, NORMAL)
    texts = generate_latest(registry), metrics.exposition()[0]
    families = [family for text in texts for family in text_string_to_metric_families(text.decode())]
    names = {f.name + ("_total" if f.type == "counter" else "") for f in families if not f.name.endswith("_created")}
    assert len(names) > 20
    assert [name for name in sorted(names) if f"| `{name}` |" not in DOCUMENT] == []
    assert [e.name.lower() for e in Event if e.has_priority and f"| `{e.name.lower()}` |" not in DOCUMENT] == []
