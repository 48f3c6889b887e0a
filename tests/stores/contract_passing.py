"""What every store promises about what it was not asked to keep (netra_queue/stores/base_passing.py), and about shadow
mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from netra_queue import conf, controls
from netra_queue.core.controls import Controls
from netra_queue.core.message import LossReason, Priority
from netra_queue.core.policy import Replay
from netra_queue.core.rollout import Rollout, place_of
from tests.making import AdvancingStore, get, make_draft, make_policy, make_presence, put

from .contract_groups import group_draft

QUEUES = [f"user.{number}" for number in range(40)]
ROLLOUTS: list[dict[str, Any]] = [
    {"PERCENT": 0},
    {"PERCENT": 30},
    {"PERCENT": 0, "ALLOW": ["user.1*"]},
    {"PERCENT": 50, "ALLOW": ["user.?"], "DENY": ["user.3", "*[68]"]},
    {"DENY": ["user.2?"]},
]


def set_rollout(store: AdvancingStore, rollout: dict[str, Any], policy: str = "default") -> None:
    store.change_controls(lambda before: before.with_policy(policy, {"ROLLOUT": rollout}))
    controls.forget()
    controls.refresh(store)


class PassingContract:
    def test_unprotected_messages_are_losses_of_each_line_in_use(self, store: AdvancingStore) -> None:
        lines = ["user.1/a", "user.1/b"]
        for line in lines:
            store.attach(make_presence(line), make_policy())
        store.count_unprotected(
            {"user.1": {Priority.HIGH: 2, Priority.LOW: 1}, "user.2": {Priority.NORMAL: 3}},
            {"user.1": make_policy(), "user.2": make_policy()},
        )
        losses = store.losses([*lines, "user.1", "user.2"])
        assert sorted(losses) == ["user.1/a", "user.1/b", "user.2"]
        assert losses["user.1/a"].counts == {
            (LossReason.UNPROTECTED, Priority.HIGH): 2,
            (LossReason.UNPROTECTED, Priority.LOW): 1,
        }
        assert losses["user.2"].total(LossReason.UNPROTECTED) == 3

    @pytest.mark.parametrize("limit", [0, 4, 5, 6])
    def test_how_much_it_holds(self, store: AdvancingStore, limit: int) -> None:
        put(store, *(make_draft(f"user.{number}") for number in range(5)))
        assert store.holds_more_than(limit) is (limit < 5)

    @pytest.mark.parametrize("rollout", ROLLOUTS, ids=str)
    def test_a_group_is_kept_for_members_within_the_rollout(
        self, store: AdvancingStore, rollout: dict[str, Any], settings: Any
    ) -> None:
        settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": {"other": {}}}
        store.ensure(QUEUES)
        store.attach(make_presence("user.3", policy="other"), make_policy())
        store.subscribe(QUEUES, "all")
        set_rollout(store, rollout)
        set_rollout(store, {}, "other")
        inside = [queue for queue in QUEUES if conf.policy("default").rollout.includes(queue) or queue == "user.3"]
        assert store.group_append(group_draft(group="all")).recipients == len(inside)
        assert sorted(store.waiting(QUEUES)) == sorted(inside)

    def test_the_places_of_queues_are_those_of_the_core(self, store: AdvancingStore) -> None:
        store.subscribe(QUEUES, "all")
        ordered = sorted(QUEUES, key=place_of)
        set_rollout(store, {"PERCENT": (place_of(ordered[9]) + 1) / 100})
        store.group_append(group_draft(group="all"))
        assert store.waiting(QUEUES) == set(ordered[:10])

    def test_in_shadow_mode_what_would_be_replayed_is_taken_out_and_is_no_loss(self, store: AdvancingStore) -> None:
        policy = replace(make_policy(), rollout=Rollout(is_shadow=True))
        put(store, *(make_draft() for _ in range(3)))
        presence = make_presence()
        opened = store.attach(presence, policy)
        store.advance(1)
        put(store, live := make_draft())
        found = store.surplus(presence, replace(policy, replay=Replay(newest=0)), opened.at)
        assert len(found.positions) == 3
        waiting, losses = store.leave_out("user.1", found.positions, None, policy)
        assert (waiting, bool(losses)) == (1, False)
        assert [message.id for message in get(store).messages] == [live.id]
        assert store.controls() == Controls()
