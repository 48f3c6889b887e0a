"""What operators set: patterns, layers, and what a change makes of them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_queue.core.controls import Controls, Layer, Origin, PatternRule, Source, as_regex, layered

LETTERS = "aZ9._:@+=-"
PARTS = st.one_of(
    st.sampled_from([*LETTERS, "*", "?", "**", "[ab]", "[!ab]", "[a-z]", "[.:]", "[!+=]"]), st.just("user.")
)


@given(st.lists(PARTS, min_size=1, max_size=6).map("".join), st.text(LETTERS + "b", max_size=8))
def test_a_pattern_means_what_the_shell_means_by_it(pattern: str, name: str) -> None:
    assert (re.search(as_regex(pattern), name) is not None) is fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    "pattern",
    ["", "user.(1)", "a|b", "[", "]", "[]", "[!]", "[z-a]", "a b", "ü", "user\\.1", "a/b", "[[:alpha:]]", "^a", "a$"],
)
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"expected|bad character range"):
        as_regex(pattern)


def test_a_long_pattern_of_stars_is_quick() -> None:
    rule = PatternRule(1, "*a" * 20 + "*b", "x")
    assert not rule.matches("a" * 60)


def test_the_first_pattern_decides() -> None:
    controls = Controls().with_rule(PatternRule(2, "*", "rest")).with_rule(PatternRule(1, "user.*", "users"))
    assert [rule.policy for rule in controls.rules] == ["users", "rest"]
    assert [controls.rule_for(queue).policy for queue in ("user.1", "room.1")] == ["users", "rest"]  # type: ignore[union-attr]
    moved = controls.with_rule(PatternRule(3, "user.*", "users"))
    assert [rule.policy for rule in moved.rules] == ["rest", "users"], "it has one place"
    assert moved.without_rule("*").rule_for("room.1") is None
    assert controls.rule_for("USER.1").policy == "rest", "letters are as they are"  # type: ignore[union-attr]


def test_a_change_sets_some_values_and_gives_others_up() -> None:
    controls = Controls().with_policy("a", {"WINDOW": 1, "MAX_LINES": 2}).with_policy("b", {})
    changed = controls.with_policy("a", {"WINDOW": 3}, ["MAX_LINES", "TTL"])
    assert changed.overrides == {"a": {"WINDOW": 3}, "b": {}}
    assert changed.without_policy("a").overrides == {"b": {}}
    assert changed.with_policy("a", {}, ["WINDOW"]).overrides["a"] == {}
    assert Controls(overrides={"a": "no object"}).with_policy("a", {"WINDOW": 1}).overrides["a"] == {"WINDOW": 1}
    assert controls.without_policy("unknown") == controls


def test_the_version_is_no_difference() -> None:
    assert Controls(version=1) == Controls(version=2)
    assert Controls(is_off=True) != Controls()


def test_the_last_layer_that_has_a_key_decides() -> None:
    found = layered(
        [
            Layer(Source.BUILT_IN, "", {"A": 1, "B": 1, "C": 1}),
            Layer(Source.SETTINGS, "default", {"B": 2, "C": 2}),
            Layer(Source.DATABASE, "tier", {"C": None}),
        ]
    )
    assert found == {
        "A": Origin(1, Source.BUILT_IN, ""),
        "B": Origin(2, Source.SETTINGS, "default"),
        "C": Origin(None, Source.DATABASE, "tier"),
    }
    assert [origin.where for origin in found.values()] == [
        "built in",
        'settings, policy "default"',
        'database, policy "tier"',
    ]
