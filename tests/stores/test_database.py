"""DatabaseStore keeps the contract on every database."""

from __future__ import annotations

import re

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from netra_queue.core.alerting import Book
from netra_queue.core.controls import Controls
from netra_queue.core.message import LossReason, Priority
from netra_queue.models import Loss, queue_id
from tests.making import AdvancingDatabaseStore, rolled_back

from .contract_groups import GroupContract
from .contracts import StoreContract


class TestDatabaseStore(StoreContract):
    @pytest.fixture
    def store(self, database: str) -> AdvancingDatabaseStore:
        return AdvancingDatabaseStore(database)

    def test_that_nothing_has_changed_costs_one_row_by_its_key(self, store: AdvancingDatabaseStore) -> None:
        known = store.change_controls(lambda before: before.with_policy("a", {"WINDOW": 5})).version
        with CaptureQueriesContext(connections[store.using]) as queries:
            assert store.controls(known) is None
        (sql,) = [query["sql"] for query in queries.captured_queries]
        assert re.search(r"controlstate.*WHERE .*id.* = 1", sql)

    def test_losses_for_a_reason_of_a_later_release_are_left_to_that(self, store: AdvancingDatabaseStore) -> None:
        rows = [
            Loss(queue_id=queue_id("user.1"), reason=r, priority=2, count=1, since=store.now())
            for r in ("later", "dead")
        ]
        Loss.objects.using(store.using).bulk_create(rows)
        found = store.losses(["user.1"])["user.1"]
        assert dict(found.counts) == {(LossReason.DEAD, Priority.NORMAL): 1}
        store.settle("user.1", found.records)
        assert [loss.reason for loss in Loss.objects.using(store.using)] == ["later"]

    def test_a_change_belongs_to_the_callers_transaction(self, store: AdvancingDatabaseStore) -> None:
        with rolled_back(store.using):
            store.change_controls(lambda before: before.with_policy("a", {"WINDOW": 5}))
        assert store.controls() == Controls()
        with transaction.atomic(using=store.using):
            store.change_controls(lambda before: before.with_policy("a", {"WINDOW": 5}))
        assert store.controls() == Controls(overrides={"a": {"WINDOW": 5}})

    def test_alerts_belong_to_the_callers_transaction(self, store: AdvancingDatabaseStore) -> None:
        book = Book(evaluated_at=store.now(), servers=((store.now(), 1),))
        with rolled_back(store.using):
            store.change_alerts(lambda before: book)
        assert store.change_alerts(lambda before: before)[0] == Book()
        with transaction.atomic(using=store.using):
            store.change_alerts(lambda before: book)
        assert store.change_alerts(lambda before: before)[0] == book


class TestDatabaseGroups(GroupContract):
    @pytest.fixture
    def store(self, database: str) -> AdvancingDatabaseStore:
        return AdvancingDatabaseStore(database)
