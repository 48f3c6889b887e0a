"""Upkeep on the default database; what each batch does is the stores' contract."""

from __future__ import annotations

import time
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command

from netra_queue import BreakerOpen, maintenance
from netra_queue.core.message import LossReason, Priority
from netra_queue.exceptions import StoreUnavailable
from netra_queue.maintenance import Removal
from netra_queue.models import Message
from netra_queue.stores import current_store
from netra_queue.stores.base import Due, Store
from netra_queue.stores.database import DatabaseStore
from tests.making import (
    AdvancingMemoryStore,
    AdvancingStore,
    force_breaker,
    make_draft,
    make_policy,
    make_presence,
    put,
)
from tests.waiting import together

DAY = 86_400
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(params=["AdvancingDatabaseStore", "AdvancingMemoryStore"])
def store(request: pytest.FixtureRequest, settings: Any) -> AdvancingStore:
    settings.NETRA_QUEUE = {"STORE": f"tests.making.{request.param}"}
    return current_store()  # type: ignore[return-value]


def put_many(store: Store, count: int, queue: str = "user.1", **options: Any) -> None:
    put(store, *(make_draft(queue, **options) for _ in range(count)))


def test_sweep_removes_and_counts_what_has_expired_in_batches(store: AdvancingStore) -> None:
    put_many(store, 25, ttl=10)
    put_many(store, 3, ttl=1000)
    store.advance(11)
    assert maintenance.sweep(batch=10) == Removal(count=25, finished=True)
    assert store.stat("user.1").messages == 3
    assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 25
    assert maintenance.sweep() == Removal(count=0, finished=True)


def test_sweep_ends_when_its_time_is_over_and_the_next_one_goes_on(store: AdvancingStore) -> None:
    put_many(store, 25, ttl=10)
    store.advance(11)
    assert maintenance.sweep(batch=10, budget_seconds=1e-9) == Removal(count=10, finished=False)
    assert maintenance.sweep(batch=10) == Removal(count=15, finished=True)


def test_a_dry_run_counts_and_changes_nothing(store: AdvancingStore) -> None:
    put_many(store, 5, ttl=10)
    put(store, make_draft("user.2", key="once", ttl=10))
    store.attach(make_presence("user.3"), make_policy())
    store.ensure(["user.4"])
    store.advance(40 * DAY)
    before = store.due(100)
    assert before.expired_since is not None
    expected = Due(expired=6, connections=1, lines=0, idle_queues=1, keys=1, bodies=0)
    assert replace(before, expired_since=None) == expected
    assert maintenance.sweep(dry_run=True) == Removal(count=6, finished=True)
    assert maintenance.reap(dry_run=True) == Removal(count=1, finished=True)
    assert maintenance.forget_keys(dry_run=True) == Removal(count=1, finished=True)
    assert maintenance.forget_idle(dry_run=True) == Removal(count=1, finished=True)
    assert maintenance.purge("user.1", dry_run=True) == Removal(count=5, finished=True)
    assert store.due(100) == before


def test_a_dry_run_that_met_its_limit_says_so(store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "COUNT_LIMIT", 5)
    put_many(store, 6, ttl=10)
    store.advance(11)
    assert maintenance.sweep(dry_run=True) == Removal(count=5, finished=False)


def test_each_kind_of_upkeep_removes_what_its_dry_run_announced(store: AdvancingStore) -> None:
    store.attach(make_presence("user.1"), make_policy())
    put(store, *(make_draft("user.2", key=f"key-{n}", ttl=10) for n in range(25)))
    store.advance(40 * DAY)
    assert maintenance.reap() == Removal(count=1, finished=True)
    assert maintenance.forget_keys(batch=10) == Removal(count=25, finished=True)
    assert maintenance.sweep() == Removal(count=25, finished=True)
    store.advance(40 * DAY)
    expected = store.due(100).idle_queues
    assert maintenance.forget_idle() == Removal(count=expected, finished=True)
    assert expected >= 1
    assert store.due(100) == Due(expired=0, connections=0, lines=0, idle_queues=0, keys=0, bodies=0)


def test_purge_takes_one_queue_or_one_priority_of_it(store: AdvancingStore) -> None:
    put_many(store, 12)
    put_many(store, 3, priority=Priority.LOW)
    put_many(store, 2, queue="user.2")
    assert maintenance.purge("user.1", Priority.LOW) == Removal(count=3, finished=True)
    assert maintenance.purge("user.1", batch=5) == Removal(count=12, finished=True)
    assert store.losses(["user.1"])["user.1"].total(LossReason.DROPPED) == 15
    assert store.stat("user.2").messages == 2
    assert maintenance.purge("nobody") == Removal(count=0, finished=True)


def test_a_purge_that_left_some_is_not_finished(store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put_many(store, 5)
    purge = store.purge
    monkeypatch.setattr(
        store, "purge", lambda queue, limit, *which, **more: purge(queue, min(limit, 3), *which, **more)
    )
    assert maintenance.purge("user.1") == Removal(count=3, finished=False)
    assert maintenance.purge("user.1", Priority.LOW) == Removal(count=0, finished=True)
    assert maintenance.purge("user.1") == Removal(count=2, finished=True)


def test_the_purge_command_says_that_some_are_left(store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put_many(store, 5)
    purge = store.purge
    monkeypatch.setattr(
        store, "purge", lambda queue, limit, *which, **more: purge(queue, min(limit, 3), *which, **more)
    )
    output = StringIO()
    call_command("netra_queue", "purge", "user.1", stdout=output)
    assert output.getvalue() == "messages of user.1: 3 removed; there are more, run it again\n"


def test_stats_have_totals_and_the_largest_queues_first(store: AdvancingStore) -> None:
    for number in (1, 3, 2):
        put_many(store, number, queue=f"user.{number}", text='"abcd"')
    store.ensure([f"user.{number}" for number in (1, 2, 3)])
    store.heartbeat(make_presence().server)
    store.attach(make_presence("user.1"), make_policy())
    found = maintenance.stats(limit=2)
    assert [(stat.queue, stat.messages, stat.size) for stat in found.largest] == [("user.3", 3, 18), ("user.2", 2, 12)]
    assert (found.messages, found.size, found.queues, found.connections, found.servers) == (6, 36, 3, 1, 1)
    assert found.complete
    assert found.largest[0].oldest_at is not None


def test_an_overview_looks_at_no_more_than_it_may() -> None:
    store = current_store()
    put_many(store, 4, queue="user.1")
    put_many(store, 9, queue="user.2")
    found = store.overview(limit=10, scan=6)
    assert (found.messages, found.complete) == (6, False)
    assert {stat.messages for stat in found.largest} == {4, 2}
    assert maintenance.is_known("user.2")
    assert not maintenance.is_known("user.3")


def test_the_same_counts_on_every_database(database: str) -> None:
    """The statements behind ``due`` and ``overview`` are each database's own business."""
    store = DatabaseStore(database)
    put_many(store, 3)
    put(store, make_draft("user.2", key="once"))
    store.attach(make_presence("user.2"), make_policy())
    assert store.due(10) == Due(expired=0, connections=0, lines=0, idle_queues=0, keys=0, bodies=0)
    assert store.forget_keys(10) == 0
    found = store.overview(limit=10, scan=4)
    assert [stat.messages for stat in found.largest] == [3, 1]
    assert [stat.queue[0] for stat in found.largest] == ["#", "u"]  # a queue without a row has its id only
    assert store.overview(limit=10, scan=3).messages == 3


def test_sweeps_at_the_same_time_remove_and_count_each_message_once(concurrent_database: str) -> None:
    store = DatabaseStore(concurrent_database)
    for _ in range(5):
        put_many(store, 100, ttl=1e-6)

    def sweep() -> int:
        return maintenance._in_batches(store, store.sweep, 50, 30).count

    removed = together(*[sweep] * 4)
    while left := store.sweep(100):  # a sweep ends when all it sees is in another one's hands
        removed.append(left)
    assert sum(removed) == 500
    assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 500
    assert not Message.objects.using(concurrent_database).exists()


class Slow(AdvancingMemoryStore):
    """Gives up on batches above ``limit``, as a database with a statement timeout does."""

    limit = 20

    def sweep(self, limit: int) -> int:
        if limit > self.limit:
            raise StoreUnavailable("canceling statement due to statement timeout")
        return super().sweep(limit)


@pytest.fixture
def slow(settings: Any) -> Slow:
    settings.NETRA_QUEUE = {"STORE": f"{__name__}.Slow"}
    return current_store()  # type: ignore[return-value]


def test_the_batch_shrinks_until_the_store_can_do_it(slow: Slow) -> None:
    put_many(slow, 45, ttl=10)
    slow.advance(11)
    assert maintenance.sweep(batch=1000) == Removal(count=45, finished=True)


def test_a_breaker_that_opens_meanwhile_is_waited_for(slow: Slow) -> None:
    """Its probe is the next try, with a batch as small as the last one."""
    slow.limit = 5
    put_many(slow, 9, ttl=10)
    slow.advance(11)
    began = time.monotonic()
    assert maintenance.sweep(batch=5) == Removal(count=9, finished=True)
    force_breaker(slow, is_open=True, seconds=0.5)
    assert maintenance.sweep(batch=5) == Removal(count=0, finished=True)
    assert time.monotonic() - began >= 0.4
    force_breaker(slow, is_open=True, seconds=60)
    with pytest.raises(BreakerOpen):
        maintenance.sweep(budget_seconds=0.2)


def test_a_store_that_does_not_even_do_the_smallest_batch_is_an_error(slow: Slow) -> None:
    slow.limit = 0
    with pytest.raises(StoreUnavailable, match="statement timeout"):
        maintenance.sweep()


def test_a_batch_that_takes_long_is_followed_by_a_smaller_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "SLOW_BATCH_SECONDS", -1.0)
    asked: list[int] = []

    def remove(limit: int) -> int:
        asked.append(limit)
        return limit if len(asked) < 4 else 0

    assert maintenance._in_batches(AdvancingMemoryStore(), remove, 30, 60).count == 30 + 15 + 10
    assert asked == [30, 15, 10, 10]


def test_while_a_server_is_running_batches_are_smaller_and_pauses_as_long_as_they(
    store: AdvancingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    pauses: list[float] = []

    def remove(limit: int) -> int:
        asked.append(limit)
        return limit if len(asked) % 3 else 0

    class Clock:
        """Each look at it takes a second."""

        seconds = 0.0

        def monotonic(self) -> float:
            self.seconds += 1
            return self.seconds

        def sleep(self, seconds: float) -> None:
            pauses.append(seconds)

    monkeypatch.setattr(maintenance, "time", Clock())
    maintenance._in_batches(store, remove, 100, 60)
    assert (asked, pauses) == ([100, 100, 100], [])
    store.heartbeat(make_presence("user.1").server)
    maintenance._in_batches(store, remove, 100, 60)
    assert (asked[3:], pauses) == ([100, 50, 50], [1.0, 1.0])
