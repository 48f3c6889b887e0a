"""What every store promises about collapse keys, tracked messages, signals, and messages that nobody acks in time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.dispatch import Signal
from django.test import override_settings

from netra_queue import signals
from netra_queue.core.actions import ReadRequest
from netra_queue.core.message import Fate, LossReason, Outcome, Priority
from netra_queue.core.policy import Overflow
from netra_queue.core.tracking import EndedMessage, MessageState, MessageStatus, UndeliveredMessage
from netra_queue.core.wire import bytes_payload
from netra_queue.exceptions import QueueFull
from netra_queue.stores.base import Returned
from tests.making import AdvancingStore, Oops, get, ids, make_draft, make_policy, make_presence, put

CRITICAL, HIGH, NORMAL, LOW = Priority
DAY = 86_400
LINES = ["user.1/phone", "user.1/tab"]
WATCHING = make_policy(undelivered={CRITICAL: 600.0})


def attach(store: AdvancingStore, *queues: str) -> None:
    for queue in queues:
        store.attach(make_presence(queue), make_policy())


def superseded(store: AdvancingStore, queue: str = "user.1") -> int:
    return store.stat(queue).superseded


def ack(store: AdvancingStore, queue: str = "user.1") -> None:
    """Read everything, and ack it."""
    assert store.ack({queue: [message.position for message in get(store, queue).messages]}) == {}


def status(store: AdvancingStore, id: str) -> MessageStatus | None:
    found = store.tracked([id]).get(id)
    return None if found is None else found.status(store.now())


def state(store: AdvancingStore, id: str) -> str | None:
    found = status(store, id)
    return None if found is None else found.state.value


class CollapseContract:
    def test_a_newer_one_takes_the_place_of_the_waiting_one(self, store: AdvancingStore) -> None:
        old, other, new = make_draft(collapse="k"), make_draft(), make_draft(collapse="k")
        for draft in (old, other, new):
            assert put(store, draft)[0].outcome is Outcome.QUEUED
        assert ids(get(store)) == [other.id, new.id]
        assert superseded(store) == 1
        assert store.losses(["user.1"]) == {}

    def test_the_newer_ones_priority_and_time_to_live_count(self, store: AdvancingStore) -> None:
        put(store, make_draft(collapse="k", priority=HIGH, ttl=10), make_draft())
        new = make_draft(collapse="k", priority=LOW, ttl=100)
        put(store, new)
        store.advance(20)
        assert ids(get(store))[-1] == new.id
        assert len(get(store).messages) == 2

    def test_keys_and_queues_are_apart(self, store: AdvancingStore) -> None:
        drafts = [make_draft(collapse="k"), make_draft(collapse="K"), make_draft("user.2", collapse="k"), make_draft()]
        put(store, *drafts)
        assert [len(get(store, queue).messages) for queue in ("user.1", "user.2")] == [3, 1]

    def test_of_two_in_one_call_the_later_one_stays(self, store: AdvancingStore) -> None:
        first, second, other = (make_draft(collapse=key) for key in ("k", "k", "other"))
        answers = put(store, first, second, other)
        assert [answer.outcome for answer in answers] == [Outcome.SUPERSEDED, Outcome.QUEUED, Outcome.QUEUED]
        assert superseded(store) == 1
        third = make_draft(collapse="k")
        put(store, third)
        assert ids(get(store)) == [other.id, third.id]
        assert superseded(store) == 2

    def test_what_was_transmitted_is_left_alone(self, store: AdvancingStore) -> None:
        sent, waiting, new = (make_draft(collapse="k") for _ in range(3))
        put(store, sent)
        assert ids(get(store)) == [sent.id]
        put(store, waiting)
        put(store, new)
        assert ids(get(store)) == [sent.id, new.id]
        assert superseded(store) == 1

    def test_what_was_acked_or_has_expired_is_not_superseded(self, store: AdvancingStore) -> None:
        put(store, make_draft(collapse="k"))
        ack(store)
        put(store, make_draft(collapse="k", ttl=10))
        store.advance(10)
        last = make_draft(collapse="k")
        put(store, last)
        assert ids(get(store)) == [last.id]
        store.sweep(10)
        assert superseded(store) == 0
        assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 1

    def test_what_waits_for_one_that_travels_alone_is_not_transmitted(self, store: AdvancingStore) -> None:
        before, suspect, behind, newer = make_draft(), make_draft(), *(make_draft(collapse="k") for _ in range(2))
        for draft in (before, suspect, behind._replace(track=True)):
            put(store, draft)
        position = get(store, limit=2).messages[1].position
        policy = make_policy(max_deliveries=4)
        store.returned([Returned("user.1", (position,), False, policy)] * 2)
        batch = get(store, alone_from=policy.alone_from)
        assert (ids(batch), batch.more) == ([before.id], True)
        batch = get(store, alone_from=policy.alone_from, without=[batch.messages[0].position])
        assert (ids(batch), batch.more) == ([suspect.id], True)
        assert state(store, behind.id) == "queued"
        put(store, newer)
        assert ids(get(store)) == [before.id, suspect.id, newer.id]

    def test_in_each_line(self, store: AdvancingStore) -> None:
        attach(store, *LINES)
        old, new = make_draft(collapse="k"), make_draft(collapse="k")
        put(store, old)
        assert ids(get(store, LINES[0])) == [old.id]  # the phone was sent it, the tab was not
        put(store, new)
        assert [ids(get(store, line)) for line in LINES] == [[old.id, new.id], [new.id]]
        assert [superseded(store, line) for line in LINES] == [0, 1]

    def test_a_line_and_its_queue_in_one_call(self, store: AdvancingStore) -> None:
        attach(store, *LINES)
        to_all, to_phone = make_draft("user.1", collapse="k"), make_draft(LINES[0], collapse="k")
        put(store, to_all)
        put(store, to_phone)
        assert [ids(get(store, line)) for line in LINES] == [[to_phone.id], [to_all.id]]

    def test_it_goes_on_after_a_line_took_over(self, store: AdvancingStore) -> None:
        old, new = make_draft(collapse="k"), make_draft(collapse="k")
        put(store, make_draft(collapse="k"))
        put(store, old)
        attach(store, LINES[0])
        put(store, new)
        assert ids(get(store, LINES[0])) == [new.id]
        assert (superseded(store, LINES[0]), superseded(store)) == (2, 0)

    def test_a_line_that_has_one_itself_keeps_the_newer(self, store: AdvancingStore) -> None:
        put(store, make_draft(LINES[0], collapse="k"))
        newer = make_draft("user.1", collapse="k")
        put(store, newer)
        attach(store, LINES[0])
        assert superseded(store, LINES[0]) == 1
        last = make_draft("user.1", collapse="k")
        assert ids(get(store, LINES[0], limit=1)) == [newer.id]
        put(store, last)
        assert ids(get(store, LINES[0])) == [newer.id, last.id]

    def test_it_goes_on_after_the_only_line_was_forgotten(self, store: AdvancingStore) -> None:
        attach(store, LINES[0])
        put(store, make_draft(collapse="k"))
        store.forget_line(LINES[0], make_policy())
        new = make_draft(collapse="k")
        put(store, new)
        assert ids(get(store)) == [new.id]

    def test_a_full_queue_has_room_for_a_newer_one(self, store: AdvancingStore) -> None:
        for overflow in Overflow:
            policy = make_policy(max_messages=1, overflow=overflow)
            new = make_draft(collapse="k")
            assert put(store, new, policy=policy)[0].outcome is Outcome.QUEUED
            assert ids(get(store, limit=0)) == []
        assert store.stat("user.1").messages == 1
        assert superseded(store) == 2
        assert store.losses(["user.1"]) == {}

    def test_a_refused_one_supersedes_nothing(self, store: AdvancingStore) -> None:
        reject = make_policy(max_messages=1, overflow=Overflow.REJECT)
        old = make_draft(collapse="k")
        put(store, old, policy=reject)
        with pytest.raises(QueueFull):
            put(store, make_draft(collapse="k"), make_draft(), policy=reject)
        assert ids(get(store)) == [old.id]
        assert superseded(store) == 0

    def test_a_duplicate_supersedes_nothing(self, store: AdvancingStore) -> None:
        put(store, make_draft(key="first", collapse="k"))
        newest = make_draft(collapse="k")
        put(store, newest)
        (again,) = put(store, make_draft(key="first", collapse="k"))
        assert again.outcome is Outcome.DUPLICATE
        assert ids(get(store)) == [newest.id]

    def test_a_key_outlives_a_message_that_was_superseded_at_once(self, store: AdvancingStore) -> None:
        first, second = make_draft(key="a", collapse="k"), make_draft(key="b", collapse="k")
        put(store, first, second)
        assert put(store, make_draft(key="a", collapse="k"))[0].outcome is Outcome.DUPLICATE
        assert ids(get(store)) == [second.id]

    def test_slots_run_out_with_their_messages(self, store: AdvancingStore) -> None:
        put(store, make_draft(collapse="short", ttl=10), make_draft(collapse="long", ttl=20))
        store.advance(10)
        assert store.due(10).keys == 1
        assert [store.forget_keys(1), store.forget_keys(1)] == [1, 0]
        new = make_draft(collapse="long", ttl=20)
        put(store, new)
        assert ids(get(store)) == [new.id]

    def test_the_overview_counts_them(self, store: AdvancingStore) -> None:
        put(store, make_draft(collapse="k"))
        put(store, make_draft(collapse="k"), make_draft("user.2"))
        store.ensure(["user.1", "user.2"])
        assert {s.queue: s.superseded for s in store.overview(5, 100).largest} == {"user.1": 1, "user.2": 0}


class TrackingContract:
    def test_queued_delivered_acked(self, store: AdvancingStore) -> None:
        draft = make_draft(track=True)
        put(store, draft)
        before = status(store, draft.id)
        assert before is not None
        assert (before.state, before.delivered_at, before.ended_at) == (MessageState.QUEUED, None, None)
        store.advance(5)
        get(store)
        delivered = status(store, draft.id)
        assert delivered is not None
        assert delivered.delivered_at is not None
        assert (delivered.state, delivered.sent_at) == (MessageState.DELIVERED, before.sent_at)
        assert 5 <= (delivered.delivered_at - before.sent_at).total_seconds() < 10
        store.advance(5)
        ack(store)
        acked = status(store, draft.id)
        assert acked is not None
        assert acked.ended_at is not None
        assert (acked.state, acked.delivered_at) == (MessageState.ACKED, delivered.delivered_at)
        assert acked.has_ended
        assert 10 <= (acked.ended_at - before.sent_at).total_seconds() < 20

    def test_what_is_not_tracked_is_not_kept(self, store: AdvancingStore) -> None:
        draft = make_draft()
        put(store, draft)
        ack(store)
        assert store.tracked([draft.id, "nobody"]) == store.tracked([]) == {}

    def test_expired(self, store: AdvancingStore) -> None:
        draft = make_draft(track=True, ttl=10)
        put(store, draft)
        store.advance(10)
        unswept = status(store, draft.id)
        assert unswept is not None
        assert unswept.ended_at is not None
        assert unswept.state is MessageState.EXPIRED
        store.sweep(10)
        assert state(store, draft.id) == "expired"

    def test_dropped_by_the_limit_of_its_own_send(self, store: AdvancingStore) -> None:
        full = make_policy(max_messages=1)
        put(store, make_draft(priority=HIGH), policy=full)
        draft = make_draft(track=True)
        assert put(store, draft, policy=full)[0].outcome is Outcome.DROPPED
        assert state(store, draft.id) == "dropped"

    def test_dropped_later(self, store: AdvancingStore) -> None:
        draft = make_draft(track=True)
        put(store, draft)
        get(store)
        store.purge("user.1", 10)
        assert state(store, draft.id) == "dropped"

    def test_superseded(self, store: AdvancingStore) -> None:
        drafts = [make_draft(track=True, collapse="k") for _ in range(3)]
        put(store, drafts[0])
        put(store, *drafts[1:])
        assert [state(store, draft.id) for draft in drafts] == ["superseded", "superseded", "queued"]

    def test_one_line_is_enough_to_be_acked(self, store: AdvancingStore) -> None:
        attach(store, *LINES)
        draft = make_draft(track=True)
        put(store, draft)
        ack(store, LINES[1])
        assert state(store, draft.id) == "acked"
        first = status(store, draft.id)
        store.advance(5)
        ack(store, LINES[0])
        assert status(store, draft.id) == first, "the first ack counts"

    def test_it_ends_with_its_last_copy(self, store: AdvancingStore) -> None:
        attach(store, *LINES)
        lost, kept = make_draft(track=True), make_draft(track=True)
        put(store, lost, kept)
        store.purge(LINES[0], 10)
        assert [state(store, draft.id) for draft in (lost, kept)] == ["queued", "queued"]
        store.ack({LINES[1]: [m.position for m in get(store, LINES[1]).messages if m.id == kept.id]})
        store.purge(LINES[1], 10)
        assert [state(store, draft.id) for draft in (lost, kept)] == ["dropped", "acked"]

    def test_an_ack_after_another_lines_loss_counts(self, store: AdvancingStore) -> None:
        attach(store, *LINES)
        draft = make_draft(track=True)
        put(store, draft)
        ack(store, LINES[0])
        store.purge(LINES[1], 10)
        assert state(store, draft.id) == "acked"

    def test_a_refused_one_is_not_tracked(self, store: AdvancingStore) -> None:
        reject = make_policy(max_messages=1, overflow=Overflow.REJECT)
        drafts = [make_draft(track=True), make_draft(track=True)]
        with pytest.raises(QueueFull):
            put(store, *drafts, policy=reject)
        assert store.tracked([draft.id for draft in drafts]) == {}

    def test_a_duplicate_is_not_tracked(self, store: AdvancingStore) -> None:
        first, second = make_draft(track=True, key="k"), make_draft(track=True, key="k")
        put(store, first)
        put(store, second)
        assert set(store.tracked([first.id, second.id])) == {first.id}

    def test_it_is_kept_for_the_policys_time_after_its_end(self, store: AdvancingStore) -> None:
        acked, expired = make_draft(track=True), make_draft(track=True, ttl=50)
        put(store, acked, policy=make_policy(track_seconds=100))
        ack(store)
        store.advance(40)
        put(store, expired, policy=make_policy(track_seconds=100))
        store.advance(59)
        assert store.forget_keys(10) == store.due(10).keys == 0
        assert [state(store, draft.id) for draft in (acked, expired)] == ["acked", "expired"]
        store.advance(1)
        assert store.due(10).keys == 1
        assert store.forget_keys(10) == 1
        assert [state(store, draft.id) for draft in (acked, expired)] == [None, "expired"]
        store.sweep(10)
        store.advance(99)
        assert store.forget_keys(10) == 0
        store.advance(1)
        assert store.forget_keys(10) == 1

    def test_forgetting_is_bounded_over_all_kinds(self, store: AdvancingStore) -> None:
        drafts = [make_draft(key=str(n), collapse=str(n), track=True, ttl=10) for n in range(2)]
        put(store, *drafts, policy=make_policy(track_seconds=1))
        store.advance(20)
        assert store.due(4).keys == 4
        assert [store.forget_keys(4) for _ in range(3)] == [4, 2, 0]

    def test_it_survives_a_takeover(self, store: AdvancingStore) -> None:
        draft = make_draft(track=True)
        put(store, draft)
        attach(store, LINES[0])
        ack(store, LINES[0])
        assert state(store, draft.id) == "acked"


@contextmanager
def listening(signal: Signal) -> Iterator[list[dict[str, Any]]]:
    calls: list[dict[str, Any]] = []

    def listen(sender: object, **arguments: Any) -> None:
        calls.append(arguments)

    signal.connect(listen)
    try:
        yield calls
    finally:
        signal.disconnect(listen)

    def test_what_is_read_tentatively_is_not_delivered_before_it_is_said(self, store: AdvancingStore) -> None:
        plain, tracked, old, new = make_draft(), make_draft(track=True), *(make_draft(collapse="k") for _ in range(2))
        put(store, plain, tracked, old)
        batch = get(store, is_tentative=True)
        assert ids(batch) == [plain.id, tracked.id, old.id]
        positions = {message.id: message.position for message in batch.messages}
        assert batch.unnoted >= {positions[tracked.id], positions[old.id]}
        assert state(store, tracked.id) == "queued"
        put(store, new)
        assert store.transmit(batch.unnoted) == {positions[old.id]}, "it has been superseded meanwhile"
        assert store.transmit([]) == set()
        assert state(store, tracked.id) == "delivered"
        assert ids(get(store)) == [plain.id, tracked.id, new.id]

    def test_one_reader_may_be_certain_where_the_other_is_not(self, store: AdvancingStore) -> None:
        tracked = make_draft(track=True)
        put(store, tracked)
        requests = [ReadRequest(10, 1000, frozenset(), None, is_tentative) for is_tentative in (True, False)]
        assert [ids(batch) for batch in store.read([("user.1", request) for request in requests])] == [[tracked.id]] * 2
        assert state(store, tracked.id) == "delivered"


class SignalContract:
    def test_signal_acked(self, store: AdvancingStore) -> None:
        store.ensure(["user.1", "user.2"])
        drafts = [make_draft(), make_draft("user.2", priority=HIGH)]
        put(store, *drafts)
        positions = {queue: [m.position for m in get(store, queue).messages] for queue in ("user.1", "user.2")}
        with listening(signals.message_acked) as calls, listening(signals.message_dropped) as others:
            store.ack(positions)
            store.ack(positions)
        assert {message for call in calls for message in call["messages"]} == {
            EndedMessage(id=drafts[0].id, queue="user.1", client="", priority=NORMAL),
            EndedMessage(id=drafts[1].id, queue="user.2", client="", priority=HIGH),
        }
        assert sum(len(call["messages"]) for call in calls) == 2, "once each"
        assert ({call["reason"] for call in calls}, others) == ({None}, [])
        assert all(call["at"] <= store.now() for call in calls)

    def test_signal_of_a_line(self, store: AdvancingStore) -> None:
        attach(store, *LINES)
        draft = make_draft()
        put(store, draft)
        with listening(signals.message_acked) as calls:
            ack(store, LINES[0])
        (message,) = calls[0]["messages"]
        assert (message.id, message.queue, message.client) == (draft.id, "user.1", "phone")

    def test_signal_expired(self, store: AdvancingStore) -> None:
        store.ensure(["user.1"])
        draft = make_draft(ttl=10)
        put(store, draft, make_draft())
        store.advance(10)
        with listening(signals.message_expired) as calls, listening(signals.message_dropped) as others:
            store.sweep(10)
        assert [[m.id for m in call["messages"]] for call in calls] == [[draft.id]]
        assert (calls[0]["reason"], others) == (LossReason.EXPIRED, [])

    def test_signal_dropped(self, store: AdvancingStore) -> None:
        policy = make_policy(max_messages=1, max_message_bytes=100)
        drafts = [make_draft(), make_draft(), make_draft(text='"' + "x" * 100 + '"')]
        with listening(signals.message_dropped) as calls:
            put(store, *drafts, policy=policy)
            store.purge("user.1", 10)
        dropped = [message.id for call in calls for message in call["messages"]]
        assert sorted(dropped) == sorted(draft.id for draft in drafts)
        assert {call["reason"] for call in calls} == {LossReason.DROPPED}

    def test_signal_nothing_is_told_of_what_was_refused(self, store: AdvancingStore) -> None:
        reject = make_policy(max_messages=1, overflow=Overflow.REJECT)
        put(store, make_draft(ttl=10), policy=reject)
        store.advance(10)
        with listening(signals.message_expired) as calls, pytest.raises(QueueFull):
            put(store, make_draft(), make_draft(), policy=reject)
        assert calls == []

    def test_signal_a_receiver_that_raises_changes_nothing(self, store: AdvancingStore) -> None:
        put(store, make_draft())

        def fail(sender: object, **arguments: Any) -> None:
            raise Oops

        signals.message_acked.connect(fail)
        try:
            ack(store)
        finally:
            signals.message_acked.disconnect(fail)
        assert store.stat("user.1").messages == 0

    def test_signal_a_receiver_may_use_the_store(self, store: AdvancingStore) -> None:
        put(store, make_draft())
        follow_up = make_draft("user.2")

        def send(sender: object, **arguments: Any) -> None:
            put(store, follow_up)

        signals.message_acked.connect(send)
        try:
            ack(store)
        finally:
            signals.message_acked.disconnect(send)
        assert ids(get(store, "user.2")) == [follow_up.id]


Handed = list[tuple[UndeliveredMessage, ...]]


def hand_over(store: AdvancingStore, limit: int = 100, policy: str = "default") -> list[UndeliveredMessage]:
    calls: Handed = []
    count = store.hand_over(policy, limit, calls.append)
    messages = [message for call in calls for message in call]
    assert count == len(messages)
    return messages


class HandOverContract:
    def test_what_nobody_acked_in_time_is_handed_over_once(self, store: AdvancingStore) -> None:
        before = store.now()
        draft = make_draft(text='{"n": 1}', priority=CRITICAL)
        put(store, draft, make_draft(), policy=WATCHING)
        store.advance(590)
        assert (hand_over(store), store.due(10).undelivered) == ([], 0)
        store.advance(20)
        assert store.due(10).undelivered == 1
        (message,) = hand_over(store)
        assert (message.id, message.queue, message.priority) == (draft.id, "user.1", CRITICAL)
        assert message.data == {"n": 1}
        assert before <= message.sent_at <= store.now()
        assert (hand_over(store), store.due(10).undelivered) == ([], 0)
        assert draft.id in ids(get(store)), "it stays in its queue"
        ack(store)

    def test_an_ack_in_time_prevents_it(self, store: AdvancingStore) -> None:
        put(store, make_draft(priority=CRITICAL), policy=WATCHING)
        ack(store)
        store.advance(601)
        assert hand_over(store) == []

    def test_what_one_line_may_not_see_is_handed_over_for_the_other(self, store: AdvancingStore) -> None:
        attach(store, *LINES)
        (sent,) = put(store, make_draft(priority=CRITICAL), policy=WATCHING)
        store.withhold({LINES[0]: [message.position for message in get(store, LINES[0]).messages]})
        store.advance(601)
        assert [message.id for message in hand_over(store)] == [sent.id]
        (sent,) = put(store, make_draft(priority=CRITICAL), policy=WATCHING)
        for line in LINES:
            store.withhold({line: [message.position for message in get(store, line).messages]})
        store.advance(601)
        assert hand_over(store) == []

    def test_one_lines_ack_prevents_it(self, store: AdvancingStore) -> None:
        attach(store, *LINES)
        put(store, make_draft(priority=CRITICAL), policy=WATCHING)
        ack(store, LINES[1])
        store.advance(601)
        assert hand_over(store) == []
        assert len(get(store, LINES[0]).messages) == 1
        ack(store, LINES[0])

    def test_of_several_lines_it_is_handed_over_once(self, store: AdvancingStore) -> None:
        attach(store, *LINES)
        draft = make_draft(priority=CRITICAL)
        put(store, draft, policy=WATCHING)
        store.advance(601)
        assert [message.id for message in hand_over(store)] == [draft.id]
        assert [ids(get(store, line)) for line in LINES] == [[draft.id]] * 2

    def test_what_was_lost_is_handed_over_all_the_same(self, store: AdvancingStore) -> None:
        expired, purged, dropped = (make_draft(f"user.{n}", priority=CRITICAL, ttl=60) for n in range(3))
        put(store, expired, purged, policy=WATCHING)
        put(store, dropped, policy=WATCHING)
        store.purge("user.1", 10)
        full = make_policy(max_messages=1, undelivered=WATCHING.undelivered)
        put(store, make_draft("user.2", priority=CRITICAL, ttl=100_000), policy=full)
        store.advance(61)
        store.sweep(10)
        store.advance(540)
        handed = {message.id for message in hand_over(store)}
        assert {expired.id, purged.id, dropped.id} <= handed
        assert len(handed) == 4

    def test_what_was_superseded_is_not(self, store: AdvancingStore) -> None:
        newest = make_draft(priority=CRITICAL, collapse="k")
        put(store, make_draft(priority=CRITICAL, collapse="k"), policy=WATCHING)
        put(store, make_draft(priority=CRITICAL, collapse="k"), newest, policy=WATCHING)
        store.advance(601)
        assert [message.id for message in hand_over(store)] == [newest.id]

    def test_a_refused_or_duplicate_message_is_not_watched(self, store: AdvancingStore) -> None:
        reject = make_policy(max_messages=1, overflow=Overflow.REJECT, undelivered=WATCHING.undelivered)
        first = make_draft(priority=CRITICAL, key="k")
        put(store, first, policy=reject)
        put(store, make_draft(priority=CRITICAL, key="k"), policy=reject)
        with pytest.raises(QueueFull):
            put(store, make_draft(priority=CRITICAL), policy=reject)
        store.advance(601)
        assert [message.id for message in hand_over(store)] == [first.id]

    def test_an_error_leaves_them(self, store: AdvancingStore) -> None:
        drafts = [make_draft(priority=CRITICAL) for _ in range(3)]
        put(store, *drafts, policy=WATCHING)
        store.advance(601)

        def fail(messages: object) -> None:
            raise Oops

        with pytest.raises(Oops):
            store.hand_over("default", 10, fail)
        assert {message.id for message in hand_over(store)} == {draft.id for draft in drafts}

    def test_the_longest_due_come_first_in_bounded_batches(self, store: AdvancingStore) -> None:
        drafts = [make_draft(priority=CRITICAL) for _ in range(5)]
        for draft in drafts:
            put(store, draft, policy=WATCHING)
            store.advance(1)
        store.advance(601)
        batches = [{message.id for message in hand_over(store, 2)} for _ in range(4)]
        assert batches == [{d.id for d in drafts[:2]}, {d.id for d in drafts[2:4]}, {drafts[4].id}, set()]

    @override_settings(NETRA_QUEUE={"POLICIES": {"other": {}}})
    def test_each_policy_has_its_own(self, store: AdvancingStore) -> None:
        policies = [make_policy(name=name, undelivered={NORMAL: 1.0}) for name in ("default", "other", "gone")]
        drafts = [make_draft(f"user.{name}") for name in ("default", "other", "gone")]
        for draft, policy in zip(drafts, policies, strict=True):
            put(store, draft, policy=policy)
        store.advance(2)
        assert [message.id for message in hand_over(store, policy="other")] == [drafts[1].id]
        assert [message.id for message in hand_over(store)] == [drafts[0].id, drafts[2].id]

    def test_the_payload_comes_decoded(self, store: AdvancingStore) -> None:
        policy = make_policy(undelivered={NORMAL: 1.0})
        texts = ["[1, null]", "no JSON", '"ä"']
        put(store, *(make_draft(text=text) for text in texts), policy=policy)
        draft = make_draft()
        data = type(draft)(
            queue="user.1", id=draft.id, payload=bytes_payload(b"\x00\xff"), priority=NORMAL, ttl_seconds=9
        )
        put(store, data, policy=policy)
        store.advance(2)
        assert [message.data for message in hand_over(store)] == [[1, None], "no JSON", "ä", b"\x00\xff"]

    def test_its_time_counts_from_when_it_was_sent(self, store: AdvancingStore) -> None:
        sent_at = store.now()
        store.advance(595)
        put(store, make_draft(priority=CRITICAL, sent_at=sent_at), policy=WATCHING)
        store.advance(6)
        assert len(hand_over(store)) == 1

    def test_a_watched_message_reads_and_tracks_like_any_other(self, store: AdvancingStore) -> None:
        draft = make_draft(text='{"n": 1}', priority=CRITICAL, track=True)
        put(store, draft, policy=WATCHING)
        (message,) = get(store).messages
        assert message.payload == draft.payload
        store.advance(601)
        hand_over(store)
        assert state(store, draft.id) == "delivered"
        ack(store)
        assert state(store, draft.id) == "acked"


class ReceiptContract(CollapseContract, TrackingContract, SignalContract, HandOverContract):
    """Collapse keys, tracked messages, signals, handing over."""


def test_every_fate_is_a_state() -> None:
    assert {fate.value for fate in Fate} <= {known.value for known in MessageState}
