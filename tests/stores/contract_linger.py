"""What every store promises about consumers that linger (netra_queue/stores/base.py)."""

from __future__ import annotations

from functools import partial

from django.test import override_settings

from netra_queue.core.message import Losses
from netra_queue.stores.base import Opened
from tests.making import HERE, THERE, AdvancingStore, make_policy, make_presence
from tests.waiting import together

LEASE_SECONDS = 30  # three heartbeats of 10 seconds


class LingerContract:
    def test_a_linger_ends_the_connection_and_is_found_by_the_next_one(self, store: AdvancingStore) -> None:
        gone, back = make_presence(server=THERE), make_presence()
        store.heartbeat(THERE)
        store.attach(gone, make_policy())
        assert store.linger([(gone, 30)]) == {gone.id}
        assert store.stat("user.1").connections == 0
        assert store.holders(["user.1"]) == {}
        assert store.stat("user.1").seen_at is not None
        assert store.lingering([gone.id, back.id]) == {gone.id}
        opened = store.attach(back, make_policy())
        assert opened == Opened(0, Losses(), opened.at, (THERE.id,))
        assert store.lingering([gone.id]) == set()
        assert store.attach(back, make_policy()).lingering == ()

    def test_a_linger_may_be_repeated(self, store: AdvancingStore) -> None:
        gone = make_presence()
        for _ in range(2):
            assert store.linger([(gone, 30)]) == {gone.id}
        assert store.attach(make_presence(), make_policy()).lingering == (HERE.id,)

    def test_another_queues_connection_ends_nothing(self, store: AdvancingStore) -> None:
        gone, other = make_presence("user.1"), make_presence("user.2", server=THERE)
        assert store.linger([(gone, 30), (other, 30)]) == {gone.id, other.id}
        assert store.attach(make_presence("user.2"), make_policy()).lingering == (THERE.id,)
        assert store.lingering([gone.id, other.id]) == {gone.id}

    def test_nobody_lingers_while_the_queue_is_connected(self, store: AdvancingStore) -> None:
        store.heartbeat(THERE)
        gone, other, stranger = make_presence(), make_presence(server=THERE), make_presence("user.2")
        for presence in (gone, other, stranger):
            store.attach(presence, make_policy())
        assert store.linger([(gone, 30), (stranger, 30)]) == {stranger.id}
        assert store.lingering([gone.id, stranger.id]) == {stranger.id}
        assert store.stat("user.1").connections == 1, "the other one's"

    def test_a_dead_servers_connection_is_none(self, store: AdvancingStore) -> None:
        store.heartbeat(THERE)
        gone = make_presence()
        store.attach(make_presence(server=THERE), make_policy())
        store.advance(LEASE_SECONDS)
        assert store.linger([(gone, 30)]) == {gone.id}

    def test_of_several_of_one_queue_the_last_one_lingers(self, store: AdvancingStore) -> None:
        one, two = make_presence(), make_presence()
        store.heartbeat(HERE)
        for presence in (one, two):
            store.attach(presence, make_policy())
        assert store.linger([(one, 30), (two, 30)]) == {two.id}
        assert store.lingering([one.id, two.id]) == {two.id}
        assert store.stat("user.1").connections == 0

    def test_many_at_once(self, store: AdvancingStore) -> None:
        many = [make_presence(f"user.{number}") for number in range(600)]
        ids = {presence.id for presence in many}
        assert store.linger([(presence, 30) for presence in many]) == store.lingering(ids) == ids
        store.detach(many)
        assert store.lingering(ids) == set()

    def test_detach_ends_a_linger(self, store: AdvancingStore) -> None:
        gone, other = make_presence(), make_presence("user.2")
        store.linger([(gone, 30), (other, 30)])
        for _ in range(2):
            store.detach([gone])
            assert store.lingering([gone.id, other.id]) == {other.id}

    def test_a_linger_ends_with_its_server(self, store: AdvancingStore) -> None:
        here, there = make_presence("user.1"), make_presence("user.2", server=THERE)
        store.heartbeat(HERE)
        store.heartbeat(THERE)
        store.linger([(here, 3600), (there, 3600)])
        store.retire(HERE)
        assert store.lingering([here.id, there.id]) == {there.id}
        store.advance(LEASE_SECONDS)
        assert store.reap() == 0, "no connection was removed"
        assert store.lingering([there.id]) == set()

    def test_a_linger_that_is_over_is_reaped(self, store: AdvancingStore) -> None:
        short, long = make_presence("user.1"), make_presence("user.2")
        store.heartbeat(HERE)
        store.linger([(short, 10), (long, 20)])
        store.advance(10)
        store.heartbeat(HERE)
        assert store.reap() == 0
        assert store.lingering([short.id, long.id]) == {long.id}

    @override_settings(NETRA_QUEUE={"IDLE_QUEUE_SECONDS": 60})
    def test_a_linger_outlives_its_forgotten_queue(self, store: AdvancingStore) -> None:
        gone = make_presence()
        store.attach(gone, make_policy())
        store.linger([(gone, 3600)])
        store.advance(61)
        assert store.forget_idle(10) == 1
        assert store.attach(make_presence(), make_policy()).lingering == (HERE.id,)

    def test_a_linger_that_meets_the_next_connection_ends(self, store: AdvancingStore) -> None:
        """At the same moment: either it is found and ended, or it does not begin."""
        store.heartbeat(HERE)
        store.heartbeat(THERE)
        for number in range(20):
            gone = make_presence(f"user.{number}")
            back = make_presence(f"user.{number}", server=THERE)
            store.attach(gone, make_policy())
            lingers, opened = together(partial(store.linger, [(gone, 30)]), partial(store.attach, back, make_policy()))
            assert isinstance(opened, Opened)
            assert (lingers, opened.lingering) in ((set(), ()), ({gone.id}, (HERE.id,)))
            assert store.lingering([gone.id]) == set()
