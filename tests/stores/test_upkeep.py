"""Upkeep of DatabaseStore while others come in between: each test lets them in at the worst moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import connections, transaction
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext

from netra_queue.core.message import LossReason, Outcome
from netra_queue.models import LiveConnection, Loss, ServerProcess, queue_id
from netra_queue.stores import connecting, presence, rows, upkeep
from tests.making import HERE, AdvancingDatabaseStore, make_draft, make_policy, make_presence, put
from tests.waiting import together

DAY = 86_400
ONE = make_policy(max_messages=1)


@pytest.fixture
def store(concurrent_database: str) -> AdvancingDatabaseStore:
    return AdvancingDatabaseStore(concurrent_database)


@pytest.fixture
def before_a_transaction(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Callable[[], object]], None]:
    """Have something done by another thread before the module's next transaction begins, once."""

    def prepare(module: Any, work: Callable[[], object]) -> None:
        pending = [work]

        @contextmanager
        def late(using: str, **options: bool) -> Iterator[None]:
            if pending:
                together(pending.pop())
            with connecting.own_transaction(using, **options):
                yield

        monkeypatch.setattr(module, "own_transaction", late)

    return prepare


Prepare = Callable[[Any, Callable[[], object]], AbstractContextManager[None]]


class TestReap:
    def test_a_heartbeat_before_the_delete_saves_the_server(
        self, store: AdvancingDatabaseStore, before_a_transaction: Prepare
    ) -> None:
        store.heartbeat(HERE)
        store.attach(make_presence(), make_policy())
        store.advance(100)
        before_a_transaction(presence, partial(store.heartbeat, HERE))
        assert store.reap() == 0
        assert store.holders(["user.1"]) == {HERE.id: ["user.1"]}

    def test_a_heartbeat_during_the_delete_learns_of_it(
        self, store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It waits for the reaper's transaction, and then it must not answer that all is well."""
        store.heartbeat(HERE)
        store.attach(make_presence(), make_policy())
        store.advance(100)
        beats: list[bool] = []
        thread = threading.Thread(target=lambda: beats.append(together(partial(store.heartbeat, HERE))[0]), daemon=True)
        chunks = rows.chunks

        def beat(items: list[str]) -> Iterator[Any]:
            if not thread.ident and not ServerProcess.objects.using(store.using).exists():  # deleted, not committed
                thread.start()
            return chunks(items)

        monkeypatch.setattr(presence, "chunks", beat)
        assert store.reap() == 1
        thread.join(20)
        assert beats == [False]

    def test_an_orphan_whose_server_comes_back_meanwhile_stays(
        self, store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.attach(make_presence(), make_policy())
        store.advance(100)
        chunks = rows.chunks

        def beat(items: list[str]) -> Iterator[Any]:
            together(partial(store.heartbeat, HERE))
            return chunks(items)

        monkeypatch.setattr(presence, "chunks", beat)
        assert store.reap() == 0
        assert LiveConnection.objects.using(store.using).count() == 1

    def test_a_server_with_many_connections(
        self, store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rows, "CHUNK", 3)
        store.heartbeat(HERE)
        for _ in range(8):
            store.attach(make_presence(), make_policy())
        store.advance(100)
        assert store.reap() == 8
        assert not LiveConnection.objects.using(store.using).exists()


class TestLosses:
    def crowd(self, store: AdvancingDatabaseStore) -> None:
        store.ensure(["user.1"])
        for _ in range(20):
            put(store, make_draft(), policy=ONE)

    def records(self, store: AdvancingDatabaseStore) -> int:
        return Loss.objects.using(store.using).filter(queue_id=queue_id("user.1")).count()

    def test_many_records_become_two(self, store: AdvancingDatabaseStore) -> None:
        self.crowd(store)
        store.forget_idle(100)
        assert self.records(store) == 2
        assert store.losses(["user.1"])["user.1"].total(LossReason.DROPPED) == 19

    def test_a_client_that_comes_meanwhile_is_told_once(
        self, store: AdvancingDatabaseStore, before_a_transaction: Prepare
    ) -> None:
        self.crowd(store)
        told: list[Any] = []
        before_a_transaction(upkeep, lambda: told.append(store.attach(make_presence(), ONE).losses))
        upkeep._add_up_losses(store.using, 100, store.now())
        assert told[0].total(LossReason.DROPPED) == 19
        store.settle("user.1", told[0].records)
        assert store.losses(["user.1"]) == {}

    def test_what_a_client_has_just_been_told_is_left_for_it_to_settle(self, store: AdvancingDatabaseStore) -> None:
        self.crowd(store)
        visitor = make_presence()
        store.attach(visitor, ONE)
        store.detach([visitor])
        store.forget_idle(100)
        assert self.records(store) == 19
        store.advance(100)
        store.forget_idle(100)
        assert self.records(store) == 2


class TestIdle:
    def make_idle(self, store: AdvancingDatabaseStore) -> None:
        store.ensure(["user.1"])
        store.advance(31 * DAY)

    def test_losses_of_a_queue_that_becomes_busy_are_kept(
        self, store: AdvancingDatabaseStore, before_a_transaction: Prepare
    ) -> None:
        self.make_idle(store)
        idle = upkeep._forget_queues
        before_a_transaction(upkeep, lambda: [put(store, make_draft(), policy=ONE) for _ in range(4)])
        assert idle(store.using, [queue_id("user.1")], store.now()) == 0
        assert store.losses(["user.1"])["user.1"].total(LossReason.DROPPED) == 3
        assert store.describe(["user.1"]) == {"user.1": ""}

    def test_a_client_that_comes_meanwhile_keeps_its_queue(
        self, store: AdvancingDatabaseStore, before_a_transaction: Prepare
    ) -> None:
        self.make_idle(store)
        before_a_transaction(upkeep, partial(store.attach, make_presence(policy="default"), ONE))
        assert upkeep._forget_queues(store.using, [queue_id("user.1")], store.now()) == 0
        assert store.describe(["user.1"]) == {"user.1": "default"}

    def test_losses_that_are_young_are_kept_even_then(
        self, store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A sender's overflow after the last look."""
        self.make_idle(store)
        delete = QuerySet._raw_delete

        def overflow() -> None:
            with transaction.atomic(using=store.using):  # takes no turn, and so does not wait for the queue's row
                for _ in range(4):
                    put(store, make_draft(), policy=ONE)

        def lose_first(rows: Any, using: str) -> int:
            if rows.model is Loss and not Loss.objects.using(using).exists():
                together(overflow)
            return delete(rows, using)

        monkeypatch.setattr(QuerySet, "_raw_delete", lose_first)
        store.forget_idle(10)
        assert store.losses(["user.1"])["user.1"].total(LossReason.DROPPED) == 3

    def test_a_queue_row_in_other_hands_is_left_alone(self, store: AdvancingDatabaseStore) -> None:
        self.make_idle(store)

        def hold() -> int:
            with transaction.atomic(using=store.using):
                store.detach([make_presence()])
                return together(partial(store.forget_idle, 10))[0]

        assert together(hold) == [0]


class TestKeys:
    def test_a_key_that_an_open_transaction_takes_over_is_left_to_it(self, store: AdvancingDatabaseStore) -> None:
        put(store, *(make_draft(key=f"key-{number}", ttl=1) for number in range(10)))
        store.advance(5)

        def hold() -> int:
            with transaction.atomic(using=store.using):
                assert put(store, make_draft(key="key-5"))[0].outcome is Outcome.QUEUED
                return together(partial(store.forget_keys, 100))[0]

        assert together(hold) == [9]
        assert put(store, make_draft(key="key-5"))[0].outcome is Outcome.DUPLICATE

    def test_forgetting_keys_takes_no_more_statements_than_needed(self, store: AdvancingDatabaseStore) -> None:
        store.now()
        with CaptureQueriesContext(connections[store.using]) as queries:
            assert store.forget_keys(100) == 0
        assert len([query for query in queries if "usedkey" in query["sql"]]) == 1
