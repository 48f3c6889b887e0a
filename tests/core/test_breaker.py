"""The circuit breaker: when a call may be made, whatever the store does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_queue.core.breaker import Breaker, BreakerState, Force, Limits

LIMITS = Limits(window_seconds=10, least_calls=4, share=0.5, slow_seconds=5, open_seconds=1, longest_open_seconds=8)
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def make() -> Breaker:
    return Breaker(LIMITS)


def call(breaker: Breaker, now: float, *, fails: bool = False, takes: float = 0.0) -> bool:
    """Whether it was made."""
    number = breaker.begin(now)
    if number is not None:
        breaker.ended(number, now + takes, failed=fails)
    return number is not None


def opened(now: float = 0.0) -> Breaker:
    breaker = make()
    for _ in range(LIMITS.least_calls):
        call(breaker, now, fails=True)
    assert breaker.state is OPEN
    return breaker


class TestOpens:
    def test_when_half_of_the_calls_fail(self) -> None:
        breaker = make()
        for fails in (False, True, False):
            assert call(breaker, 0.0, fails=fails)
        assert breaker.state is CLOSED
        call(breaker, 0.0, fails=True)
        assert breaker.state is OPEN
        assert not call(breaker, 0.9)

    def test_not_on_a_few_calls(self) -> None:
        breaker = make()
        for _ in range(LIMITS.least_calls - 1):
            call(breaker, 0.0, fails=True)
        assert breaker.state is CLOSED

    def test_not_on_failures_that_are_long_ago(self) -> None:
        breaker = make()
        for number in range(10):
            call(breaker, number * 5.0, fails=True)
        assert breaker.state is CLOSED, "two within any ten seconds"

    def test_not_on_a_smaller_share(self) -> None:
        breaker = make()
        for number in range(30):
            call(breaker, number / 10, fails=number % 3 == 0)
        assert breaker.state is CLOSED

    def test_on_calls_that_are_slow(self) -> None:
        breaker = make()
        for _ in range(LIMITS.least_calls):
            call(breaker, 0.0, takes=5.1)
        assert breaker.state is OPEN

    def test_on_calls_that_do_not_end(self) -> None:
        breaker = make()
        numbers = [breaker.begin(0.0) for _ in range(LIMITS.least_calls)]
        assert not breaker.is_open(5.0)
        assert breaker.is_open(5.1)
        for number in numbers:
            assert number is not None
            breaker.ended(number, 60.0, failed=False)
        assert breaker.state is not CLOSED, "they say how the store was"

    def test_on_a_single_one_that_hangs_while_nothing_ends_well(self) -> None:
        breaker = make()
        call(breaker, 0.0)
        assert breaker.begin(0.1) is not None
        assert not breaker.is_open(5.0)
        assert breaker.is_open(5.2)

    def test_not_on_one_that_hangs_beside_others_that_do_not(self) -> None:
        breaker = make()
        assert breaker.begin(0.0) is not None
        for number in range(5):
            call(breaker, float(number))
        assert not breaker.is_open(5.2)

    def test_not_on_those_that_wait_for_others(self) -> None:
        breaker = make()
        for _ in range(10):
            assert breaker.begin(0.0, may_wait=True) is not None
        assert not breaker.is_open(60.0)

    def test_on_those_of_them_that_fail(self) -> None:
        breaker = make()
        for _ in range(LIMITS.least_calls):
            number = breaker.begin(0.0, may_wait=True)
            assert number is not None
            breaker.ended(number, 60.0, failed=True)
        assert breaker.state is OPEN


class TestTriesAgain:
    def test_one_probe_at_a_time(self) -> None:
        breaker = opened()
        probe = breaker.begin(1.0)
        assert probe is not None
        assert breaker.state is HALF_OPEN
        assert breaker.begin(1.0) is None
        breaker.ended(probe, 1.1, failed=False)
        assert breaker.state is CLOSED
        assert call(breaker, 1.1)

    def test_longer_after_each_probe_that_fails(self) -> None:
        breaker, now, waits = opened(), 0.0, []
        for _ in range(6):
            waits.append(breaker.retry_after(now))
            assert not call(breaker, now + waits[-1] - 0.01)
            now += waits[-1]
            assert call(breaker, now, fails=True)
        assert waits == [1, 2, 4, 8, 8, 8]

    def test_a_probe_that_does_not_end_is_followed_by_another(self) -> None:
        breaker = opened()
        probe = breaker.begin(1.0)
        assert probe is not None
        assert breaker.is_open(6.0)
        assert breaker.is_open(6.1), "it counts as failed, and the next one waits twice as long"
        assert call(breaker, 8.1)
        assert breaker.state is CLOSED
        breaker.ended(probe, 9.0, failed=True)
        assert breaker.state is CLOSED

    def test_a_probe_that_may_wait_is_not_waited_for_either(self) -> None:
        breaker = opened()
        assert breaker.begin(1.0, may_wait=True) is not None
        assert breaker.is_open(6.1)
        assert breaker.state is OPEN

    def test_longer_when_it_opens_soon_after_having_closed(self) -> None:
        breaker = opened()
        call(breaker, 1.0)
        for _ in range(LIMITS.least_calls):
            call(breaker, 2.0, fails=True)
        assert breaker.retry_after(2.0) == 2
        call(breaker, 4.0)
        for _ in range(LIMITS.least_calls):
            call(breaker, 20.0, fails=True)
        assert breaker.retry_after(20.0) == 1
        assert breaker.opened == 3


class TestForced:
    def test_open_whatever_the_store_does(self) -> None:
        breaker = make()
        breaker.force = Force(OPEN, 10.0)
        assert not call(breaker, 0.0)
        assert breaker.retry_after(4.0) == 6
        assert call(breaker, 10.0), "its time is over"

    def test_closed_whatever_the_store_does(self) -> None:
        breaker = make()
        breaker.force = Force(CLOSED, 9.5)
        for number in range(9):
            assert call(breaker, float(number), fails=True)
        assert breaker.retry_after(9.0) == 0
        assert not call(breaker, 9.5), "what it has seen meanwhile is not forgotten"


@given(
    st.lists(
        st.tuples(
            st.floats(0, 20),
            st.sampled_from(["begin", "well", "badly", "never", "force open", "force closed"]),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_never_stuck(steps: list[tuple[float, str, bool]]) -> None:
    """Whatever was before: with a store that works, there comes a time from which on all calls are made."""
    breaker, now, running = make(), 0.0, []
    for seconds, what, may_wait in steps:
        now += seconds
        if what in ("well", "badly") and running:
            breaker.ended(running.pop(), now, failed=what == "badly")
        elif what.startswith("force"):
            breaker.force = Force(OPEN if what == "force open" else CLOSED, now + seconds)
        elif (number := breaker.begin(now, may_wait=may_wait)) is not None and what != "never":
            running.append(number)
    settled = now + 20 + LIMITS.slow_seconds + 2 * LIMITS.longest_open_seconds
    while now < settled:
        call(breaker, now)
        now += 0.25
    assert all(call(breaker, now + number) for number in range(10))
    assert breaker.state is CLOSED


@pytest.mark.parametrize("now", [0.0, 100.0])
def test_closed_it_costs_nothing_to_ask(now: float) -> None:
    assert make().retry_after(now) == 0
