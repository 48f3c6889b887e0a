"""What every store promises about alerts (netra_queue/stores/alerts_base.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from netra_queue.core.alerting import Alert, AlertState, Book
from netra_queue.stores.alerts_base import ALERTS_KEPT
from tests.making import AdvancingStore, Oops, make_draft, make_policy, make_presence, put
from tests.waiting import together


def opened(name: str, at: datetime, **changes: Any) -> Callable[[Book], Book]:
    alert = Alert(name=name, opened_at=at, value=1.5, detail="Grüße 😀", **changes)
    return lambda before: replace(before, alerts=(*before.alerts, alert))


def resolved(at: datetime) -> Callable[[Book], Book]:
    """All of them."""

    def change(book: Book) -> Book:
        ended = (replace(alert, state=AlertState.RESOLVED, resolved_at=at) for alert in book.alerts)
        return replace(book, alerts=tuple(ended))

    return change


class AlertContract:
    def test_there_is_nothing_at_first(self, store: AdvancingStore) -> None:
        assert store.change_alerts(lambda before: before) == (Book(), Book())
        assert store.alerts(10) == []

    def test_what_one_change_leaves_the_next_one_finds(self, store: AdvancingStore) -> None:
        now = store.now()
        wanted = Book(evaluated_at=now, since={"A": now, "b": now - timedelta(days=1)}, servers=((now, 3), (now, 2)))
        before, after = store.change_alerts(lambda before: wanted)
        assert (before, after) == (Book(), wanted)
        assert store.change_alerts(lambda before: before) == (wanted, wanted)

    def test_alerts_get_numbers_and_keep_them(self, store: AdvancingStore) -> None:
        now = store.now()
        _, first = store.change_alerts(opened("A", now))
        _, second = store.change_alerts(opened("a", now))
        numbers = [alert.number for alert in second.alerts]
        assert [alert.number for alert in first.alerts] == numbers[:1]
        assert numbers == sorted(set(numbers))
        assert store.alerts(10) == list(reversed(second.alerts))
        assert store.alerts(1) == [second.alerts[1]]

    def test_every_field_is_kept(self, store: AdvancingStore) -> None:
        now = store.now()
        store.change_alerts(opened("A", now))
        by = lambda book: book.acknowledged([book.alerts[0].number], "Ada", now + timedelta(seconds=1))  # noqa: E731
        before, after = store.change_alerts(by)
        (alert,) = store.alerts(10)
        assert (alert.name, alert.opened_at, alert.value, alert.detail) == ("A", now, 1.5, "Grüße 😀")
        assert (alert.state, alert.acknowledged_by) == (AlertState.ACKNOWLEDGED, "Ada")
        assert alert.acknowledged_at == now + timedelta(seconds=1)
        assert before.alerts[0].state is AlertState.OPEN
        assert after.alerts == (alert,)

    def test_what_is_resolved_is_kept_and_in_the_book_no_more(self, store: AdvancingStore) -> None:
        now = store.now()
        store.change_alerts(opened("A", now))
        _, after = store.change_alerts(resolved(now))
        assert [alert.state for alert in after.alerts] == [AlertState.RESOLVED]
        assert store.change_alerts(lambda before: before)[0].alerts == ()
        (alert,) = store.alerts(10)
        assert (alert.state, alert.resolved_at) == (AlertState.RESOLVED, now)

    def test_resolved_ones_go_after_a_while_and_others_stay(self, store: AdvancingStore) -> None:
        now = store.now()
        store.change_alerts(opened("old", now))
        store.change_alerts(resolved(now))
        store.change_alerts(opened("goes on", now))
        store.advance(ALERTS_KEPT.total_seconds() - 60)
        store.change_alerts(lambda book: replace(book, evaluated_at=store.now()))
        assert len(store.alerts(10)) == 2
        store.advance(120)
        store.change_alerts(lambda book: replace(book, evaluated_at=store.now()))
        assert [alert.name for alert in store.alerts(10)] == ["goes on"]

    def test_a_change_that_raises_changes_nothing(self, store: AdvancingStore) -> None:
        def fails(book: Book) -> Book:
            raise Oops

        with pytest.raises(Oops):
            store.change_alerts(fails)
        assert store.change_alerts(lambda before: before)[0] == Book()

    def test_of_many_at_once_each_decides_with_what_the_one_before_has_written(self, store: AdvancingStore) -> None:
        """Without that, several would open the same alert."""
        now = store.now()

        def unless_there(book: Book) -> Book:
            return book if book.alerts else opened("A", now)(book)

        store.change_alerts(lambda book: replace(book, evaluated_at=now))  # so that there is something to lock
        answers = together(*[lambda: store.change_alerts(unless_there)] * 8)
        assert len(store.alerts(10)) == 1
        assert sum(before.alerts == () for before, _ in answers) == 1

    # --- what is nearly full -----------------------------------------------------------------------------------

    def test_the_fullest_by_messages_or_bytes(self, store: AdvancingStore) -> None:
        store.attach(make_presence("user.2", policy="large"), make_policy())
        put(store, *(make_draft("user.1") for _ in range(4)))
        put(store, *(make_draft("user.2") for _ in range(5)))
        put(store, make_draft("user.3", text='"' + 998 * "x" + '"'))
        found = store.fullest(4, 1000, 10, 1000)
        assert [(stat.messages, stat.size) for stat in found] == [(5, 35), (4, 28), (1, 1000)]
        assert (found[0].queue, found[0].policy) == ("user.2", "large")
        assert [stat.messages for stat in store.fullest(4, 1000, 1, 1000)] == [5]
        assert [stat.messages for stat in store.fullest(5, 1001, 10, 1000)] == [5]
