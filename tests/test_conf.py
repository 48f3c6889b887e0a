"""The settings: what is in force, what a policy inherits, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from netra_queue import conf
from netra_queue.core.message import LossReason, Priority
from netra_queue.core.policy import Overflow, Replay
from netra_queue.exceptions import NotConfigured


def test_the_defaults_are_in_force_without_a_setting(settings: Any) -> None:
    del settings.NETRA_QUEUE
    assert {key: conf.get(key) for key in conf.DEFAULTS} == conf.DEFAULTS


def test_the_default_policy(settings: Any) -> None:
    settings.NETRA_QUEUE = {}
    policy = conf.policy("default")
    assert (policy.name, policy.max_messages, policy.max_bytes, policy.max_message_bytes, policy.window) == (
        "default",
        1000,
        8_388_608,
        262_144,
        256,
    )
    assert policy.overflow is Overflow.DROP_OLDEST
    week, day = 7 * 86_400, 86_400
    assert [policy.ttl_for(priority) for priority in Priority] == [week, day, day, day]
    assert conf.policy("") == policy


def test_the_projects_values_come_first_and_follow_a_change(settings: Any) -> None:
    settings.NETRA_QUEUE = {"POLL_SECONDS": 5, "POLICIES": {"default": {"WINDOW": 7}}}
    assert (conf.get("POLL_SECONDS"), conf.get("STORE_THREADS")) == (5, 4)
    assert conf.policy("default").window == 7
    settings.NETRA_QUEUE = {"POLL_SECONDS": 6, "POLICIES": {"default": {"WINDOW": 8}}}
    assert conf.get("POLL_SECONDS") == 6
    assert conf.policy("default").window == 8


def test_an_unknown_key_of_ours_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        conf.get("NO_SUCH_KEY")


@pytest.mark.parametrize("given", [None, [], "POLL_SECONDS"])
def test_a_setting_that_is_no_dict(settings: Any, given: object) -> None:
    settings.NETRA_QUEUE = given
    with pytest.raises(NotConfigured, match="NETRA_QUEUE: expected a dict"):
        conf.get("POLL_SECONDS")


def test_a_policy_inherits_from_the_projects_default_and_then_from_ours(settings: Any) -> None:
    settings.NETRA_QUEUE = {
        "POLICIES": {
            "default": {"WINDOW": 7, "MAX_MESSAGES": 8},
            "enterprise": {"MAX_MESSAGES": 9, "OVERFLOW": "reject"},
        }
    }
    policy = conf.policy("enterprise")
    assert (policy.name, policy.window, policy.max_messages, policy.max_bytes) == ("enterprise", 7, 9, 8_388_608)
    assert policy.overflow is Overflow.REJECT
    assert conf.policy("default").overflow is Overflow.DROP_OLDEST


def test_the_time_to_live_of_all_or_of_some(settings: Any) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"TTL": 60}, "some": {"TTL": {"low": 5, "critical": 0.5}}}}
    assert [conf.policy("default").ttl_for(priority) for priority in Priority] == [60] * 4
    assert [conf.policy("some").ttl_for(priority) for priority in Priority] == [0.5, 86_400, 86_400, 5]


IMPOSSIBLE: dict[str, Any] = {
    "no window": {"WINDOW": 0},
    "negative": {"MAX_MESSAGES": -1},
    "not whole": {"MAX_MESSAGES": 1.5},
    "text": {"MAX_BYTES": "8388608"},
    "a bool": {"WINDOW": True},
    "None": {"WINDOW_BYTES": None},
    "endless": {"ACK_TIMEOUT_SECONDS": float("inf")},
    "not a number": {"HEARTBEAT_SECONDS": float("nan")},
    "a message larger than its queue": {"MAX_BYTES": 1000, "MAX_MESSAGE_BYTES": 1001},
    "overflow": {"OVERFLOW": "explode"},
    "unknown key": {"MAX_MESAGES": 10},
    "unknown priority": {"TTL": {"urgent": 5}},
    "no time to live": {"TTL": 0},
    "longer than the longest": {"TTL": 30 * 86_400 + 1},
    "no dict": 5,
    "one delivery": {"MAX_DELIVERIES": 1},
    "more deliveries than can be counted": {"MAX_DELIVERIES": 32_768},
    "an unknown loss": {"DEAD_LETTERS": ["deed"]},
    "a loss that is no list": {"DEAD_LETTERS": "dead"},
    "a loss that is no text": {"DEAD_LETTERS": [["dead"]]},
    "letters for ever": {"DEAD_LETTER_SECONDS": 10**15},
    "no letter time": {"DEAD_LETTER_SECONDS": 0},
    "replay that is no dict": {"REPLAY": "newest"},
    "an unknown key of replay": {"REPLAY": {"LATEST": 5}},
    "less than none": {"REPLAY": {"NEWEST": -1}},
    "no whole number of newest": {"REPLAY": {"NEWEST": True}},
    "no time": {"REPLAY": {"SECONDS": 0}},
    "a digest of nothing": {"REPLAY": {"DIGEST": "a.b"}},
    "a digest that is no path": {"REPLAY": {"NEWEST": 1, "DIGEST": len}},
}


def test_what_is_kept_and_replayed(settings: Any) -> None:
    assert conf.policy("default").dead_letters == {LossReason.DEAD}
    assert not conf.policy("default").replay
    reasons = set(LossReason) - {LossReason.UNPROTECTED}
    settings.NETRA_QUEUE = {
        "POLICIES": {
            "all": {"DEAD_LETTERS": [reason.value for reason in reasons]},
            "none": {"DEAD_LETTERS": ()},
            "short": {"REPLAY": {"NEWEST": 0, "SECONDS": 0.5, "DIGEST": "a.b"}},
        }
    }
    assert conf.policy("all").dead_letters == reasons
    assert conf.policy("none").dead_letters == set()
    assert conf.policy("short").replay == Replay(newest=0, seconds=0.5, digest="a.b")
    assert conf.policy("short").replay, "none at all is a choice, too"


@pytest.mark.parametrize("values", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_an_impossible_policy(settings: Any, values: Any) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"broken": values}}
    with pytest.raises(NotConfigured, match=r"NETRA_QUEUE\['POLICIES'\]\['broken'\]"):
        conf.policy("broken")
    assert conf.policy("default").window == 256, "the others go on"


def test_an_unknown_policy(settings: Any) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"enterprise": {}}}
    with pytest.raises(NotConfigured, match="there is no policy 'enterprize'"):
        conf.policy("enterprize")


@pytest.mark.parametrize(("given", "longest"), [(60, 60), (10**15, 36_500 * 86_400)])
def test_the_longest_time_to_live(settings: Any, given: int, longest: int) -> None:
    settings.NETRA_QUEUE = {"MAX_TTL_SECONDS": given}
    assert conf.longest_ttl() == longest
