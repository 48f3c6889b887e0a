"""Token buckets: what passes in any stretch of time, what has to wait, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_queue.core.rate import Rate, Want, available, take

RATES = st.builds(Rate, st.integers(1, 1000), st.sampled_from([1, 60, 3600]), st.integers(1, 50))
PAUSES = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 60)), max_size=60)
SLACK = 1e-6  # of doubles


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("100/s", Rate(100, 1, 100)),
        ("6000/m", Rate(6000, 60, 6000)),
        ("20/h", Rate(20, 3600, 20)),
        ("1/s burst 5", Rate(1, 1, 5)),
        ("600/m burst 600", Rate(600, 60, 600)),
    ],
)
def test_a_rate_is_a_text(text: str, expected: Rate) -> None:
    assert Rate.parse(text) == expected
    assert Rate.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "wrong", ["", "100", "100/d", "1.5/s", "-1/s", "0/s", "1/s burst 0", "1/s burst", " 1/s", "1/S", "١/s", 100, None]
)
def test_what_is_no_rate(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        Rate.parse(wrong)


@given(RATES, PAUSES)
def test_no_more_passes_in_any_time_than_the_rate_and_a_burst(rate: Rate, calls: list[tuple[float, int]]) -> None:
    full_at, now = 0.0, 1_000.0
    passed: list[tuple[float, int]] = []
    for pause, number in calls:
        now += pause
        taken = take(rate, full_at, now, number)
        if not taken.wait:
            full_at = taken.full_at
            passed.append((now, number))
    largest = max((number for _, number in passed), default=0)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            seconds = passed[last][0] - passed[first][0]
            most = max(rate.burst, largest) + seconds / rate.seconds_each + largest * (largest > rate.burst)
            assert sum(number for _, number in passed[first : last + 1]) <= most + 1e-3


@given(RATES, PAUSES)
def test_who_waits_as_long_as_told_passes_and_not_before(rate: Rate, calls: list[tuple[float, int]]) -> None:
    full_at, now = 0.0, 1_000.0
    for pause, number in calls:
        now += pause
        taken = take(rate, full_at, now, number)
        if taken.wait > 2 * SLACK:
            assert take(rate, full_at, now + taken.wait - SLACK, number).wait > 0
            assert take(rate, full_at, now + taken.wait + SLACK, number).wait < SLACK
            now += taken.wait + SLACK
            taken = take(rate, full_at, now, number)
        full_at = taken.full_at


@given(RATES, PAUSES)
def test_turns_come_in_the_order_of_sending(rate: Rate, calls: list[tuple[float, int]]) -> None:
    full_at, now, last = 0.0, 1_000.0, 0.0
    for pause, number in calls:
        now += pause
        taken = take(rate, full_at, now, number)
        full_at = taken.full_at
        turns = [now + wait for wait in taken.waits]
        assert len(turns) == number
        for turn in turns:
            assert turn >= last - SLACK
            last = turn


@given(RATES, PAUSES)
def test_turns_keep_to_the_rate(rate: Rate, calls: list[tuple[float, int]]) -> None:
    """Also of calls that are larger than a burst: they are spread."""
    full_at, now = 0.0, 1_000.0
    turns: list[float] = []
    for pause, number in calls:
        now += pause
        taken = take(rate, full_at, now, number)
        full_at = taken.full_at
        turns += [now + wait for wait in taken.waits]
    for first in range(0, len(turns), 7):
        for last in range(first, len(turns), 7):
            assert last - first + 1 <= rate.burst + (turns[last] - turns[first]) / rate.seconds_each + 1 + 1e-3


@given(RATES, PAUSES)
def test_as_many_are_available_as_may_be_taken(rate: Rate, calls: list[tuple[float, int]]) -> None:
    full_at, now = 0.0, 1_000.0
    for pause, _ in calls:
        now += pause
        there = available(rate, full_at, now)
        assert 0 <= there <= rate.burst
        if there:
            assert take(rate, full_at, now, there).wait < SLACK
        assert take(rate, full_at, now, there + 1).wait > 0 or there == rate.burst
        full_at = take(rate, full_at, now, max(1, there // 2)).full_at


def test_more_than_a_burst_passes_when_the_bucket_is_full_and_is_paid_for_afterwards() -> None:
    rate = Rate(10, 1, 5)
    taken = take(rate, 0.0, 100.0, 25)
    assert taken.wait == 0
    assert take(rate, taken.full_at, 100.0).wait == pytest.approx(2.1)  # 20 too many, and one more
    assert take(rate, taken.full_at, 100.0, 25).wait == pytest.approx(2.5)


def test_a_want_that_may_wait_is_granted_as_long_as_its_last_one_waits_no_longer() -> None:
    rate = Rate(10, 1, 5)
    for longest, missing in ((None, 0.5), (0.2, 0.3), (0.5, 0.0), (9.0, 0.0)):
        want = Want("queue ", rate, 5, longest)
        assert want.missing_seconds(want.take(101.0, 100.5)) == pytest.approx(missing)
