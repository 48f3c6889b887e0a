"""What every store promises about the lines of devices (netra_queue/stores/base.py)."""

from __future__ import annotations

import pytest

from netra_queue.core.message import LossReason, Outcome, Priority
from netra_queue.core.policy import Overflow
from netra_queue.exceptions import QueueFull, TooManyDevices
from tests.making import HERE, AdvancingStore, get, ids, make_draft, make_policy, make_presence, put

PHONE, TAB, PAD = "user.1/phone", "user.1/tab", "user.1/pad"
WEEK = 7 * 86_400


def come(store: AdvancingStore, *lines: str, stay: bool = True, **limits: object) -> None:
    """Clients of these lines come, and leave again unless they ``stay``."""
    store.heartbeat(HERE)
    for line in lines:
        presence = make_presence(line)
        store.attach(presence, make_policy(**limits))
        if not stay:
            store.detach([presence])


class LineContract:
    def test_what_is_sent_to_a_queue_reaches_every_line(self, store: AdvancingStore) -> None:
        come(store, PHONE)
        come(store, TAB, stay=False)
        draft = make_draft()
        (appended,) = put(store, draft)
        assert (appended.outcome, appended.lines) == (Outcome.QUEUED, (PHONE, TAB))
        for line in (PHONE, TAB):
            (message,) = get(store, line).messages
            assert (message.id, message.payload) == (draft.id, draft.payload)
        assert ids(get(store)) == []

    def test_each_line_has_its_own_acks(self, store: AdvancingStore) -> None:
        come(store, PHONE, TAB)
        put(store, make_draft(), make_draft())
        store.ack({PHONE: [message.position for message in get(store, PHONE).messages]})
        assert ids(get(store, PHONE)) == []
        assert len(get(store, TAB).messages) == 2

    def test_an_ack_does_not_reach_another_line(self, store: AdvancingStore) -> None:
        come(store, PHONE, TAB)
        put(store, make_draft())
        store.ack({TAB: [get(store, PHONE).messages[0].position]})
        assert len(get(store, PHONE).messages) == len(get(store, TAB).messages) == 1

    def test_clients_without_an_id_are_one_more_line(self, store: AdvancingStore) -> None:
        come(store, "user.1", PHONE, stay=False)
        (appended,) = put(store, make_draft())
        assert appended.lines == ("user.1", PHONE)

    def test_without_a_line_it_waits_for_the_first(self, store: AdvancingStore) -> None:
        sent = [make_draft(priority=priority) for priority in Priority]
        put(store, *reversed(sent))
        come(store, PHONE)
        come(store, TAB)
        assert ids(get(store, PHONE)) == [draft.id for draft in sent]
        assert ids(get(store, TAB)) == ids(get(store)) == []

    def test_what_was_lost_meanwhile_is_told_to_the_first(self, store: AdvancingStore) -> None:
        put(store, make_draft(), make_draft(), policy=make_policy(max_messages=1))
        opened = store.attach(make_presence(PHONE), make_policy())
        assert opened.losses.total(LossReason.DROPPED) == 1
        assert store.losses(["user.1", PHONE]).keys() == {PHONE}

    def test_a_line_takes_nothing_from_clients_without_an_id(self, store: AdvancingStore) -> None:
        come(store, "user.1", stay=False)
        put(store, make_draft())
        come(store, PHONE)
        assert len(get(store).messages) == 1
        assert ids(get(store, PHONE)) == []

    def test_what_came_late_is_taken_over_once(self, store: AdvancingStore) -> None:
        """A sender that knew of no line commits after one has appeared: here, none was in use when it was sent."""
        come(store, PHONE, TAB, stay=False)
        store.advance(WEEK + 1)
        put(store, make_draft())
        come(store, "user.2/other")
        policies = {line: make_policy(line_seconds=3 * WEEK) for line in (TAB, PHONE, "user.2/other")}
        assert store.take_over(policies) == {PHONE}
        assert store.take_over(policies) == set()
        assert len(get(store, PHONE).messages) == 1

    def test_a_line_out_of_use_gets_nothing(self, store: AdvancingStore) -> None:
        come(store, PHONE, stay=False)
        store.advance(WEEK - 10)
        come(store, TAB, stay=False)
        assert put(store, make_draft())[0].lines == (PHONE, TAB)
        store.advance(20)
        assert put(store, make_draft())[0].lines == (TAB,)
        store.advance(WEEK)
        assert put(store, make_draft())[0].lines == ("user.1",)

    def test_a_connected_line_is_in_use_however_long(self, store: AdvancingStore) -> None:
        come(store, PHONE)
        store.advance(3 * WEEK)
        assert put(store, make_draft())[0].lines == (PHONE,)
        assert store.expire_lines(10) == 0

    @pytest.mark.parametrize("ends", ["retire", "reap"])
    def test_a_line_stays_in_use_after_its_server_ends(self, store: AdvancingStore, ends: str) -> None:
        """From then on, and not from when its client came: an hour ago, or a month."""
        come(store, PHONE, TAB)
        store.advance(2 * WEEK)
        store.heartbeat(HERE)
        if ends == "retire":
            store.retire(HERE)
        else:
            store.advance(60)
            assert store.reap() == 2
        assert store.expire_lines(10) == 0
        assert put(store, make_draft())[0].lines == (PHONE, TAB)
        store.advance(WEEK + 1)
        assert store.expire_lines(10) == 2

    def test_a_collapse_key_of_one_that_is_gone_takes_nothing_from_another_line(self, store: AdvancingStore) -> None:
        first, second = make_draft(PHONE, collapse="progress"), make_draft(collapse="progress")
        put(store, first, second)
        store.ack({"user.1": [message.position for message in get(store).messages]})
        come(store, PHONE)
        assert ids(get(store, PHONE)) == [first.id]

    def test_expired_lines_lose_what_others_have(self, store: AdvancingStore) -> None:
        come(store, PHONE, stay=False)
        come(store, TAB)
        put(store, make_draft(ttl=3 * WEEK))
        store.advance(WEEK + 1)
        assert store.due(10).lines == 1
        assert store.expire_lines(10) == 1
        assert store.expire_lines(10) == store.due(10).lines == 0
        assert ids(get(store, PHONE)) == []
        assert store.losses([PHONE])[PHONE].total(LossReason.EXPIRED) == 1
        assert len(get(store, TAB).messages) == 1

    def test_the_last_line_leaves_its_messages_to_the_next(self, store: AdvancingStore) -> None:
        come(store, PHONE, stay=False)
        draft = make_draft(ttl=3 * WEEK)
        put(store, draft)
        store.advance(WEEK + 1)
        assert store.expire_lines(10) == 1
        come(store, TAB)
        assert ids(get(store, TAB)) == [draft.id]
        assert store.losses([PHONE, TAB]) == {}

    def test_expiry_goes_in_batches(self, store: AdvancingStore) -> None:
        come(store, *(f"user.{number}/phone" for number in range(5)), stay=False)
        store.advance(WEEK + 1)
        assert [store.expire_lines(2) for _ in range(3)] == [2, 2, 1]

    def test_each_policy_has_its_own_time(self, store: AdvancingStore, settings: object) -> None:
        settings.NETRA_QUEUE = {"POLICIES": {"short": {"LINE_SECONDS": 60}}}  # type: ignore[attr-defined]
        store.heartbeat(HERE)
        for line, policy in ((PHONE, "short"), ("user.2/phone", "default")):
            presence = make_presence(line, policy=policy)
            store.attach(presence, make_policy())
            store.detach([presence])
        store.advance(61)
        assert store.expire_lines(10) == 1
        assert store.lines("user.1") == []
        assert [line.name for line in store.lines("user.2")] == ["user.2/phone"]

    def test_forgetting_one_of_several(self, store: AdvancingStore) -> None:
        come(store, PHONE, TAB, stay=False)
        put(store, make_draft(), make_draft())
        assert store.forget_line(PHONE, make_policy()) == 2
        assert store.forget_line(PHONE, make_policy()) == 0
        assert [line.name for line in store.lines("user.1")] == [TAB]
        assert put(store, make_draft())[0].lines == (TAB,)
        assert store.losses([PHONE])[PHONE].total(LossReason.DROPPED) == 2

    def test_forgetting_what_is_not_there(self, store: AdvancingStore) -> None:
        assert store.forget_line(PHONE, make_policy()) == 0

    def test_the_queue_itself_is_no_device(self, store: AdvancingStore) -> None:
        come(store, "user.1", PHONE)
        assert store.forget_line("user.1", make_policy()) == 0
        assert put(store, make_draft())[0].lines == ("user.1", PHONE)

    def test_a_forgotten_line_that_is_connected_stays_forgotten(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)
        presence = make_presence(PHONE)
        store.attach(presence, make_policy())
        store.forget_line(PHONE, make_policy())
        store.detach([presence])
        assert store.lines("user.1") == []

    def test_a_forgotten_line_may_come_back(self, store: AdvancingStore) -> None:
        come(store, PHONE, TAB, stay=False)
        put(store, make_draft())
        store.forget_line(PHONE, make_policy())
        opened = store.attach(make_presence(PHONE), make_policy())
        assert opened.losses.total(LossReason.DROPPED) == 1
        assert put(store, make_draft())[0].lines == (PHONE, TAB)

    def test_the_lines_of_a_queue(self, store: AdvancingStore) -> None:
        before = store.now()
        come(store, PHONE, TAB, stay=False)
        store.advance(10)
        come(store, PAD)
        come(store, "user.1", "user.10/phone", "user.1.2/phone")
        found = store.lines("user.1")
        assert (found[0].name, found[0].is_connected) == (PAD, True)
        assert {line.name for line in found[1:]} == {PHONE, TAB}
        assert all(before <= line.seen_at <= store.now() for line in found)

    def test_one_too_many_takes_the_oldest_idle_one(self, store: AdvancingStore) -> None:
        for line in (PHONE, TAB):
            come(store, line, stay=False, max_lines=2)
            store.advance(1)
        put(store, make_draft())
        come(store, PAD, max_lines=2)
        assert [line.name for line in store.lines("user.1")] == [PAD, TAB]
        assert store.losses([PHONE])[PHONE].total(LossReason.DROPPED) == 1
        assert ids(get(store, PAD)) == [], "it was sent before this device came"

    def test_connected_ones_do_not_go(self, store: AdvancingStore) -> None:
        come(store, PHONE, TAB, max_lines=2)
        with pytest.raises(TooManyDevices, match=r"2 devices of user\.1 are connected"):
            come(store, PAD, max_lines=2)
        assert {line.name for line in store.lines("user.1")} == {PHONE, TAB}
        come(store, TAB, max_lines=2)

    def test_the_first_ack_takes_it_off_the_others(self, store: AdvancingStore) -> None:
        come(store, "user.1", PHONE, TAB, stay=False)
        draft, other = make_draft(deliver_first=True), make_draft()
        put(store, draft, other)
        store.ack({PHONE: [get(store, PHONE).messages[0].position]})
        for line in ("user.1", PHONE, TAB):
            assert ids(get(store, line)) == [other.id]
        assert store.losses(["user.1", PHONE, TAB]) == {}

    def test_a_key_counts_for_the_queue(self, store: AdvancingStore) -> None:
        first = make_draft(key="k")
        put(store, first)
        come(store, PHONE)
        come(store, TAB)
        (again,) = put(store, make_draft(key="k"))
        assert (again.outcome, again.id, again.lines) == (Outcome.DUPLICATE, first.id, ())

    def test_limits_hold_for_each_line(self, store: AdvancingStore) -> None:
        come(store, PHONE)
        policy = make_policy(max_messages=2)
        sent = [make_draft() for _ in range(2)]
        put(store, *sent, policy=policy)
        come(store, TAB)
        newcomer = make_draft()
        assert put(store, newcomer, policy=policy)[0].outcome is Outcome.QUEUED
        assert ids(get(store, PHONE)) == [sent[1].id, newcomer.id]
        assert ids(get(store, TAB)) == [newcomer.id]
        assert store.losses([PHONE])[PHONE].total(LossReason.DROPPED) == 1

    def test_what_one_line_has_no_room_for_is_queued_in_the_others(self, store: AdvancingStore) -> None:
        come(store, PHONE)
        policy = make_policy(max_messages=1, overflow=Overflow.DROP_NEWEST)
        put(store, make_draft(), policy=policy)
        come(store, TAB)
        (appended,) = put(store, make_draft(key="k"), policy=policy)
        assert (appended.outcome, appended.lines) == (Outcome.QUEUED, (TAB,))
        assert put(store, make_draft(key="k"), policy=policy)[0].outcome is Outcome.DUPLICATE

    def test_one_full_line_rejects_for_all(self, store: AdvancingStore) -> None:
        come(store, PHONE)
        policy = make_policy(max_messages=1, overflow=Overflow.REJECT)
        put(store, make_draft(), policy=policy)
        come(store, TAB)
        with pytest.raises(QueueFull, match=r"user\.1/phone"):
            put(store, make_draft(), policy=policy)
        assert ids(get(store, TAB)) == []

    def test_too_large_is_lost_in_each(self, store: AdvancingStore) -> None:
        come(store, PHONE, TAB)
        (appended,) = put(store, make_draft(text="x" * 50), policy=make_policy(max_message_bytes=10))
        assert appended.outcome is Outcome.DROPPED
        assert {line: of.total(LossReason.DROPPED) for line, of in store.losses([PHONE, TAB]).items()} == {
            PHONE: 1,
            TAB: 1,
        }

    def test_a_draft_for_a_line_goes_there_alone(self, store: AdvancingStore) -> None:
        come(store, PHONE, TAB)
        (appended,) = put(store, make_draft(PHONE))
        assert appended.lines == (PHONE,)
        assert ids(get(store, TAB)) == ids(get(store)) == []

    def test_the_policy_of_a_queue_is_that_of_its_last_line(self, store: AdvancingStore) -> None:
        store.attach(make_presence(PHONE, policy="narrow"), make_policy())
        assert store.describe(["user.1", PHONE]) == {"user.1": "narrow", PHONE: "narrow"}

    def test_an_idle_queue_with_a_line_in_use_stays(self, store: AdvancingStore) -> None:
        come(store, PHONE, stay=False)
        store.advance(20 * 86_400)
        come(store, PHONE, stay=False)
        store.advance(15 * 86_400)
        assert store.forget_idle(10) == 0
        store.advance(16 * 86_400)
        assert store.forget_idle(10) == 2

    def test_lines_that_expire_together_leave_each_message_once(self, store: AdvancingStore) -> None:
        come(store, PHONE, TAB, PAD, stay=False)
        shared, own = make_draft(ttl=3 * WEEK), make_draft(TAB, ttl=3 * WEEK)
        put(store, shared, own)
        store.ack({PAD: [get(store, PAD).messages[0].position]})
        store.advance(WEEK + 1)
        assert store.expire_lines(10) == 3
        come(store, "user.1/new")
        assert sorted(ids(get(store, "user.1/new"))) == sorted([shared.id, own.id])
        assert store.losses([PHONE, TAB, PAD, "user.1", "user.1/new"]) == {}

    def test_a_forgotten_line_that_is_connected_takes_nothing_over(self, store: AdvancingStore) -> None:
        come(store, PHONE)
        draft = make_draft()
        put(store, draft)
        store.forget_line(PHONE, make_policy())
        later = make_draft()
        put(store, later)
        assert store.take_over({PHONE: make_policy()}) == set()
        assert ids(get(store, PHONE)) == []
        come(store, TAB)
        assert ids(get(store, TAB)) == [draft.id, later.id]

    def test_a_queue_stays_known_while_a_line_of_it_is_connected(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)
        store.attach(make_presence(PHONE, policy="narrow"), make_policy())
        store.advance(31 * 86_400)
        assert store.forget_idle(10) == store.due(10).idle_queues == 0
        assert store.describe(["user.1", PHONE]) == {"user.1": "narrow", PHONE: "narrow"}

    def test_a_line_in_use_is_not_idle(self, store: AdvancingStore, settings: object) -> None:
        settings.NETRA_QUEUE = {"IDLE_QUEUE_SECONDS": 3600}  # type: ignore[attr-defined]
        come(store, PHONE, TAB, stay=False)
        store.advance(3601)
        assert store.forget_idle(10) == 0
        assert put(store, make_draft())[0].lines == (PHONE, TAB)

    def test_what_waits_for_lines_that_are_out_of_use_goes_to_the_next(self, store: AdvancingStore) -> None:
        """Whether upkeep has come by since then or not."""
        come(store, PHONE, TAB, stay=False)
        draft = make_draft(ttl=3 * WEEK)
        put(store, draft)
        store.advance(WEEK + 1)
        come(store, PAD)
        store.expire_lines(10)
        assert ids(get(store, PAD)) == [draft.id]
        assert store.losses([PHONE, TAB, PAD]) == {}

    def test_what_clients_without_an_id_left_is_not_given_again(self, store: AdvancingStore) -> None:
        come(store, "user.1", stay=False)
        come(store, PHONE)
        draft = make_draft(ttl=3 * WEEK)
        put(store, draft)
        store.ack({PHONE: [get(store, PHONE).messages[0].position]})
        store.advance(WEEK + 1)
        store.take_over({PHONE: make_policy()})
        assert ids(get(store, PHONE)) == []

    def test_the_last_device_leaves_nothing_to_clients_without_an_id(self, store: AdvancingStore) -> None:
        """They are one more line, and have had the same."""
        come(store, "user.1", PHONE)
        put(store, make_draft())
        store.ack({"user.1": [get(store).messages[0].position]})
        assert store.forget_line(PHONE, make_policy()) == 1
        assert ids(get(store)) == []

    def test_what_two_lines_leave_behind_still_collapses(self, store: AdvancingStore) -> None:
        come(store, PHONE, TAB, stay=False)
        put(store, make_draft(ttl=3 * WEEK, collapse="c"))
        store.advance(WEEK + 1)
        assert store.expire_lines(10) == 2
        newer = make_draft(collapse="c")
        put(store, newer)
        assert ids(get(store)) == [newer.id]
        assert store.stat("user.1").superseded == 1
