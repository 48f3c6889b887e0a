"""Figures add up, in any order; quantiles are as good as their buckets; what is written is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_queue.core.message import Fate, Priority
from netra_queue.core.statistics import BOUNDS, Bucket, Event, Figures, Gauge, Histogram, Timing, added_up, aligned

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
CRITICAL, HIGH, NORMAL, LOW = Priority


@st.composite
def figures(draw: st.DrawFn) -> Figures:
    made = Figures()
    for event, priority in draw(st.lists(st.tuples(st.sampled_from(Event), st.sampled_from(Priority)), max_size=8)):
        made.counts[event][priority if event.has_priority else 0] += draw(st.integers(1, 10**9))
    for timing, seconds in draw(st.lists(st.tuples(st.sampled_from(Timing), st.integers(0, 10**6)), max_size=8)):
        made.timings[timing].observe(seconds)
    for gauge in Gauge:
        made.gauges[gauge] = float(draw(st.integers(0, 10**6)))
    return made


def total(*some: Figures) -> Figures:
    sum_ = Figures()
    for one in some:
        sum_.add(one)
    return sum_


@given(figures(), figures(), figures())
def test_figures_add_up_in_any_order_and_grouping(a: Figures, b: Figures, c: Figures) -> None:
    assert total(a, b, c) == total(c, total(b, a))
    assert total(a) == a
    assert total(a) is not a


@given(figures())
def test_what_is_written_is_read(some: Figures) -> None:
    assert Figures.from_json(some.as_json()) == some
    assert bool(some) == (some != Figures())


def test_what_another_release_has_counted_is_left_out() -> None:
    text = '{"counts":{"acked":[0,0,3,0],"tunnelled":[1,1,1,1]},"timings":{"warp":{}},"gauges":{"flux":1}}'
    assert Figures.from_json(text).count(Event.ACKED) == 3
    assert total(Figures.from_json(text)).as_json() == '{"counts":{"acked":[0,0,3,0]},"timings":{},"gauges":{}}'


def test_counts_of_one_priority_and_of_all() -> None:
    some = Figures()
    some.counts[Event.ACKED] = [1, 2, 3, 4]
    assert (some.count(Event.ACKED), some.count(Event.ACKED, HIGH), some.count(Event.DROPPED)) == (10, 2, 0)


def test_every_fate_is_an_event() -> None:
    assert {Event.of(fate).name for fate in Fate} == {fate.name for fate in Fate}


@given(st.lists(st.floats(0.0005, 100_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_in_the_bucket_of_the_true_one(seconds: list[float], share: float) -> None:
    histogram = Histogram()
    for some in seconds:
        histogram.observe(some)
    ordered = sorted(seconds)
    true = ordered[max(0, -(-round(share * len(ordered) * 1e9) // 10**9) - 1)]
    upper = next(bound for bound in BOUNDS if bound >= true)
    found = histogram.quantile(share)
    assert found is not None
    lower = 0 if upper == BOUNDS[0] else upper / 2
    assert lower <= found <= upper
    assert histogram.count == len(seconds)


def test_a_histogram_without_times_or_with_times_out_of_bounds() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) is None
    histogram.observe(-0.5)
    histogram.observe(10**9)
    assert histogram.quantile(0.5) == BOUNDS[0]
    assert histogram.quantile(1) == BOUNDS[-1]
    assert histogram.total == 10**9


@pytest.mark.parametrize(
    ("seconds", "start"), [(10, "12:34:50"), (60, "12:34:00"), (3600, "12:00:00"), (86_400, "00:00:00")]
)
def test_buckets_begin_at_multiples_of_their_length(seconds: int, start: str) -> None:
    moment = NOON + timedelta(minutes=34, seconds=59.999)
    assert f"{aligned(moment, seconds):%H:%M:%S}" == start
    assert aligned(aligned(moment, seconds), seconds) == aligned(moment, seconds)


def test_buckets_are_added_up_into_longer_ones() -> None:
    one = Figures()
    one.counts[Event.ACKED][NORMAL] = 1
    starts = [NOON + timedelta(seconds=seconds) for seconds in (70, 0, 10, 130)]
    longer = added_up([Bucket(start, one) for start in starts], 60)
    assert [(bucket.start, bucket.figures.count(Event.ACKED)) for bucket in longer] == [
        (NOON, 2),
        (NOON + timedelta(seconds=60), 1),
        (NOON + timedelta(seconds=120), 1),
    ]
