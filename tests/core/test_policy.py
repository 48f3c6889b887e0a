"""core.policy: limits and what they cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_queue.core.message import Priority
from netra_queue.core.policy import Candidate, Growth, Overflow, Replay, choose_victims, left_out, removal_order
from tests.making import make_policy

CANDIDATES = st.lists(st.tuples(st.sampled_from(Priority), st.integers(1, 50)), max_size=30).map(
    lambda rows: [Candidate(position, priority, size) for position, (priority, size) in enumerate(rows, 1)]
)


def test_is_full_only_over_the_limit() -> None:
    policy = make_policy(max_messages=2, max_bytes=100)
    assert not policy.is_full(2, 100)
    assert policy.is_full(3, 100)
    assert policy.is_full(2, 101)


@pytest.mark.parametrize(
    ("messages", "size", "added", "expected"),
    [
        (500, 5000, Growth(1, 1), False),
        (501, 1, Growth(1, 1), True),  # more than half full
        (1, 5001, Growth(1, 1), True),
        (200, 1, Growth(100, 1), False),
        (201, 1, Growth(100, 1), True),  # eight more like this one
        (1, 2000, Growth(1, 1000), False),
        (1, 2001, Growth(1, 1000), True),
    ],
)
def test_is_near_full_leaves_room_for_unseen_senders(messages: int, size: int, added: Growth, expected: bool) -> None:
    policy = make_policy(max_messages=1000, max_bytes=10_000)
    assert policy.is_near_full(messages, size, added=added) is expected


def test_a_small_queue_is_near_full_when_many_single_messages_could_fill_it() -> None:
    assert not make_policy(max_messages=72).is_near_full(8, 1, added=Growth(1, 1))
    assert make_policy(max_messages=71).is_near_full(8, 1, added=Growth(1, 1))


def test_ttl_for() -> None:
    policy = make_policy(ttl={priority: priority + 1.0 for priority in Priority})
    assert [policy.ttl_for(priority) for priority in Priority] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [(Overflow.DROP_OLDEST, [2, 4, 1, 3]), (Overflow.DROP_NEWEST, [4, 2, 3, 1])],
)
def test_removal_order(overflow: Overflow, expected: list[int]) -> None:
    candidates = [
        Candidate(1, Priority.HIGH, 1),
        Candidate(2, Priority.LOW, 1),
        Candidate(3, Priority.HIGH, 1),
        Candidate(4, Priority.LOW, 1),
    ]
    assert [c.position for c in sorted(candidates, key=lambda c: removal_order(c, overflow))] == expected


@given(
    CANDIDATES, st.integers(1, 20), st.integers(1, 200), st.sampled_from([Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
)
def test_victims_are_as_few_as_needed(
    candidates: list[Candidate], max_messages: int, max_bytes: int, overflow: Overflow
) -> None:
    policy = make_policy(max_messages=max_messages, max_bytes=max_bytes, overflow=overflow)
    ordered = sorted(candidates, key=lambda c: removal_order(c, overflow))
    size = sum(c.size for c in candidates)
    victims = choose_victims(ordered, policy, messages=len(candidates), size=size)
    kept = [c for c in candidates if c not in victims]
    assert victims == ordered[: len(victims)]
    assert not policy.is_full(len(kept), sum(c.size for c in kept))
    if victims:
        assert policy.is_full(len(kept) + 1, sum(c.size for c in kept) + victims[-1].size)
        assert all(v.priority >= c.priority for v in victims for c in kept), "nothing urgent goes for less urgent"


def test_victims_can_be_taken_on_from_where_the_last_choice_ended() -> None:
    remaining = iter([Candidate(position, Priority.LOW, 1) for position in range(1, 6)])
    policy = make_policy(max_messages=3)
    assert [c.position for c in choose_victims(remaining, policy, messages=5, size=5)] == [1, 2]
    assert [c.position for c in choose_victims(remaining, policy, messages=4, size=4)] == [3]


@given(most=st.integers(2, 50))
def test_only_what_travels_alone_reaches_the_limit(most: int) -> None:
    policy = make_policy(max_deliveries=most)
    count = 0
    for _ in range(2 * most):
        count = policy.deliveries_after(count, is_alone=False)
    assert policy.travels_alone(count)
    assert not policy.travels_alone(count - 1)
    assert count < most
    assert policy.deliveries_after(count, is_alone=True) == count + 1


@given(candidates=CANDIDATES, newest=st.integers(0, 30))
def test_the_newest_are_those_that_drop_oldest_would_keep(candidates: list[Candidate], newest: int) -> None:
    order = sorted(candidates, key=lambda candidate: removal_order(candidate, Overflow.DROP_OLDEST))
    policy = make_policy(max_messages=newest, max_bytes=10**9)
    victims = choose_victims(order, policy, messages=len(candidates), size=0)
    waiting = [(candidate.position, candidate.priority, 0.0) for candidate in candidates]
    assert left_out(Replay(newest=newest), waiting) == sorted(victim.position for victim in victims)


def test_what_is_too_old_goes_before_the_newest_are_counted() -> None:
    waiting = [(1, Priority.CRITICAL, 11.0), (2, Priority.LOW, 10.0), (3, Priority.LOW, 1.0)]
    assert left_out(Replay(), waiting) == []
    assert left_out(Replay(seconds=10), waiting) == [1]
    assert left_out(Replay(seconds=10, newest=1), waiting) == [1, 2]
    assert left_out(Replay(newest=1), waiting) == [2, 3]
