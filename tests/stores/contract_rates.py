"""What every store promises about rates (netra_queue/stores/base_rates.py), and of messages whose time has not come."""

from __future__ import annotations

from datetime import timedelta

import pytest

from netra_queue.core.message import Outcome, Priority
from netra_queue.core.policy import Overflow, Replay
from netra_queue.core.rate import Rate, Want
from netra_queue.exceptions import QueueFull
from tests.making import AdvancingStore, get, ids, make_draft, make_policy, make_presence, put
from tests.waiting import together

TEN = Rate(10, 60, 10)  # one in six seconds


def granted(store: AdvancingStore, *wants: Want) -> bool:
    takings = store.admit(wants)
    return not any(want.missing_seconds(taken) for want, taken in zip(wants, takings, strict=True))


class AdmitContract:
    def test_a_burst_and_then_the_rate(self, store: AdvancingStore) -> None:
        want = Want("user.1 ", TEN, 1)
        assert [granted(store, want) for _ in range(12)] == [True] * 10 + [False] * 2
        (taken,) = store.admit([want])
        assert 5 < taken.wait <= 6
        store.advance(taken.wait + 0.001)
        assert [granted(store, want) for _ in range(2)] == [True, False]
        store.advance(1000)
        assert [granted(store, want) for _ in range(11)] == [True] * 10 + [False]

    def test_each_bucket_has_its_own(self, store: AdvancingStore) -> None:
        assert granted(store, Want("user.1 ", TEN, 10))
        assert granted(store, Want("user.1 import", TEN, 10))
        assert granted(store, Want("user.2 ", TEN, 10))
        assert not granted(store, Want("user.1 ", TEN, 1))

    def test_all_or_none(self, store: AdvancingStore) -> None:
        assert granted(store, Want("user.1 ", TEN, 8))
        assert not granted(store, Want("user.1 ", TEN, 3), Want("user.2 ", TEN, 3))
        assert granted(store, Want("user.1 ", TEN, 2), Want("user.2 ", TEN, 10))

    def test_more_than_a_burst_passes_once(self, store: AdvancingStore) -> None:
        want = Want("user.1 ", TEN, 20)
        assert [granted(store, want) for _ in range(2)] == [True, False]
        (taken,) = store.admit([want])
        assert 115 < taken.wait <= 120

    def test_what_may_wait_gets_its_turns(self, store: AdvancingStore) -> None:
        want = Want("user.1 ", TEN, 6, 30)
        (first,), (second,) = store.admit([want]), store.admit([want])
        assert [*first.waits] == [0] * 6
        assert [round(wait) for wait in second.waits] == [0, 0, 0, 0, 6, 12]
        assert granted(store, Want("user.1 ", TEN, 3, 30))
        assert not granted(store, Want("user.1 ", TEN, 1, 30)), "its turn would come after 36 seconds"
        assert granted(store, Want("user.1 ", TEN, 1, 40)), "the refused one has taken nothing"

    def test_of_many_at_once_as_many_are_granted_as_there_are(self, store: AdvancingStore) -> None:
        def ask() -> int:
            return sum(granted(store, Want("user.1 ", TEN, 1)) for _ in range(4))

        assert sum(together(*[ask] * 5)) == 10

    def test_of_many_at_once_for_several_buckets(self, store: AdvancingStore) -> None:
        def ask() -> int:
            wants = [Want(f"user.{n} ", TEN, 1) for n in (1, 2)]
            return sum(granted(store, *wants) for _ in range(4))

        assert sum(together(*[ask] * 4)) == 10

    def test_full_buckets_are_forgotten(self, store: AdvancingStore) -> None:
        store.admit([Want("user.1 ", TEN, 5), Want("user.2 ", TEN, 9)])
        assert (store.due(10).keys, store.forget_keys(10)) == (0, 0)
        store.advance(31)
        assert store.due(10).keys == 1
        assert store.forget_keys(10) == 1
        assert not granted(store, Want("user.2 ", TEN, 8))
        store.advance(300)
        assert store.forget_keys(10) == 1


class LaterContract:
    """Messages whose time has not come."""

    def test_they_are_read_from_their_time_on(self, store: AdvancingStore) -> None:
        due = store.now() + timedelta(seconds=10)
        late, now = make_draft(not_before=due), make_draft()
        answers = put(store, late, now)
        assert [answer.outcome for answer in answers] == [Outcome.QUEUED] * 2
        assert ids(get(store)) == [now.id]
        store.advance(9)
        assert ids(get(store)) == [now.id]
        store.advance(2)
        assert ids(get(store)) == [late.id, now.id], "in the order of appending, when both may be read"

    @pytest.mark.parametrize("count", [1, 3])
    def test_nothing_waits_before(self, store: AdvancingStore, count: int) -> None:
        due = store.now() + timedelta(seconds=10)
        put(store, *(make_draft(not_before=due) for _ in range(count)))
        batch = get(store)
        assert (batch.messages, batch.more) == ((), False), "and nobody asks again at once"
        assert store.waiting(["user.1"]) == set()
        store.advance(11)
        assert store.waiting(["user.1"]) == {"user.1"}

    def test_when_the_next_one_may_be_read(self, store: AdvancingStore) -> None:
        now = store.now()
        first, second = now + timedelta(seconds=10), now + timedelta(seconds=20)
        put(store, make_draft(not_before=second), make_draft(not_before=first), make_draft(), make_draft("user.2"))
        found = store.next_due(["user.1", "user.2", "user.3"])
        assert found.keys() == {"user.1"}
        assert abs(found["user.1"] - first) < timedelta(milliseconds=1)
        store.advance(15)
        assert abs(store.next_due(["user.1"])["user.1"] - second) < timedelta(milliseconds=1)
        store.advance(10)
        assert store.next_due(["user.1"]) == {}

    def test_the_order_of_turns_is_the_order_of_appending(self, store: AdvancingStore) -> None:
        now = store.now()
        sent = [make_draft(not_before=now + timedelta(seconds=n)) for n in range(1, 6)]
        for draft in sent:
            put(store, draft)
        for number in range(1, 6):
            store.advance(1.001)
            assert ids(get(store)) == [draft.id for draft in sent[:number]]

    def test_a_returning_client_is_told_of_what_may_be_read(self, store: AdvancingStore) -> None:
        due = store.now() + timedelta(seconds=10)
        put(store, make_draft(not_before=due), make_draft(), make_draft(ttl=5))
        store.advance(6)
        opened = store.attach(make_presence(), make_policy())
        assert (opened.waiting, sum(opened.losses.counts.values())) == (1, 1)
        assert store.stat("user.1").messages == 2
        store.advance(5)
        assert store.attach(make_presence(), make_policy()).waiting == 2

    def test_they_expire_and_count_against_limits_as_others_do(self, store: AdvancingStore) -> None:
        due = store.now() + timedelta(seconds=60)
        put(store, make_draft(ttl=5, not_before=due), make_draft(not_before=due))
        policy = make_policy(max_messages=2, overflow=Overflow.REJECT)
        with pytest.raises(QueueFull):
            put(store, make_draft(), policy=policy)
        store.advance(6)
        assert store.sweep(10) == 1
        put(store, make_draft(), policy=policy)
        assert store.stat("user.1").messages == 2

    def test_they_keep_their_time_when_a_device_takes_them_over(self, store: AdvancingStore) -> None:
        due = store.now() + timedelta(seconds=10)
        late = make_draft(not_before=due)
        put(store, late)
        assert store.attach(make_presence("user.1/phone"), make_policy()).waiting == 0
        assert get(store, "user.1/phone").messages == ()
        assert store.next_due(["user.1/phone"]).keys() == {"user.1/phone"}
        store.advance(11)
        assert ids(get(store, "user.1/phone")) == [late.id]

    def test_each_device_gets_them_in_their_time(self, store: AdvancingStore) -> None:
        lines = ["user.1/phone", "user.1/tab"]
        for line in lines:
            store.attach(make_presence(line), make_policy())
        late = make_draft(not_before=store.now() + timedelta(seconds=10))
        put(store, late)
        assert all(get(store, line).messages == () for line in lines)
        store.advance(11)
        assert all(ids(get(store, line)) == [late.id] for line in lines)

    def test_a_replay_that_is_shaped_leaves_them_alone(self, store: AdvancingStore) -> None:
        due = store.now() + timedelta(seconds=10)
        put(store, make_draft(not_before=due), make_draft(), make_draft(), make_draft(not_before=due))
        presence, policy = make_presence(), make_policy(replay=Replay(newest=1))
        store.attach(presence, policy)
        surplus = store.surplus(presence, policy)
        assert len(surplus.positions) == 1
        assert store.leave_out("user.1", surplus.positions, None, policy)[0] == 1
        store.advance(11)
        assert len(get(store).messages) == 3

    def test_urgent_ones_wait_too(self, store: AdvancingStore) -> None:
        urgent = make_draft(priority=Priority.CRITICAL, not_before=store.now() + timedelta(seconds=10))
        low = make_draft(priority=Priority.LOW)
        put(store, urgent, low)
        assert ids(get(store)) == [low.id]
        store.advance(11)
        assert ids(get(store)) == [urgent.id, low.id]

    def test_acked_ones_are_gone(self, store: AdvancingStore) -> None:
        put(store, make_draft(not_before=store.now() + timedelta(seconds=10)))
        store.advance(11)
        (message,) = get(store).messages
        store.ack({"user.1": [message.position]})
        assert store.stat("user.1").messages == 0


class RateContract(AdmitContract, LaterContract): ...
