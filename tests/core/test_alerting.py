"""Rules and situations in, alerts out."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from netra_queue.core.alert_rules import KEYS, RULES, Rule
from netra_queue.core.alerting import GAP, SAMPLES_KEPT, Alert, AlertState, Book, Change, changes, evaluate
from netra_queue.core.situation import Situation
from netra_queue.core.statistics import Bucket, Event, Figures, Gauge, Timing
from tests import counts
from tests.making import NOON

OLDEST = replace(KEYS["oldest_waiting"], for_seconds=120, keep_seconds=60)
DAY = 86_400


def at(minutes: float, oldest: float = 0, **more: Any) -> Situation:
    return Situation(at=NOON + timedelta(minutes=minutes), oldest_seconds=oldest, servers=3, **more)


def follow(*situations: Situation, rules: Any = (OLDEST,), book: Book = Book()) -> Book:  # noqa: B008  it is frozen
    for situation in situations:
        book = evaluate(book, situation, rules)
    return book


def states(book: Book) -> list[str]:
    return [alert.state.value for alert in book.alerts]


# --- from one state to another -------------------------------------------------------------------------------------


def test_it_opens_when_it_has_been_so_for_long_enough() -> None:
    book = follow(at(0, DAY + 1), at(1, DAY + 60))
    assert book.alerts == ()
    book = follow(at(2, DAY + 120), book=book)
    (alert,) = book.alerts
    assert (alert.name, alert.state, alert.value) == ("NetraQueueOldestWaiting", AlertState.OPEN, DAY + 120)
    assert alert.opened_at == NOON + timedelta(minutes=2)
    assert alert.detail == "The oldest waiting message is 24.0 hours old."


def test_the_threshold_itself_is_not_above() -> None:
    assert follow(*(at(minute, DAY) for minute in range(9))).alerts == ()


def test_a_peak_opens_nothing() -> None:
    assert follow(at(0, DAY + 1), at(1, 5), at(2, DAY + 1), at(3, DAY + 1)).alerts == ()


def test_while_it_is_open_nothing_changes_but_the_value() -> None:
    before = follow(at(0, DAY + 1), at(2, DAY + 1))
    after = follow(at(3, DAY + 9), book=before)
    assert [alert.value for alert in after.alerts] == [DAY + 9]
    assert changes(before, after) == []


def test_just_below_the_threshold_it_stays_open() -> None:
    book = follow(at(0, DAY + 1), at(2, DAY + 1), *(at(minute, 0.95 * DAY) for minute in range(3, 20)))
    assert states(book) == ["open"]


def test_it_is_resolved_when_it_has_been_over_for_long_enough() -> None:
    book = follow(at(0, DAY + 1), at(2, DAY + 1), at(3, 5))
    assert states(book) == ["open"]
    book = follow(at(3.5, 0.95 * DAY), at(4, 5), book=book)
    assert states(book) == ["open"], "it was nearly above meanwhile"
    book = follow(at(5, 5), book=book)
    assert states(book) == ["resolved"]
    assert book.alerts[0].resolved_at == NOON + timedelta(minutes=5)
    assert book.going_on == ()
    assert follow(at(6, 5), book=book).alerts == ()


def test_when_it_comes_back_it_is_another_alert() -> None:
    rule = replace(OLDEST, for_seconds=0, keep_seconds=0)
    first = follow(at(0, DAY + 1), rules=[rule])
    over = follow(at(1, 0), rules=[rule], book=first)
    again = follow(at(2, DAY + 1), rules=[rule], book=over)
    assert [alert.opened_at for alert in again.alerts] == [NOON + timedelta(minutes=2)]
    assert changes(over, again) == [Change(again.alerts[0], None)]


def test_acknowledged_it_stays_so_until_it_is_resolved() -> None:
    book = numbered(follow(at(0, DAY + 1), at(2, DAY + 1)))
    taken = book.acknowledged([1], "ada", NOON)
    (alert,) = taken.alerts
    assert (alert.state, alert.acknowledged_by, alert.acknowledged_at) == (AlertState.ACKNOWLEDGED, "ada", NOON)
    assert changes(book, taken) == [Change(alert, AlertState.OPEN)]
    assert taken.acknowledged([1], "bob", NOON) == taken, "the first one has it"
    assert book.acknowledged([2], "ada", NOON) == book
    later = follow(at(3, DAY + 9), book=taken)
    assert states(later) == ["acknowledged"]
    over = follow(at(4, 5), at(5, 5), book=later)
    assert changes(later, over) == [Change(over.alerts[0], AlertState.ACKNOWLEDGED)]
    assert states(over) == ["resolved"]


def numbered(book: Book) -> Book:
    return replace(book, alerts=tuple(replace(alert, number=n) for n, alert in enumerate(book.alerts, 1)))


def test_an_older_look_changes_nothing() -> None:
    book = follow(at(0, DAY + 1), at(2, DAY + 1))
    assert follow(at(1, 0), at(2, 0), book=book) is book


def test_what_nobody_looked_at_for_long_was_not_so_all_the_time() -> None:
    minutes = GAP.total_seconds() / 60
    assert follow(at(0, DAY + 1), at(minutes + 1, DAY + 1)).alerts == ()
    assert states(follow(at(0, DAY + 1), at(minutes, DAY + 1))) == ["open"]


def test_an_alert_whose_rule_is_switched_off_is_resolved() -> None:
    book = follow(at(0, DAY + 1), at(2, DAY + 1))
    after = follow(at(3, DAY + 1), rules=[KEYS["bells_missed"]], book=book)
    assert states(after) == ["resolved"]
    assert after.alerts[0].detail == "Its rule is switched off."


# --- what is measured ----------------------------------------------------------------------------------------------


def bucket(minutes_ago: float, figures: Figures | None = None, **events: int) -> Bucket:
    """At noon."""
    total = figures or Figures()
    for name, number in events.items():
        total.add(counts.make(Event[name.upper()], number))
    return Bucket(NOON - timedelta(minutes=minutes_ago), total)


def value(key: str, *buckets: Bucket, **more: Any) -> float:
    rule = KEYS[key]
    return rule.measure(Situation(at=NOON, buckets=buckets, **more))


def is_above(key: str, *buckets: Bucket, **more: Any) -> bool:
    return value(key, *buckets, **more) > KEYS[key].above


@pytest.mark.parametrize("event", ["rejected_unavailable", "rejected_too_large"])
def test_sends_refused(event: str) -> None:
    assert is_above("sends_refused", bucket(9, **{event: 1}))
    assert not is_above("sends_refused", bucket(11, **{event: 1}))
    assert not is_above("sends_refused", bucket(9, rejected_full=1))


def test_statistics_not_written() -> None:
    seen = bucket(14, counts.make(connections=20))
    assert is_above("statistics_not_written", bucket(59, bucket_merged=1))
    assert not is_above("statistics_not_written", bucket(61, bucket_merged=1))
    assert is_above("statistics_not_written", connections=3)
    assert not is_above("statistics_not_written", seen, connections=3)
    assert not is_above("statistics_not_written")


def test_breaker_open() -> None:
    assert is_above("breaker_open", bucket(9, breaker_opened=1))
    assert not is_above("breaker_open", bucket(11, breaker_opened=1))


def test_error_budget_fast() -> None:
    def lost(minutes_ago: float, number: int, acked: int = 1000) -> Bucket:
        return bucket(minutes_ago, acked=acked, expired=number)

    assert is_above("error_budget_fast", lost(4, 10)), "1 % is 20 times as much"
    assert not is_above("error_budget_fast", lost(4, 9)), "fewer than ten"
    assert not is_above("error_budget_fast", lost(40, 10), bucket(1, acked=1000)), "it is over"
    assert not is_above("error_budget_fast", lost(4, 12, 4900)), "0.24 % is 5 times as much"
    slow = [lost(minutes, 4) for minutes in range(20, 360, 20)]
    assert is_above("error_budget_fast", *slow), "0.4 % is 8 times as much, for six hours"
    assert not is_above("error_budget_fast", *slow, bucket(1, acked=20_000)), "it is over"


def test_error_budget_slow() -> None:
    hours = [bucket(60 * hour + 1, acked=1000, dropped=1) for hour in range(72)]
    assert is_above("error_budget_slow", *hours), "0.1 % for three days"
    assert not is_above("error_budget_slow", *[bucket(60 * hour + 1, acked=3000, dropped=1) for hour in range(72)])
    assert not is_above("error_budget_slow", *hours[7:], bucket(1, acked=1000)), "it is over"
    assert is_above("error_budget_slow", *[bucket(60 * hour + 1, acked=1000, dead=2) for hour in range(24)])


@pytest.mark.parametrize("event", ["dropped", "expired", "rejected_full"])
def test_a_spike_is_many_and_more_than_usual(event: str) -> None:
    key = "expiry" if event == "expired" else "overflow"
    assert is_above(key, bucket(14, **{event: 101}))
    assert not is_above(key, bucket(14, **{event: 100}))
    assert not is_above(key, bucket(16, **{event: 101}))
    usual = [bucket(60 * hour + 30, **{event: 101}) for hour in range(24)]
    assert not is_above(key, bucket(14, **{event: 101}), *usual), "25 in each quarter of an hour"
    assert is_above(key, bucket(14, **{event: 102}), *usual)


def test_dead_letters() -> None:
    assert is_above("dead_letters", bucket(59, dead=1))
    assert not is_above("dead_letters", bucket(61, dead=1), bucket(1, dropped=3))


@pytest.mark.parametrize(("key", "timing"), [("delivery_slow", Timing.ACK), ("reconnect_slow", Timing.LIVE)])
def test_the_slowest_of_a_hundred(key: str, timing: Timing) -> None:
    def times(minutes_ago: float, slow: int, quick: int) -> Bucket:
        figures = Figures()
        figures.timings[timing].observe_all([5.0] * slow + [0.01] * quick)
        return bucket(minutes_ago, figures)

    assert is_above(key, times(9, 2, 98))
    assert not is_above(key, times(9, 1, 199))
    assert not is_above(key, times(9, 19, 0)), "too few"
    assert not is_above(key, times(11, 50, 0))


def test_of_the_store_as_it_stands() -> None:
    assert is_above("oldest_waiting", oldest_seconds=DAY + 1)
    assert is_above("sweep_not_run", expired_seconds=1801)
    assert not is_above("sweep_not_run", expired_seconds=1799)
    assert is_above("sweep_late", bucket(31, swept=1), bucket(90, swept=1))
    assert not is_above("sweep_late", bucket(29, swept=1), bucket(90, swept=1))
    assert not is_above("sweep_late"), "it was never counted"
    assert is_above("queues_near_limit", near_limit=["user.1"] * 11)
    assert not is_above("queues_near_limit", near_limit=["user.1"] * 10)
    assert is_above("no_servers", servers=0)
    assert not is_above("no_servers", servers=1)


def test_bells_missed() -> None:
    assert is_above("bells_missed", bucket(9, bell_missed=61))
    assert not is_above("bells_missed", bucket(9, bell_missed=60), bucket(11, bell_missed=60))


def servers(*samples: tuple[float, int]) -> list[Situation]:
    return [Situation(at=NOON + timedelta(minutes=minutes), servers=count) for minutes, count in samples]


def test_fewer_servers_than_for_most_of_the_last_hours() -> None:
    rule = replace(KEYS["servers_stale"], for_seconds=0, keep_seconds=0)
    usual = [(5.0 * n, 3) for n in range(60)]
    book = follow(*servers(*usual), rules=[rule])
    assert book.alerts == ()
    rollout = follow(*servers((300, 5), (305, 6), (310, 3)), rules=[rule], book=book)
    assert rollout.alerts == (), "both old and new ones for a while"
    stale = follow(*servers((300, 2)), rules=[rule], book=book)
    assert [alert.detail for alert in stale.alerts] == ["2 server processes are alive; mostly there were 3."]
    assert follow(*servers((300, 0)), rules=[rule], book=book).alerts == (), "that is another alert"
    fewer = follow(*servers(*[(300 + 5.0 * n, 2) for n in range(80)]), rules=[rule], book=book)
    assert fewer.going_on == (), "after some hours, that is usual"
    assert len(fewer.servers) <= SAMPLES_KEPT / timedelta(minutes=5)


def test_an_evaluation_each_minute_keeps_a_sample_each_five() -> None:
    book = follow(*servers(*[(n, 3) for n in range(61)]), rules=[])
    assert len(book.servers) == 13


# --- the rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.key)
def test_every_rule_can_say_what_it_found(rule: Rule) -> None:
    now = Situation(at=NOON, near_limit=["user.1"], usual_servers=3, buckets=[bucket(1, expired=3, acked=1)])
    detail = rule.detail(12.0, now)
    assert detail.endswith(".")
    assert rule.runbook == f"docs/runbooks/{rule.key}.md"
    assert not rule.summary.endswith(".")


def test_in_a_healthy_hour_there_is_no_alert() -> None:
    quiet = Figures()
    quiet.gauges[Gauge.CONNECTIONS] = 600
    quiet.timings[Timing.LIVE].observe_all([0.02] * 30)
    quiet.timings[Timing.ACK].observe_all([0.05] * 300)
    quiet.add(counts.make(Event.ACKED, 300))
    moments = [NOON + timedelta(minutes=n) for n in range(60)]
    buckets = [Bucket(moment, quiet) for moment in moments]

    def look(moment: datetime) -> Situation:
        return Situation(at=moment, buckets=buckets, servers=3, connections=10, oldest_seconds=3600, expired_seconds=40)

    assert follow(*map(look, moments), rules=RULES).alerts == ()


def test_names_are_those_of_the_settings() -> None:
    assert len(KEYS) == len(RULES)
    assert Alert(name="x", opened_at=NOON, value=1, detail="").state is AlertState.OPEN
