"""What the database store counts, and when: after the commit that others see, whoever's transaction it is."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from netra_queue.core.statistics import Event
from netra_queue.models import Statistics
from netra_queue.stores import appending, statistics_rows
from tests import counts
from tests.making import AdvancingDatabaseStore, get, make_draft, put, rolled_back
from tests.stores.contract_statistics import HOUR, at
from tests.waiting import together


@pytest.fixture
def store(database: str) -> AdvancingDatabaseStore:
    counts.take()
    return AdvancingDatabaseStore(database)


@pytest.mark.parametrize("options", [{}, {"key": "k"}], ids=["plain", "keyed"])
def test_a_rolled_back_transaction_has_counted_nothing(store: AdvancingDatabaseStore, options: dict[str, Any]) -> None:
    put(store, make_draft())
    counts.take()
    with rolled_back(store.using):
        put(store, make_draft(**options))
        store.purge("user.1", 10)
    assert counts.counted() == {}


@pytest.mark.parametrize("options", [{}, {"key": "k"}], ids=["plain", "keyed"])
def test_a_transaction_is_counted_when_it_commits(store: AdvancingDatabaseStore, options: dict[str, Any]) -> None:
    with transaction.atomic(using=store.using):
        put(store, make_draft(**options))
        assert counts.counted() == {}
        with rolled_back(store.using):
            put(store, make_draft(), make_draft())
    assert counts.counted() == {"accepted": 1}


def test_an_append_whose_answer_is_lost_is_counted_once(
    store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke after the commit: the attempt that finds it there counts it."""
    commits, is_first = appending.own_transaction, [True]

    def losing(using: str, **options: Any) -> Any:
        return _Losing(commits(using, **options), using, is_first)

    monkeypatch.setattr(appending, "own_transaction", losing)
    put(store, make_draft(key="k"))
    assert is_first == []
    assert counts.counted() == {"accepted": 1}
    assert len(get(store).messages) == 1


class _Losing:
    """A transaction whose first commit gets no answer, and takes the connection along."""

    def __init__(self, real: Any, using: str, is_first: list[bool]) -> None:
        self._real, self._using, self._is_first = real, using, is_first

    def __enter__(self) -> None:
        self._real.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._real.__exit__(*error)
        if self._is_first and self._is_first.pop():
            connections[self._using].close()
            raise OperationalError("server closed the connection unexpectedly")


def test_sweeps_at_the_same_time_count_each_message_once(store: AdvancingDatabaseStore) -> None:
    put(store, *(make_draft(ttl=1) for _ in range(40)))
    counts.take()
    store.advance(2)

    def sweep() -> None:
        for _ in range(20):
            store.sweep(3)
        store.leave_thread()

    together(sweep, sweep)
    while store.sweep(10):
        pass
    assert counts.take().count(Event.EXPIRED) == 40


def test_rows_stay_few(store: AdvancingDatabaseStore) -> None:
    start = store.now().replace(minute=0, second=0, microsecond=0)
    for process in range(5):
        store.record_statistics(f"{process}", at(start, *range(0, 600, 10)))
    rows = Statistics.objects.using(store.using)
    assert rows.count() == 300
    store.advance(3 * HOUR)
    assert store.roll_up_statistics(1000) == 300
    assert rows.count() == 11, "ten minutes, and what has ever happened"


def test_a_roll_up_that_is_broken_off_has_changed_nothing(
    store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = store.now().replace(minute=0, second=0, microsecond=0)
    store.record_statistics("one", at(start, 0, 10))
    store.advance(3 * HOUR)

    def broken(*arguments: Any) -> int:
        raise KeyError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(statistics_rows, "delete", broken)
        with pytest.raises(KeyError):
            store.roll_up_statistics(10)
    assert store.statistics_total().count(Event.ACKED) == 2
    assert store.roll_up_statistics(10) == 2
    assert store.statistics_total().count(Event.ACKED) == 2
