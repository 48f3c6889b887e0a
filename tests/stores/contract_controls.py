"""What every store promises about what operators set (netra_queue/stores/base_controls.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from netra_queue import conf, controls, policies
from netra_queue.core.controls import Controls, PatternRule
from netra_queue.core.message import GroupDraft, Priority
from netra_queue.core.wire import text_payload
from netra_queue.exceptions import MessageTooLarge
from netra_queue.stores.base import MISSED_HEARTBEATS
from tests.making import HERE, THERE, AdvancingStore, Oops, make_draft, make_policy, make_presence, put
from tests.waiting import together

VALUES = {"WINDOW": 5, "TTL": {"low": 0.5}, "DEAD_LETTERS": [], "UNDELIVERED_SECONDS": None, "OVERFLOW": "Grüße 😀"}
RULES = (PatternRule(-1, "user.*", "a"), PatternRule(2, "USER.*", "b"), PatternRule(2, "user.[ab]", "a"))


def version(store: AdvancingStore) -> int:
    found = store.controls()
    assert found is not None
    return found.version


class ControlsContract:
    def test_nothing_is_set_at_first(self, store: AdvancingStore) -> None:
        assert store.controls() == Controls()
        assert store.controls(known=version(store)) is None

    def test_what_was_set_is_what_is_found(self, store: AdvancingStore) -> None:
        wanted = Controls(overrides={"a": VALUES, "A": {}, "b ": {"WINDOW": 1}}, rules=RULES, is_off=True)
        answer = store.change_controls(lambda before: wanted)
        found = store.controls()
        assert found == answer == wanted
        assert found is not None
        assert found.version == answer.version
        assert found.rules == tuple(sorted(RULES))
        assert store.controls(known=found.version) is None

    def test_a_change_replaces_and_removes(self, store: AdvancingStore) -> None:
        store.change_controls(lambda before: Controls(overrides={"a": VALUES, "b": {}}, rules=RULES, is_off=True))
        versions = [version(store)]
        for change in (
            lambda before: before.with_policy("a", {"WINDOW": 6}, ["TTL"]),
            lambda before: before.without_policy("b"),
            lambda before: before.with_rule(PatternRule(9, "user.*", "b")),
            lambda before: before.without_rule("USER.*"),
            lambda before: replace(before, is_off=False),
        ):
            store.change_controls(change)
            assert store.controls(known=versions[-1]) is not None
            versions.append(version(store))
        assert len(set(versions)) == 6
        kept = {key: value for key, value in VALUES.items() if key != "TTL"} | {"WINDOW": 6}
        assert store.controls() == Controls(overrides={"a": kept}, rules=(RULES[2], PatternRule(9, "user.*", "b")))

    def test_what_changes_nothing_keeps_the_version(self, store: AdvancingStore) -> None:
        store.change_controls(lambda before: before.with_policy("a", VALUES))
        before = version(store)
        store.change_controls(lambda controls: controls.with_policy("a", {"WINDOW": 5}))
        assert store.controls(known=before) is None

    def test_a_change_that_raises_changes_nothing(self, store: AdvancingStore) -> None:
        store.change_controls(lambda before: before.with_policy("a", VALUES))
        before = version(store)

        def refuse(controls: Controls) -> Controls:
            raise Oops

        with pytest.raises(Oops):
            store.change_controls(refuse)
        assert store.controls(known=before) is None

    def test_of_changes_at_the_same_time_none_is_lost(self, store: AdvancingStore) -> None:
        def add(number: int) -> None:
            for step in range(5):
                store.change_controls(lambda before, key=f"{number}.{step}": before.with_policy("a", {key: 1}))

        together(*(lambda number=number: add(number) for number in range(4)))  # type: ignore[misc]
        found = store.controls()
        assert found is not None
        assert len(found.overrides["a"]) == 20

    def test_living_servers(self, store: AdvancingStore) -> None:
        assert store.servers() == []
        store.heartbeat(HERE)
        store.advance(MISSED_HEARTBEATS * 10.0 - 1)
        store.heartbeat(THERE)
        assert store.servers() == [HERE.id, THERE.id]
        store.advance(2)
        assert store.servers() == [THERE.id]
        store.retire(THERE)
        assert store.servers() == []

    def test_who_has_chosen_a_queues_policy(self, store: AdvancingStore) -> None:
        presence = replace(make_presence("user.1/phone", policy="tier"), is_resolved=True)
        store.attach(presence, make_policy())
        for name in ("user.1/phone", "user.1"):
            assert (store.stat(name).policy, store.stat(name).is_resolved) == ("tier", True)
        store.attach(make_presence("user.1/phone", policy="other"), make_policy())
        assert (store.stat("user.1").policy, store.stat("user.1").is_resolved) == ("other", False)
        assert not store.stat("user.2").is_resolved


NAMES = ["user.1", "user.42", "USER.1", "vip.1", "a" * 60, "x+y", "x.y", "xxy", "a@b.c", "room:7", "room:x", "0"]
PATTERNS = ["user.[1-3]", "user.*", "vip.?", "*a" * 15 + "*b", "x+*", "x.*", "*@*.?", "room:[!0-9]", "*[.x]y", "*:*"]


class PoliciesInForceContract:
    """What a store does by a policy, it does by the one that operators have put into force."""

    @pytest.fixture(autouse=True)
    def begin_anew(self) -> Iterator[None]:
        policies.forget()
        yield
        policies.forget()

    def operate(self, store: AdvancingStore, values: dict[str, dict[str, Any]], rules: dict[str, str]) -> None:
        """``values``: by policy. ``rules``: the policy of each pattern."""
        found = tuple(PatternRule(place, pattern, policy) for place, (pattern, policy) in enumerate(rules.items()))
        store.change_controls(lambda before: Controls(overrides=values, rules=found))
        controls.forget()
        controls.refresh(store)

    def test_databases_understand_patterns_as_we_do(self, store: AdvancingStore) -> None:
        """Each pattern's policy has its own time to live: what a group's members have left tells which they have."""
        values = {f"p{n}": {"TTL": 100 * (n + 1)} for n in range(len(PATTERNS))}
        self.operate(store, values, {pattern: f"p{n}" for n, pattern in enumerate(PATTERNS)})
        store.ensure(NAMES)
        store.subscribe(NAMES, "all")
        store.group_append(GroupDraft(group="all", id="0" * 32, payload=text_payload("1"), priority=Priority.NORMAL))
        expected = {name: conf.policy_of(name, "").ttl_for(Priority.NORMAL) for name in NAMES}
        assert len(set(expected.values())) > 8
        for seconds in sorted(set(expected.values())):
            store.advance((store.shift * -1 + timedelta(seconds=seconds - 5)).total_seconds())
            assert store.waiting(NAMES) == {name for name in NAMES if expected[name] >= seconds}

    def test_a_group_counts_as_lost_what_a_patterns_policy_does_not_take(self, store: AdvancingStore) -> None:
        self.operate(store, {"small": {"MAX_MESSAGE_BYTES": 2}}, {"user.*": "small"})
        store.attach(make_presence("user.1/phone", policy="default"), make_policy())
        store.ensure(["room.1"])
        store.subscribe(["user.1", "room.1"], "all")
        draft = GroupDraft(group="all", id="0" * 32, payload=text_payload("12345"), priority=Priority.NORMAL)
        assert store.group_append(draft).recipients == 1
        assert store.losses(["user.1/phone", "room.1"]).keys() == {"user.1/phone"}
        self.operate(
            store, {"default": {"MAX_MESSAGE_BYTES": 2}, "large": {"MAX_MESSAGE_BYTES": 9}}, {"room.*": "large"}
        )
        assert store.group_append(replace(draft, id="1" * 32)).recipients == 1
        assert store.stat("room.1").messages == 2

    def test_a_group_enforces_a_patterns_limits(self, store: AdvancingStore) -> None:
        self.operate(store, {"few": {"MAX_MESSAGES": 2}}, {"user.*": "few"})
        store.ensure(["user.1", "room.1"])
        store.subscribe(["user.1", "room.1"], "all")
        for number in range(4):
            payload = text_payload(str(number))
            store.group_append(GroupDraft(group="all", id=f"{number:032x}", payload=payload, priority=Priority.NORMAL))
        assert (store.stat("user.1").messages, store.stat("room.1").messages) == (2, 4)

    def test_dead_letters_are_kept_as_a_patterns_policy_says(self, store: AdvancingStore) -> None:
        self.operate(store, {"kept": {"DEAD_LETTERS": ["expired"]}}, {"user.*": "kept"})
        store.ensure(["user.1", "room.1"])
        put(store, make_draft("user.1", ttl=5), make_draft("room.1", ttl=5))
        store.advance(6)
        store.sweep(10)
        assert [letter.queue for letter in store.letters(10)] == ["user.1"]
        self.operate(store, {"small": {"MAX_MESSAGE_BYTES": 2}}, {"user.*": "small"})
        with pytest.raises(MessageTooLarge):
            store.requeue(store.letters(1)[0].number)

    def test_devices_are_given_up_as_a_patterns_policy_says(self, store: AdvancingStore) -> None:
        self.operate(store, {"short": {"LINE_SECONDS": 5}}, {"user.*": "short"})
        for line in ("user.1/phone", "room.1/phone"):
            presence = make_presence(line)
            store.attach(presence, make_policy())
            store.detach([presence])
        store.advance(6)
        assert store.expire_lines(10) == 1
        assert store.lines("user.1") == []
        assert len(store.lines("room.1")) == 1

    def test_an_operators_policy_hands_over(self, store: AdvancingStore) -> None:
        self.operate(store, {"watched": {"UNDELIVERED_SECONDS": 5}}, {"user.*": "watched"})
        drafts = [make_draft("user.1"), make_draft("room.1")]
        store.append(drafts, {draft.queue: conf.policy_of(draft.queue, "") for draft in drafts})
        store.advance(6)
        found: list[str] = []
        for policy in conf.policies():
            store.hand_over(policy.name, 10, lambda some: found.extend(message.queue for message in some))
        assert found == ["user.1"]
