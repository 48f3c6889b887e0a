"""What every store promises about losses, connections and upkeep (netra_queue/stores/base.py)."""

from __future__ import annotations

import pytest
from django.test import override_settings

from netra_queue.core.message import Fate, Losses, LossReason, Outcome, Priority
from netra_queue.stores.base import Opened, QueueStat
from tests.making import HERE, THERE, AdvancingStore, get, ids, make_draft, make_policy, make_presence, put

CRITICAL, HIGH, NORMAL, LOW = Priority
DAY = 86_400
LEASE_SECONDS = 30  # three heartbeats of 10 seconds


class LossContract:
    def test_losses_add_up_and_are_settled(self, store: AdvancingStore) -> None:
        before = store.now()
        put(store, make_draft(), make_draft(priority=LOW))
        assert store.purge("user.1", 10) == 2
        put(store, make_draft(ttl=1))
        store.advance(1)
        assert store.sweep(10) == 1
        losses = store.losses(["user.1", "user.2"])["user.1"]
        assert dict(losses.counts) == {
            (LossReason.DROPPED, NORMAL): 1,
            (LossReason.DROPPED, LOW): 1,
            (LossReason.EXPIRED, NORMAL): 1,
        }
        assert losses.since is not None
        assert before <= losses.since <= store.now()
        for _ in range(2):
            store.settle("user.1", losses.records)
            assert store.losses(["user.1"]) == {}

    def test_settle_forgets_only_what_it_names(self, store: AdvancingStore) -> None:
        put(store, make_draft("user.1"), make_draft("user.2"))
        store.purge("user.1", 1)
        store.purge("user.2", 1)
        told = store.losses(["user.1"])["user.1"]
        put(store, make_draft("user.1"))
        store.purge("user.1", 1)
        store.settle("user.2", told.records)
        assert store.losses(["user.2"])["user.2"].total(LossReason.DROPPED) == 1
        assert store.losses(["user.1"])["user.1"].total(LossReason.DROPPED) == 2, "another queue cannot settle them"
        store.settle("user.1", told.records)
        assert store.losses(["user.1"])["user.1"].total(LossReason.DROPPED) == 1


class PresenceContract:
    def test_attach_tells_what_waits_and_what_was_lost(self, store: AdvancingStore) -> None:
        put(store, make_draft(), make_draft(), make_draft(ttl=10, priority=HIGH))
        store.advance(10)
        opened = store.attach(make_presence(), make_policy())
        assert opened.waiting == 2
        assert dict(opened.losses.counts) == {(LossReason.EXPIRED, HIGH): 1}
        assert opened.at <= store.now()
        assert store.losses(["user.1"])["user.1"] == opened.losses, "told is not settled"

    def test_waiting_is_exact_up_to_the_limit(self, store: AdvancingStore) -> None:
        put(store, *(make_draft() for _ in range(5)))
        assert store.attach(make_presence(), make_policy(max_messages=3)).waiting == 3

    def test_attach_to_a_new_queue_makes_it_known_with_its_policy(self, store: AdvancingStore) -> None:
        opened = store.attach(make_presence(policy="default"), make_policy())
        assert opened == Opened(0, Losses(), opened.at)
        assert store.describe(["user.1", "user.2"]) == {"user.1": "default"}
        store.attach(make_presence(policy="other"), make_policy())
        assert store.describe(["user.1"]) == {"user.1": "other"}

    def test_attach_and_detach_may_be_repeated(self, store: AdvancingStore) -> None:
        presence = make_presence()
        for _ in range(2):
            store.attach(presence, make_policy())
            assert store.stat("user.1").connections == 1
        for _ in range(2):
            store.detach([presence])
            assert store.stat("user.1").connections == 0

    def test_ensure_keeps_the_policy(self, store: AdvancingStore) -> None:
        store.attach(make_presence(policy="default"), make_policy())
        store.ensure(["user.1", "user.2"])
        assert store.describe(["user.1", "user.2"]) == {"user.1": "default", "user.2": ""}

    def test_holders(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)
        store.heartbeat(THERE)
        tab, phone = make_presence("user.1"), make_presence("user.1", server=THERE)
        store.attach(tab, make_policy())
        store.attach(make_presence("user.1"), make_policy())
        store.attach(phone, make_policy())
        store.attach(make_presence("user.2", server=THERE), make_policy())
        found = store.holders(["user.1", "user.2", "user.3"])
        assert {server: sorted(queues) for server, queues in found.items()} == {
            HERE.id: ["user.1"],
            THERE.id: ["user.1", "user.2"],
        }
        store.detach([phone])
        assert store.holders(["user.1"]) == {HERE.id: ["user.1"]}
        assert store.holders([]) == {}

    def test_heartbeat_says_whether_the_server_was_known(self, store: AdvancingStore) -> None:
        assert store.heartbeat(HERE) is False
        assert store.heartbeat(HERE) is True
        store.retire(HERE)
        assert store.heartbeat(HERE) is False

    def test_a_silent_server_holds_nothing_and_is_reaped(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)
        store.heartbeat(THERE)
        store.attach(make_presence(), make_policy())
        store.attach(make_presence(server=THERE), make_policy())
        store.advance(LEASE_SECONDS - 1)
        store.heartbeat(THERE)
        assert set(store.holders(["user.1"])) == {HERE.id, THERE.id}
        store.advance(1)
        assert store.holders(["user.1"]) == {THERE.id: ["user.1"]}
        assert store.reap() == 1
        assert store.reap() == 0
        assert store.heartbeat(HERE) is False, "it has to attach its connections again"
        assert store.stat("user.1").connections == 1

    def test_a_server_that_is_not_known_yet_has_time_for_its_heartbeat(self, store: AdvancingStore) -> None:
        presence = make_presence()
        store.attach(presence, make_policy())
        store.advance(LEASE_SECONDS - 1)
        assert store.reap() == store.due(10).connections == 0
        store.heartbeat(HERE)
        store.attach(presence, make_policy())
        store.advance(LEASE_SECONDS - 1)
        assert store.reap() == store.due(10).connections == 0
        assert store.holders(["user.1"]) == {HERE.id: ["user.1"]}

    def test_connections_of_a_server_that_never_came_back_are_reaped(self, store: AdvancingStore) -> None:
        """Attached after its server was reaped, and the server died before its next heartbeat."""
        store.heartbeat(HERE)
        store.retire(HERE)
        store.attach(make_presence(), make_policy())
        assert store.holders(["user.1"]) == {}
        store.advance(LEASE_SECONDS)
        assert store.reap() == 1
        assert store.stat("user.1").connections == 0

    def test_retire_takes_its_connections_along(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)
        store.heartbeat(THERE)
        store.attach(make_presence(), make_policy())
        store.attach(make_presence(server=THERE), make_policy())
        for _ in range(2):
            store.retire(HERE)
            assert store.holders(["user.1"]) == {THERE.id: ["user.1"]}
            assert store.stat("user.1").connections == 1


class SweepContract:
    def test_sweep_is_bounded_and_takes_the_oldest_expiry_first(self, store: AdvancingStore) -> None:
        put(store, make_draft("user.1", ttl=30), make_draft("user.2", ttl=10), make_draft("user.1", ttl=20))
        put(store, make_draft("user.1", ttl=100))
        store.advance(30)
        assert store.sweep(2) == 2
        assert store.losses(["user.2"])["user.2"].total(LossReason.EXPIRED) == 1
        assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 1
        assert store.sweep(2) == 1
        assert store.sweep(2) == 0
        assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 2
        assert store.stat("user.1").messages == 1

    def test_due_says_since_when_what_has_expired_has(self, store: AdvancingStore) -> None:
        put(store, make_draft(ttl=30), make_draft(ttl=10), make_draft(ttl=DAY))
        sent_at = get(store).messages[0].created_at
        assert store.due(10).expired_since is None
        store.advance(60)
        due = store.due(1)
        assert due.expired == 1, "counted up to the limit"
        assert due.expired_since is not None
        assert abs((due.expired_since - sent_at).total_seconds() - 10) < 1, "the first one, whatever the limit"
        store.sweep(1)
        since = store.due(1).expired_since
        assert since is not None
        assert abs((since - sent_at).total_seconds() - 30) < 1
        store.sweep(10)
        assert store.due(1).expired_since is None

    def test_sweep_takes_what_something_hangs_on_and_what_not(self, store: AdvancingStore) -> None:
        tracked = make_draft("user.1", ttl=10, track=True)
        put(store, make_draft("user.1", ttl=10), tracked, make_draft("user.2", ttl=10), make_draft("user.1", ttl=10))
        store.advance(10)
        assert store.sweep(3) == 3
        assert store.sweep(3) == 1
        assert store.tracked([tracked.id])[tracked.id].fate is Fate.EXPIRED
        assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 3
        assert store.losses(["user.2"])["user.2"].total(LossReason.EXPIRED) == 1

    @override_settings(NETRA_QUEUE={"POLICIES": {"default": {"DEAD_LETTERS": ["expired"]}}})
    def test_sweep_sets_aside_what_a_policy_keeps(self, store: AdvancingStore) -> None:
        put(store, make_draft("user.1", ttl=10), make_draft("user.2", ttl=10))
        store.advance(10)
        assert store.sweep(10) == 2
        assert len(store.letters(10)) == 2

    def test_purge_is_bounded_and_counts(self, store: AdvancingStore) -> None:
        sent = [make_draft(priority=p) for p in (LOW, HIGH, LOW, NORMAL)]
        put(store, *sent, make_draft("user.2"))
        assert store.purge("user.1", 1, LOW) == 1
        assert ids(get(store)) == [sent[1].id, sent[3].id, sent[2].id]
        assert store.purge("user.1", 10, LOW) == 1
        assert store.purge("user.1", 10) == 2
        assert store.purge("user.1", 10) == 0
        assert store.losses(["user.1"])["user.1"].by_priority(LossReason.DROPPED) == {"high": 1, "normal": 1, "low": 2}
        assert store.stat("user.2").messages == 1


class IdleContract:
    @override_settings(NETRA_QUEUE={"IDLE_QUEUE_SECONDS": DAY})
    def test_idle_queues_are_forgotten(self, store: AdvancingStore) -> None:
        visitor = make_presence("visited")
        store.ensure(["empty", "visited", "full", "held"])
        put(store, make_draft("full", ttl=10 * DAY))
        store.attach(make_presence("held"), make_policy())
        store.advance(DAY / 2)
        store.attach(visitor, make_policy())
        store.detach([visitor])
        store.advance(DAY / 2 + 1)
        assert store.forget_idle(10) == 1
        assert set(store.describe(["empty", "visited", "full", "held"])) == {"visited", "full", "held"}
        store.advance(DAY)
        assert store.forget_idle(10) == 1
        assert set(store.describe(["visited", "full", "held"])) == {"full", "held"}

    @override_settings(NETRA_QUEUE={"IDLE_QUEUE_SECONDS": DAY})
    def test_forgetting_is_bounded(self, store: AdvancingStore) -> None:
        store.ensure([f"user.{n}" for n in range(5)])
        store.advance(DAY + 1)
        assert [store.forget_idle(2) for _ in range(4)] == [2, 2, 1, 0]

    @override_settings(NETRA_QUEUE={"IDLE_QUEUE_SECONDS": DAY})
    def test_losses_of_idle_queues_are_forgotten(self, store: AdvancingStore) -> None:
        store.ensure(["user.1"])
        put(store, make_draft())
        store.purge("user.1", 1)
        store.advance(DAY - 1)
        store.forget_idle(10)
        assert store.losses(["user.1"])
        store.advance(2)
        store.forget_idle(10)
        assert store.losses(["user.1"]) == {}

    @override_settings(NETRA_QUEUE={"IDLE_QUEUE_SECONDS": DAY})
    def test_a_queue_with_young_losses_stays(self, store: AdvancingStore) -> None:
        store.ensure(["user.1"])
        put(store, make_draft(ttl=2 * DAY))
        store.advance(2 * DAY)
        store.sweep(10)
        assert store.due(10).idle_queues == store.forget_idle(10) == 0
        assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 1
        store.advance(DAY + 1)
        assert store.due(10).idle_queues == store.forget_idle(10) == 1
        assert store.losses(["user.1"]) == {}

    @override_settings(NETRA_QUEUE={"IDLE_QUEUE_SECONDS": DAY})
    def test_idle_queues_behind_many_that_hold_messages_are_found(self, store: AdvancingStore) -> None:
        names = [f"user.{number}" for number in range(520)]
        store.ensure(names)
        put(store, *(make_draft(name, ttl=9 * DAY) for name in names))
        store.advance(DAY / 2)
        store.ensure(["empty"])
        store.advance(DAY + 1)
        assert store.forget_idle(10) == 1
        assert store.describe(["empty", "user.1"]) == {"user.1": ""}

    def test_upkeep_keeps_the_counts_of_many_losses(self, store: AdvancingStore) -> None:
        for priority in (NORMAL, LOW):
            for _ in range(40):
                put(store, make_draft(priority=priority))
                store.purge("user.1", 1)
        store.forget_idle(100)
        losses = store.losses(["user.1"])["user.1"]
        assert dict(losses.counts) == {(LossReason.DROPPED, NORMAL): 40, (LossReason.DROPPED, LOW): 40}

    def test_a_forgotten_queue_is_made_again(self, store: AdvancingStore) -> None:
        store.ensure(["user.1"])
        store.advance(31 * DAY)
        assert store.forget_idle(10) == 1
        assert put(store, make_draft())[0].outcome is Outcome.QUEUED
        assert store.attach(make_presence(), make_policy()).waiting == 1

    def test_upkeep_keeps_keys_that_still_count(self, store: AdvancingStore) -> None:
        put(store, make_draft(key="short", ttl=10), make_draft(key="long", ttl=20))
        store.advance(10)
        store.forget_idle(10)
        short, long = put(store, make_draft(key="short"), make_draft(key="long"))
        assert (short.outcome, long.outcome) == (Outcome.QUEUED, Outcome.DUPLICATE)


class StatContract:
    def test_stat(self, store: AdvancingStore) -> None:
        first = put(store, make_draft(priority=HIGH, text='"1"'))
        store.advance(5)
        put(store, make_draft(text='"22"'), make_draft(text='"333"'))
        opened = store.attach(make_presence(policy="default"), make_policy())
        stat = store.stat("user.1")
        oldest = get(store).messages[0]
        assert oldest.id == first[0].id
        assert stat == QueueStat(
            queue="user.1",
            policy="default",
            messages=3,
            size=12,
            by_priority={HIGH: 1, NORMAL: 2},
            oldest_at=oldest.created_at,
            connections=1,
            seen_at=opened.at,
        )

    @pytest.mark.parametrize("is_known", [False, True])
    def test_stat_of_an_empty_queue(self, store: AdvancingStore, is_known: bool) -> None:
        if is_known:
            store.ensure(["user.1"])
        assert store.stat("user.1") == QueueStat(queue="user.1")


class UpkeepContract(LossContract, PresenceContract, SweepContract, IdleContract, StatContract):
    """Everything besides messages."""
