"""What every store promises when many threads use it at the same time."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from netra_queue.core.message import LossReason, Outcome, Priority
from netra_queue.core.policy import Overflow
from netra_queue.exceptions import QueueFull
from tests.making import HERE, AdvancingStore, get, make_draft, make_policy, make_presence, put
from tests.waiting import together

SENDERS = 6
EACH = 8


class ThreadContract:
    def test_one_key_from_many_threads_is_one_message(self, store: AdvancingStore) -> None:
        for key in ("a", "b", "c"):
            drafts = [make_draft(key=key) for _ in range(SENDERS)]
            answers = [a for (a,) in together(*(partial(put, store, draft) for draft in drafts))]
            (first,) = [a for a in answers if a.outcome is Outcome.QUEUED]
            assert {a.id for a in answers} == {first.id}
        assert len(get(store).messages) == 3

    def test_a_key_that_ran_out_is_taken_over_once(self, store: AdvancingStore) -> None:
        put(store, make_draft(key="k", ttl=1))
        store.advance(1)
        answers = [a for (a,) in together(*(partial(put, store, make_draft(key="k")) for _ in range(SENDERS)))]
        (first,) = [a for a in answers if a.outcome is Outcome.QUEUED]
        assert {a.id for a in answers} == {first.id}

    @pytest.mark.parametrize("is_known", [True, False])
    @pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
    def test_many_senders_never_exceed_the_limit(
        self, store: AdvancingStore, overflow: Overflow, is_known: bool
    ) -> None:
        policy = make_policy(max_messages=10, overflow=overflow)
        if is_known:
            store.ensure(["user.1"])
        depths: list[int] = []

        def send() -> None:
            for _ in range(EACH):
                put(store, make_draft(), policy=policy)
                depths.append(store.stat("user.1").messages)

        together(*[send] * SENDERS)
        assert max(depths) <= 10
        assert store.stat("user.1").messages == 10
        assert store.losses(["user.1"])["user.1"].total(LossReason.DROPPED) == SENDERS * EACH - 10

    def test_many_senders_are_rejected_exactly(self, store: AdvancingStore) -> None:
        policy = make_policy(max_messages=10, overflow=Overflow.REJECT)

        def send() -> int:
            accepted = 0
            for _ in range(EACH):
                try:
                    put(store, make_draft(), policy=policy)
                except QueueFull:
                    continue
                accepted += 1
            return accepted

        assert sum(together(*[send] * SENDERS)) == 10
        assert store.stat("user.1").messages == 10

    def test_ack_sweep_purge_and_append_at_once_count_everything_once(self, store: AdvancingStore) -> None:
        sending = threading.Event()
        senders_left = threading.Semaphore(0)
        queues = ["user.1", "user.2"]

        def send(queue: str) -> set[int]:
            positions: set[int] = set()
            for number in range(EACH):
                drafts = [make_draft(queue, ttl=3600 if number % 2 else 0, priority=p) for p in Priority]
                positions |= {a.position for a in put(store, *drafts) if a.position is not None}
            senders_left.release()
            return positions

        def acknowledge(queue: str) -> set[int]:
            acked: set[int] = set()
            while not sending.is_set():
                positions = [message.position for message in get(store, queue, limit=5).messages]
                acked |= set(positions) - store.ack({queue: positions}).get(queue, set())
            return acked

        def purge(queue: str) -> int:
            removed = 0
            while not sending.is_set():
                removed += store.purge(queue, 2)
            return removed

        def sweep() -> int:
            removed = 0
            while not sending.is_set():
                removed += store.sweep(7)
            return removed

        def stop() -> None:
            for _ in queues * 2:
                assert senders_left.acquire(timeout=50)
            sending.set()

        calls = [partial(work, queue) for queue in queues for work in (send, send, acknowledge, purge)]
        results = together(*calls, sweep, sweep, stop)
        swept, lost, kept, sent, acked = results[8] + results[9], 0, 0, set(), set()
        for number, queue in enumerate(queues):
            sent |= results[4 * number] | results[4 * number + 1]
            acked |= results[4 * number + 2]
            losses = store.losses([queue]).get(queue)
            lost += sum(losses.counts.values()) if losses else 0
            kept += store.stat(queue).messages
        assert lost == swept + results[3] + results[7], "every removal is counted once"
        assert len(sent) == 2 * 2 * EACH * 4
        assert len(sent - acked) <= kept + lost <= len(sent), "what is not acked is there or counted"

    def test_connections_come_and_go_at_once(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)

        def visit() -> None:
            for _ in range(EACH):
                presences = [make_presence("user.1"), make_presence("user.2")]
                for presence in presences:
                    store.attach(presence, make_policy())
                assert HERE.id in store.holders(["user.1"])
                store.detach(presences)

        def upkeep() -> None:
            for _ in range(EACH):
                store.reap()
                store.forget_idle(10)

        together(*[visit] * SENDERS, upkeep, upkeep)
        assert store.stat("user.1").connections == 0
        assert store.holders(["user.1", "user.2"]) == {}
