"""Which queues are within a rollout."""

from __future__ import annotations

from typing import Any

import pytest

from netra_queue.core.policy_values import POLICY_DEFAULTS, build
from netra_queue.core.rollout import PLACES, Rollout, Standing, place_of

NAMES = [f"user.{number}" for number in range(2000)]


def test_a_percentage_is_about_that_many_queues() -> None:
    for percent in (0, 1, 10, 50, 99):
        inside = sum(Rollout(percent=percent).includes(name) for name in NAMES)
        assert abs(inside - len(NAMES) * percent / 100) < 75


def test_who_is_in_stays_in_as_it_grows() -> None:
    before: set[str] = set()
    for percent in (0, 0.01, 1, 5, 10, 33.3, 50, 80, 99.99, 100):
        inside = {name for name in NAMES if Rollout(percent=percent).includes(name)}
        assert before <= inside
        before = inside
    assert len(before) == len(NAMES)


def test_places_are_the_same_for_ever() -> None:
    assert [place_of(name) for name in ("user.1", "user.2", "room.7")] == [4829, 5917, 2113]
    assert all(0 <= place_of(name) < PLACES for name in NAMES)


def test_all_devices_of_a_user_are_in_or_none() -> None:
    rollout = Rollout(percent=50)
    assert all(rollout.includes(name) == rollout.includes(f"{name}/phone") for name in NAMES)


def test_lists_go_before_the_percentage_and_deny_before_allow() -> None:
    rollout = Rollout(percent=0, allow=("user.1*",), deny=("user.13",))
    assert rollout.includes("user.1")
    assert rollout.includes("user.12/tab")
    assert not rollout.includes("user.13")
    assert not rollout.includes("user.2")
    assert not Rollout(deny=("room.*",)).includes("room.1")
    assert Rollout(deny=("room.*",)).includes("user.1")


def test_standings() -> None:
    assert Rollout().standing("user.1") is Standing.DURABLE
    assert Rollout(is_shadow=True).standing("user.1") is Standing.SHADOW
    assert Rollout(percent=0, is_shadow=True).standing("user.1") is Standing.OUTSIDE
    assert [standing for standing in Standing if standing.keeps] == [Standing.DURABLE, Standing.SHADOW]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"PERCENT": 101}, "PERCENT: expected a number from 0 to 100, got 101"),
        ({"PERCENT": -1}, "got -1"),
        ({"PERCENT": True}, "got True"),
        ({"PERCENT": "10"}, "got '10'"),
        ({"PERCENT": float("nan")}, "got nan"),
        ({"ALLOW": "user.1"}, "ALLOW: expected a list of patterns, got 'user.1'"),
        ({"DENY": [1]}, r"DENY: expected a list of patterns, got \[1\]"),
        ({"DENY": ["a b"]}, "expected letters of a queue's name"),
        ({"SHADOW": 1}, "SHADOW: expected True or False, got 1"),
        ({"percent": 1}, r"unknown keys \['percent'\]"),
        (50, "ROLLOUT: expected a dict, got 50"),
    ],
)
def test_what_is_impossible_is_refused(wrong: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        build("default", {**POLICY_DEFAULTS, "ROLLOUT": wrong}, 1e9)


def test_nobody_keeps_what_nobody_has() -> None:
    with pytest.raises(ValueError, match="DEAD_LETTERS: expected a list of"):
        build("default", {**POLICY_DEFAULTS, "DEAD_LETTERS": ["unprotected"]}, 1e9)


def test_what_a_send_gets_while_the_store_is_away_is_one_of_two_words() -> None:
    with pytest.raises(ValueError, match="'never' is not a valid WhileUnavailable"):
        build("default", {**POLICY_DEFAULTS, "WHILE_UNAVAILABLE": "never"}, 1e9)
