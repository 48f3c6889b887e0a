"""What every store promises about what operators see of all of it (netra_queue/stores/base_overview.py)."""

from __future__ import annotations

from netra_queue.core.message import Priority
from tests.making import HERE, THERE, AdvancingStore, get, make_draft, make_policy, make_presence, put
from tests.stores.contract_letters import set_policy

CRITICAL, HIGH, NORMAL, LOW = Priority
BOUNDS = (60, 3600)


class OverviewContract:
    def test_ages_of_what_waits(self, store: AdvancingStore) -> None:
        assert store.ages(BOUNDS, 100).counts == {priority: [0, 0, 0] for priority in Priority}
        put(store, make_draft(ttl=100_000))
        store.advance(3500)
        put(store, make_draft(ttl=100_000), make_draft("user.2", ttl=100_000, priority=HIGH))
        store.advance(3000)
        put(store, make_draft(ttl=100_000), make_draft("user.2", ttl=1))
        store.advance(30)
        ages = store.ages(BOUNDS, 100)
        assert ages.counts == {CRITICAL: [0, 0, 0], HIGH: [0, 1, 0], NORMAL: [2, 1, 1], LOW: [0, 0, 0]}
        assert ages.complete
        waiting = get(store).messages
        store.ack({"user.1": [message.position for message in waiting]})
        assert store.ages(BOUNDS, 100).counts[NORMAL] == [1, 0, 0], "the expired one is there until it is swept"

    def test_servers_and_what_they_hold(self, store: AdvancingStore) -> None:
        assert store.loads(10, 100) == []
        for server in (HERE, THERE):
            store.heartbeat(server)
        for number, server in enumerate([HERE, HERE, THERE]):
            store.attach(make_presence(f"user.{number}", server=server), make_policy())
        loads = {load.server: load.connections for load in store.loads(10, 100)}
        assert loads == {HERE: 2, THERE: 1}
        assert all(abs((store.now() - load.heartbeat_at).total_seconds()) < 5 for load in store.loads(10, 100))
        assert len(store.loads(1, 100)) == 1
        store.advance(1000)
        store.heartbeat(THERE)
        assert [load.server for load in store.loads(10, 100)] == [THERE], "a silent one is not alive"
        store.reap()
        store.heartbeat(HERE)
        assert {load.server: load.connections for load in store.loads(10, 100)} == {HERE: 0, THERE: 1}
        store.retire(THERE)
        assert [load.server for load in store.loads(10, 100)] == [HERE]

    @set_policy(DEAD_LETTERS=["expired"])
    def test_the_overview_counts_dead_letters(self, store: AdvancingStore) -> None:
        assert store.overview(10, 100).letters == 0
        put(store, make_draft(ttl=1), make_draft())
        store.advance(10)
        store.sweep(10)
        assert store.overview(10, 100).letters == 1
