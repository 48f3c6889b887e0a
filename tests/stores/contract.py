"""What every store promises about messages (netra_queue/stores/base.py): order, acceptance, keys, limits, acks.

A test module makes a class of its own from ``MessageContract`` and gives it a ``store`` fixture.
"""

from __future__ import annotations

import pytest

from netra_queue.core.actions import ReadRequest
from netra_queue.core.message import LossReason, Outcome, PayloadKind, Priority
from netra_queue.core.policy import Overflow
from netra_queue.core.wire import bytes_payload, plain_frame
from netra_queue.exceptions import QueueFull
from netra_queue.stores.base import Batch
from tests.making import AdvancingStore, get, ids, make_draft, make_policy, put

CRITICAL, HIGH, NORMAL, LOW = Priority


class ReadContract:
    def test_order_is_priority_then_append_order(self, store: AdvancingStore) -> None:
        sent = [make_draft(priority=p) for p in (LOW, NORMAL, CRITICAL, HIGH, NORMAL, LOW, CRITICAL)]
        for draft in sent:
            put(store, draft)
        assert ids(get(store)) == [d.id for d in sorted(sent, key=lambda d: d.priority)]

    def test_order_within_one_append(self, store: AdvancingStore) -> None:
        sent = [make_draft() for _ in range(50)]
        appended = put(store, *sent)
        assert ids(get(store)) == [draft.id for draft in sent]
        positions = [a.position for a in appended]
        assert positions == sorted(set(positions)), "positions rise, and none is used twice"

    def test_what_was_sent_is_what_is_read(self, store: AdvancingStore) -> None:
        before = store.now()
        draft = make_draft(text='{"Grüße": "😀\\u0000 \u2028", "n": 1.0}', priority=HIGH)
        (appended,) = put(store, draft)
        (message,) = get(store).messages
        assert (message.id, message.payload, message.priority) == (draft.id, draft.payload, HIGH)
        assert message.position == appended.position
        assert before <= message.created_at <= store.now()

    @pytest.mark.parametrize("text", ["not JSON 😀", "", "NaN", " \n", '"x"'])
    def test_text_comes_back_as_it_was(self, store: AdvancingStore, text: str) -> None:
        put(store, make_draft(text=text))
        assert plain_frame(get(store).messages[0].payload) == text

    def test_bytes_come_back_as_they_were(self, store: AdvancingStore) -> None:
        data = bytes(range(256))
        draft = make_draft()
        put(
            store, type(draft)(queue=draft.queue, id=draft.id, payload=bytes_payload(data), priority=LOW, ttl_seconds=9)
        )
        (message,) = get(store).messages
        assert message.payload.kind is PayloadKind.BYTES
        assert plain_frame(message.payload) == data

    def test_excluded_positions_are_left_out(self, store: AdvancingStore) -> None:
        a, b, c = put(store, *(make_draft() for _ in range(3)))
        assert b.position is not None
        assert ids(get(store, without=[b.position])) == [a.id, c.id]

    @pytest.mark.parametrize(
        "pattern", ["x..........", "xxx.......x", "x.x.x.x.x.x", ".xxxx..xxxx", "xxxxxxxxxxx", "..........x"]
    )
    def test_exactly_the_excluded_positions_are_left_out(self, store: AdvancingStore, pattern: str) -> None:
        """Whether they follow one another or not."""
        put(store, *(make_draft() for _ in pattern))
        positions = [message.position for message in get(store).messages]
        excluded = [position for position, mark in zip(positions, pattern, strict=True) if mark == "x"]
        found = [message.position for message in get(store, without=[*excluded, positions[-1] + 100, -5]).messages]
        assert found == [position for position in positions if position not in excluded]

    def test_excluded_positions_do_not_count_against_the_limit(self, store: AdvancingStore) -> None:
        a, b, c, _ = put(store, *(make_draft() for _ in range(4)))
        assert a.position is not None
        batch = get(store, limit=2, without=[a.position])
        assert ids(batch) == [b.id, c.id]
        assert batch.more

    def test_a_read_that_cannot_take_all_takes_the_most_urgent(self, store: AdvancingStore) -> None:
        sent = [make_draft(priority=Priority(number % 4)) for number in (3, 2, 1, 0, 3, 2, 1, 0)]
        put(store, *sent)
        batch = get(store, limit=3)
        assert ids(batch) == [sent[3].id, sent[7].id, sent[2].id]
        assert batch.more

    def test_limit_and_more(self, store: AdvancingStore) -> None:
        sent = [make_draft() for _ in range(3)]
        put(store, *sent)
        batch = get(store, limit=2)
        assert (ids(batch), batch.more) == ([sent[0].id, sent[1].id], True)
        assert get(store, limit=4).more is False

    def test_byte_limit_is_passed_by_one_message_at_most(self, store: AdvancingStore) -> None:
        sent = [make_draft(text='"' + "x" * 98 + '"') for _ in range(4)]
        put(store, *sent)
        batch = get(store, max_bytes=150)
        assert (ids(batch), batch.more) == ([sent[0].id, sent[1].id], True)
        assert len(get(store, max_bytes=1).messages) == 1, "a message larger than the limit is still given"

    def test_expired_messages_are_not_read(self, store: AdvancingStore) -> None:
        short, long = make_draft(ttl=10), make_draft(ttl=20)
        put(store, short, long)
        store.advance(10)
        assert ids(get(store)) == [long.id]
        assert store.waiting(["user.1"]) == {"user.1"}
        store.advance(10)
        assert get(store) == Batch((), more=False)
        assert store.waiting(["user.1"]) == set()

    def test_many_queues_in_one_read(self, store: AdvancingStore) -> None:
        queues = [f"user.{n}" for n in range(230)]
        drafts = [make_draft(queue) for queue in queues]
        put(store, *drafts)
        batches = store.read([(queue, ReadRequest(5, 1000, frozenset())) for queue in reversed(queues)])
        assert [ids(batch) for batch in batches] == [[draft.id] for draft in reversed(drafts)]

    def test_nothing_asked_nothing_given(self, store: AdvancingStore) -> None:
        assert store.read([]) == []
        assert store.append([], {}) == []
        assert store.ack({}) == {}
        assert store.waiting([]) == set()

    def test_unknown_queue_is_empty_and_stays_unknown(self, store: AdvancingStore) -> None:
        assert get(store, "nobody") == Batch((), more=False)
        assert store.waiting(["nobody"]) == set()
        assert store.losses(["nobody"]) == {}
        assert store.ack({"nobody": [1]}) == {}
        assert store.stat("nobody").messages == 0
        assert store.describe(["nobody"]) == {}

    def test_waiting_does_not_need_ensure(self, store: AdvancingStore) -> None:
        put(store, make_draft("user.1"))
        assert store.waiting(["user.1", "user.2"]) == {"user.1"}

    def test_queue_names_are_exact(self, store: AdvancingStore) -> None:
        put(store, make_draft("user.a"))
        assert store.waiting(["user.A"]) == set()
        store.ensure(["user.a", "user.A"])
        assert store.describe(["user.a", "user.A"]) == {"user.a": "", "user.A": ""}


class KeyContract:
    def test_a_key_is_used_once(self, store: AdvancingStore) -> None:
        first, second = make_draft(key="k"), make_draft(key="k")
        put(store, first)
        (answer,) = put(store, second)
        assert (answer.outcome, answer.id, answer.position) == (Outcome.DUPLICATE, first.id, None)
        assert ids(get(store)) == [first.id]

    def test_a_key_is_used_once_within_one_append(self, store: AdvancingStore) -> None:
        first, other, second = make_draft(key="k"), make_draft(key="K"), make_draft(key="k")
        answers = put(store, first, other, second)
        assert [a.outcome for a in answers] == [Outcome.QUEUED, Outcome.QUEUED, Outcome.DUPLICATE]
        assert answers[2].id == first.id
        assert ids(get(store)) == [first.id, other.id]

    def test_a_key_belongs_to_its_queue(self, store: AdvancingStore) -> None:
        answers = put(store, make_draft("user.1", key="k"), make_draft("user.2", key="k"))
        assert [a.outcome for a in answers] == [Outcome.QUEUED] * 2

    def test_a_key_outlives_its_message(self, store: AdvancingStore) -> None:
        (first,) = put(store, make_draft(key="k"))
        assert first.position is not None
        store.ack({"user.1": [first.position]})
        assert put(store, make_draft(key="k"))[0].outcome is Outcome.DUPLICATE

    def test_a_key_runs_out_with_its_time_to_live(self, store: AdvancingStore) -> None:
        put(store, make_draft(key="k", ttl=10))
        store.advance(9)
        assert put(store, make_draft(key="k", ttl=10))[0].outcome is Outcome.DUPLICATE
        store.advance(1)
        again = make_draft(key="k", ttl=10)
        assert put(store, again)[0].outcome is Outcome.QUEUED
        (answer,) = put(store, make_draft(key="k"))
        assert (answer.outcome, answer.id) == (Outcome.DUPLICATE, again.id)

    def test_a_dropped_message_gives_its_key_back(self, store: AdvancingStore) -> None:
        full = make_policy(max_messages=1)
        put(store, make_draft(priority=HIGH), policy=full)
        assert put(store, make_draft(key="k"), policy=full)[0].outcome is Outcome.DROPPED
        assert put(store, make_draft(key="k"))[0].outcome is Outcome.QUEUED

    def test_a_duplicate_of_a_message_dropped_by_the_same_append_is_dropped(self, store: AdvancingStore) -> None:
        full = make_policy(max_messages=1)
        put(store, make_draft(priority=HIGH), policy=full)
        drafts = [make_draft(key="k"), make_draft(key="k")]
        answers = put(store, *drafts, policy=full)
        assert [(a.id, a.outcome) for a in answers] == [(draft.id, Outcome.DROPPED) for draft in drafts]
        assert put(store, make_draft(key="k"))[0].outcome is Outcome.QUEUED

    def test_a_rejected_message_gives_its_key_back(self, store: AdvancingStore) -> None:
        full = make_policy(max_messages=1, overflow=Overflow.REJECT)
        put(store, make_draft(), policy=full)
        with pytest.raises(QueueFull):
            put(store, make_draft(key="k"), policy=full)
        assert put(store, make_draft(key="k"))[0].outcome is Outcome.QUEUED


class OverflowContract:
    def lost(self, store: AdvancingStore) -> dict[tuple[LossReason, Priority], int]:
        found = store.losses(["user.1"])
        return dict(found["user.1"].counts) if found else {}

    def test_drop_oldest(self, store: AdvancingStore) -> None:
        sent = [make_draft() for _ in range(5)]
        for draft in sent:
            (answer,) = put(store, draft, policy=make_policy(max_messages=3))
            assert answer.outcome is Outcome.QUEUED
        assert ids(get(store)) == [draft.id for draft in sent[2:]]
        assert self.lost(store) == {(LossReason.DROPPED, NORMAL): 2}

    def test_drop_newest(self, store: AdvancingStore) -> None:
        policy = make_policy(max_messages=3, overflow=Overflow.DROP_NEWEST)
        sent = [make_draft() for _ in range(5)]
        outcomes = [put(store, draft, policy=policy)[0].outcome for draft in sent]
        assert outcomes == [Outcome.QUEUED] * 3 + [Outcome.DROPPED] * 2
        assert ids(get(store)) == [draft.id for draft in sent[:3]]
        assert self.lost(store) == {(LossReason.DROPPED, NORMAL): 2}

    @pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
    def test_the_least_urgent_goes_first(self, store: AdvancingStore, overflow: Overflow) -> None:
        policy = make_policy(max_messages=3, overflow=overflow)
        low, normal, high = (make_draft(priority=p) for p in (LOW, NORMAL, HIGH))
        put(store, high, normal, low, policy=policy)
        critical = make_draft(priority=CRITICAL)
        assert put(store, critical, policy=policy)[0].outcome is Outcome.QUEUED
        assert ids(get(store)) == [critical.id, high.id, normal.id]
        assert self.lost(store) == {(LossReason.DROPPED, LOW): 1}

    @pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
    def test_a_less_urgent_newcomer_goes_itself(self, store: AdvancingStore, overflow: Overflow) -> None:
        policy = make_policy(max_messages=1, overflow=overflow)
        urgent = make_draft(priority=HIGH)
        put(store, urgent, policy=policy)
        (answer,) = put(store, make_draft(priority=LOW), policy=policy)
        assert (answer.outcome, answer.position) == (Outcome.DROPPED, None)
        assert ids(get(store)) == [urgent.id]
        assert self.lost(store) == {(LossReason.DROPPED, LOW): 1}

    def test_reject_accepts_none_of_the_drafts(self, store: AdvancingStore) -> None:
        reject = make_policy(max_messages=2, overflow=Overflow.REJECT)
        kept = make_draft("user.1")
        put(store, kept, policy=reject)
        drafts = [make_draft("user.2"), make_draft("user.1"), make_draft("user.1")]
        with pytest.raises(QueueFull) as caught:
            store.append(drafts, {"user.1": reject, "user.2": make_policy()})
        assert (caught.value.queue, caught.value.messages, caught.value.limit_messages) == ("user.1", 3, 2)
        assert ids(get(store, "user.1")) == [kept.id]
        assert ids(get(store, "user.2")) == []
        assert self.lost(store) == {}

    def test_bytes_are_limited_too(self, store: AdvancingStore) -> None:
        text = '"' + "ü" * 49 + '"'  # 100 bytes
        sent = [make_draft(text=text) for _ in range(4)]
        put(store, *sent, policy=make_policy(max_bytes=250))
        assert ids(get(store)) == [draft.id for draft in sent[2:]]
        assert store.stat("user.1").size == 200

    @pytest.mark.parametrize("overflow", Overflow)
    def test_what_is_too_large_is_dropped_and_nothing_else(self, store: AdvancingStore, overflow: Overflow) -> None:
        policy = make_policy(max_bytes=100, max_message_bytes=50, overflow=overflow)
        kept = [make_draft(text='"' + "x" * 38 + '"', priority=LOW) for _ in range(2)]
        put(store, *kept, policy=policy)
        huge, fitting = make_draft(text='"' + "x" * 49 + '"', priority=HIGH, key="k"), make_draft(text="1")
        answers = put(store, huge, fitting, policy=policy)
        assert [(a.id, a.outcome) for a in answers] == [(huge.id, Outcome.DROPPED), (fitting.id, Outcome.QUEUED)]
        assert ids(get(store)) == [fitting.id, *(draft.id for draft in kept)]
        assert self.lost(store) == {(LossReason.DROPPED, HIGH): 1}
        assert put(store, make_draft(text="2", key="k"), policy=policy)[0].outcome is Outcome.QUEUED

    def test_what_is_too_large_is_not_counted_when_all_is_rejected(self, store: AdvancingStore) -> None:
        reject = make_policy(max_messages=1, max_message_bytes=50, overflow=Overflow.REJECT)
        with pytest.raises(QueueFull):
            put(store, make_draft(text='"' + "x" * 49 + '"'), make_draft(), make_draft(), policy=reject)
        assert self.lost(store) == {}

    def test_expired_messages_make_room_first(self, store: AdvancingStore) -> None:
        policy = make_policy(max_messages=2, overflow=Overflow.REJECT)
        put(store, make_draft(ttl=10), make_draft(ttl=10, priority=LOW), policy=policy)
        store.advance(10)
        assert put(store, make_draft(), policy=policy)[0].outcome is Outcome.QUEUED
        assert self.lost(store) == {(LossReason.EXPIRED, NORMAL): 1, (LossReason.EXPIRED, LOW): 1}

    def test_far_over_the_limit_at_once(self, store: AdvancingStore) -> None:
        sent = [make_draft(priority=Priority(n % 4)) for n in range(1200)]
        put(store, *sent, policy=make_policy(max_messages=5))
        assert ids(get(store)) == [draft.id for draft in sent if draft.priority is CRITICAL][-5:]
        assert sum(self.lost(store).values()) == 1195


class AckContract:
    def test_ack_removes_and_may_be_repeated(self, store: AdvancingStore) -> None:
        a, b = put(store, make_draft(), make_draft())
        assert a.position is not None
        for _ in range(2):
            assert store.ack({"user.1": [a.position]}) == {}
            assert ids(get(store)) == [b.id]
        assert store.losses(["user.1"]) == {}

    def test_ack_touches_its_own_queue_only(self, store: AdvancingStore) -> None:
        mine, yours = put(store, make_draft("user.1"), make_draft("user.2"))
        assert mine.position is not None
        assert yours.position is not None
        assert store.ack({"user.1": [mine.position, yours.position]}) == {}
        assert ids(get(store, "user.1")) == []
        assert ids(get(store, "user.2")) == [yours.id]

    def test_acks_of_two_queues_at_once_do_not_mix(self, store: AdvancingStore) -> None:
        mine, yours = put(store, make_draft("user.1"), make_draft("user.2"))
        assert mine.position is not None
        assert yours.position is not None
        store.ack({"user.1": [yours.position], "user.2": [mine.position]})
        assert ids(get(store, "user.1")) == [mine.id]
        assert ids(get(store, "user.2")) == [yours.id]

    def test_many_at_once(self, store: AdvancingStore) -> None:
        appended = put(store, *(make_draft() for _ in range(600)))
        assert store.ack({"user.1": [a.position for a in appended if a.position is not None]}) == {}
        assert ids(get(store)) == []


class MessageContract(ReadContract, KeyContract, OverflowContract, AckContract):
    """Everything about messages."""
