"""What every store promises about groups (netra_queue/stores/base.py)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from django.test import override_settings

from netra_queue.core.message import GroupDraft, LossReason, Outcome, Priority
from netra_queue.core.wire import text_payload
from netra_queue.stores.base import GroupAppended
from tests.making import HERE, THERE, AdvancingStore, get, ids, make_draft, make_policy, make_presence, put
from tests.waiting import together

HIGH, NORMAL = Priority.HIGH, Priority.NORMAL
DAY = 86_400
POLICIES = {
    "default": {"MAX_MESSAGES": 10, "MAX_MESSAGE_BYTES": 100, "TTL": 100, "LINE_SECONDS": 1000},
    "roomy": {"MAX_MESSAGES": 20, "MAX_MESSAGE_BYTES": 1000, "TTL": 200, "LINE_SECONDS": 2000},
    "strict": {"MAX_MESSAGES": 2, "OVERFLOW": "reject"},
    "newest": {"MAX_MESSAGES": 2, "OVERFLOW": "drop_newest"},
}


def group_draft(text: str = '{"g":1}', group: str = "room.1", **changes: Any) -> GroupDraft:
    return GroupDraft(group=group, id=make_draft().id, payload=text_payload(text), **{"priority": NORMAL, **changes})


def visit(store: AdvancingStore, line: str, policy: str = "default", *, stays: bool = False) -> None:
    """A client comes, and leaves."""
    presence = make_presence(line, policy=policy)
    store.heartbeat(presence.server)
    store.attach(presence, make_policy())
    if not stays:
        store.detach([presence])


def dropped(store: AdvancingStore, queue: str) -> int:
    found = store.losses([queue]).get(queue)
    return found.total(LossReason.DROPPED) if found else 0


class GroupContract:
    @pytest.fixture(autouse=True)
    def policies(self) -> Iterator[None]:
        with override_settings(NETRA_QUEUE={"POLICIES": POLICIES}):
            yield

    def test_who_is_subscribed_gets_it(self, store: AdvancingStore) -> None:
        assert store.subscribe(["user.1", "user.2"], "room.1") == 2
        store.subscribe(["user.3"], "room.2")
        draft = group_draft(priority=HIGH)
        assert store.group_append(draft) == GroupAppended(draft.id, Outcome.QUEUED, 2)
        for queue in ("user.1", "user.2"):
            (message,) = get(store, queue).messages
            assert (message.id, message.payload, message.priority) == (draft.id, draft.payload, HIGH)
        assert ids(get(store, "user.3")) == []
        assert store.waiting(["user.1", "user.2", "user.3"]) == {"user.1", "user.2"}

    def test_subscriptions_may_be_repeated_and_ended(self, store: AdvancingStore) -> None:
        assert [store.subscribe(["user.1"], "room.1") for _ in range(2)] == [1, 0]
        assert store.subscribe(["user.1", "user.2"], "room.1") == 1
        assert [store.unsubscribe(["user.1", "user.9"], "room.1") for _ in range(2)] == [1, 0]
        assert store.unsubscribe(["user.1"], "no.such") == 0
        assert store.group_append(group_draft()).recipients == 1
        assert ids(get(store, "user.1")) == []

    def test_members(self, store: AdvancingStore) -> None:
        names = [f"user.{n}" for n in range(1200)]
        assert store.subscribe(names, "room.1") == 1200
        store.ensure(names)
        assert sorted(store.members("room.1", 2000)) == sorted(names)
        assert len(store.members("room.1", 7)) == 7
        assert store.members("no.such", 10) == []

    def test_a_group_without_members(self, store: AdvancingStore) -> None:
        draft = group_draft(key="k")
        assert store.group_append(draft) == GroupAppended(draft.id, Outcome.QUEUED, 0)
        store.subscribe(["user.1"], "room.1")
        assert store.group_append(group_draft(key="k")).outcome is Outcome.DUPLICATE

    def test_group_names_are_exact_and_no_queues(self, store: AdvancingStore) -> None:
        store.subscribe(["user.1"], "room.a")
        store.subscribe(["user.2"], "room.A")
        store.ensure(["user.1", "user.2"])
        assert store.members("room.A", 10) == ["user.2"]
        assert store.group_append(group_draft(group="room.A")).recipients == 1
        assert get(store, "user.1").messages == get(store, "room.A").messages == ()

    def test_a_crowd(self, store: AdvancingStore) -> None:
        names = [f"user.{n}" for n in range(6100)]
        store.subscribe(names, "room.1")
        assert store.group_append(group_draft()).recipients == 6100
        assert store.waiting(names) == set(names)

    # --- keys --------------------------------------------------------------------------------------------------

    def test_a_key_is_used_once_in_a_group(self, store: AdvancingStore) -> None:
        store.subscribe(["user.1"], "room.1")
        store.subscribe(["user.1"], "room.2")
        first = group_draft(key="k")
        store.group_append(first)
        assert store.group_append(group_draft(key="k")) == GroupAppended(first.id, Outcome.DUPLICATE)
        assert store.group_append(group_draft(key="k", group="room.2")).outcome is Outcome.QUEUED
        assert put(store, make_draft(key="k"))[0].outcome is Outcome.QUEUED, "a queue's keys are its own"
        assert len(get(store).messages) == 3

    def test_a_key_lasts_as_long_as_the_longest_message(self, store: AdvancingStore) -> None:
        store.subscribe(["user.1"], "room.1")
        store.group_append(group_draft(key="k"))
        store.group_append(group_draft(key="short", ttl_seconds=50))
        store.advance(50)
        assert store.group_append(group_draft(key="short")).outcome is Outcome.QUEUED
        store.advance(149)
        assert store.group_append(group_draft(key="k")).outcome is Outcome.DUPLICATE
        store.advance(1)
        assert store.due(10).keys == 1
        assert store.forget_keys(10) == 1
        assert store.group_append(group_draft(key="k")).outcome is Outcome.QUEUED

    def test_one_key_from_many_threads_is_one_message(self, store: AdvancingStore) -> None:
        store.subscribe(["user.1"], "room.1")
        drafts = [group_draft(key="k") for _ in range(6)]
        answers = together(*(partial(store.group_append, draft) for draft in drafts))
        (first,) = [answer for answer in answers if answer.outcome is Outcome.QUEUED]
        assert {answer.id for answer in answers} == {first.id}
        assert ids(get(store)) == [first.id]

    # --- policies ----------------------------------------------------------------------------------------------

    def test_each_recipients_policy_says_how_long_it_lives(self, store: AdvancingStore) -> None:
        visit(store, "user.2", "roomy")
        visit(store, "user.3", "no such policy any more")
        queues = ["user.1", "user.2", "user.3"]
        store.subscribe(queues, "room.1")
        store.group_append(group_draft())
        store.advance(100)
        assert store.waiting(queues) == {"user.2"}
        store.advance(100)
        assert store.waiting(queues) == set()

    def test_an_explicit_time_to_live_holds_for_all(self, store: AdvancingStore) -> None:
        visit(store, "user.2", "roomy")
        store.subscribe(["user.1", "user.2"], "room.1")
        store.group_append(group_draft(ttl_seconds=150))
        store.advance(149)
        assert store.waiting(["user.1", "user.2"]) == {"user.1", "user.2"}
        store.advance(1)
        assert store.waiting(["user.1", "user.2"]) == set()

    @pytest.mark.parametrize("size", [100, 101, 1000, 1001])
    def test_too_large_for_some(self, store: AdvancingStore, size: int) -> None:
        visit(store, "user.2", "roomy")
        store.subscribe(["user.1", "user.2"], "room.1")
        answer = store.group_append(group_draft('"' + "x" * (size - 2) + '"', key="k"))
        has_it = store.waiting(["user.1", "user.2"])
        assert has_it == ({"user.1"} if size <= 100 else set()) | ({"user.2"} if size <= 1000 else set())
        assert answer.recipients == len(has_it)
        assert answer.outcome is (Outcome.QUEUED if has_it else Outcome.DROPPED)
        assert {queue for queue in ("user.1", "user.2") if dropped(store, queue)} == {"user.1", "user.2"} - has_it
        again = store.group_append(group_draft(key="k")).outcome
        assert again is (Outcome.DUPLICATE if has_it else Outcome.QUEUED), "what nobody got has used no key"

    def test_a_full_recipient_that_rejects_fails_nobody_else(self, store: AdvancingStore) -> None:
        visit(store, "user.1", "strict")
        kept = [make_draft() for _ in range(2)]
        put(store, *kept)
        store.subscribe(["user.1", "user.2"], "room.1")
        assert store.group_append(group_draft()).recipients == 1
        assert ids(get(store)) == [draft.id for draft in kept]
        assert (dropped(store, "user.1"), dropped(store, "user.2")) == (1, 0)
        assert len(get(store, "user.2").messages) == 1

    def test_where_all_are_full_it_is_dropped(self, store: AdvancingStore) -> None:
        visit(store, "user.1", "strict")
        put(store, make_draft(), make_draft())
        store.subscribe(["user.1"], "room.1")
        for _ in range(2):
            assert store.group_append(group_draft(key="k")).outcome is Outcome.DROPPED
        assert dropped(store, "user.1") == 2

    def test_recipients_that_are_full_lose_their_oldest_or_newest(self, store: AdvancingStore) -> None:
        visit(store, "user.2", "newest")
        old = {queue: [make_draft(queue) for _ in range(count)] for queue, count in (("user.1", 10), ("user.2", 2))}
        for drafts in old.values():
            put(store, *drafts)
        store.subscribe([*old, "user.3"], "room.1")
        draft = group_draft()
        assert store.group_append(draft).recipients == 2
        assert ids(get(store, "user.1")) == [*(d.id for d in old["user.1"][1:]), draft.id]
        assert ids(get(store, "user.2")) == [d.id for d in old["user.2"]]
        assert [dropped(store, queue) for queue in ("user.1", "user.2", "user.3")] == [1, 1, 0]

    def test_an_urgent_message_puts_out_a_less_urgent_one(self, store: AdvancingStore) -> None:
        visit(store, "user.2", "newest")
        drafts = [make_draft("user.2", priority=HIGH), make_draft("user.2", priority=Priority.LOW)]
        put(store, *drafts)
        store.subscribe(["user.2"], "room.1")
        draft = group_draft(priority=Priority.CRITICAL)
        assert store.group_append(draft).recipients == 1
        assert ids(get(store, "user.2")) == [draft.id, drafts[0].id]

    def test_expired_messages_make_room_first(self, store: AdvancingStore) -> None:
        visit(store, "user.1", "strict")
        put(store, make_draft(ttl=10), make_draft())
        store.subscribe(["user.1"], "room.1")
        store.advance(10)
        assert store.group_append(group_draft()).recipients == 1
        assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 1

    def test_far_over_the_limit(self, store: AdvancingStore) -> None:
        put(store, *(make_draft(priority=Priority(n % 4)) for n in range(60)))
        store.subscribe(["user.1"], "room.1")
        assert store.group_append(group_draft(priority=Priority.CRITICAL)).recipients == 1
        assert {message.priority for message in get(store).messages} == {Priority.CRITICAL}
        assert (len(get(store).messages), dropped(store, "user.1")) == (10, 51)

    # --- lines -------------------------------------------------------------------------------------------------

    def test_every_line_in_use_gets_it(self, store: AdvancingStore) -> None:
        visit(store, "user.1/phone")
        visit(store, "user.1/tab", stays=True)
        visit(store, "user.2")
        visit(store, "user.2/phone")
        lines = ["user.1", "user.1/phone", "user.1/tab", "user.2", "user.2/phone"]
        store.subscribe(["user.1", "user.2"], "room.1")
        assert store.group_append(group_draft()).recipients == 2, "a user's devices are one recipient"
        assert store.waiting(lines) == set(lines) - {"user.1"}
        (one,) = {tuple(ids(get(store, line))) for line in lines if line != "user.1"}
        assert len(one) == 1

    def test_lines_out_of_use_get_nothing(self, store: AdvancingStore) -> None:
        for queue, policy in (("user.1", "default"), ("user.2", "roomy")):
            visit(store, f"{queue}/old", policy)
            visit(store, queue, policy)
        visit(store, "user.1/tab", stays=True)
        store.subscribe(["user.1", "user.2"], "room.1")
        store.advance(1000)
        assert store.group_append(group_draft()).recipients == 2
        lines = ["user.1", "user.1/old", "user.1/tab", "user.2", "user.2/old"]
        assert store.waiting(lines) == {"user.1/tab", "user.2", "user.2/old"}, "the queue's policy says how long"
        store.advance(1000)
        store.group_append(group_draft())
        assert store.waiting(lines) == {"user.1/tab", "user.2"}, "without a line it waits in the queue itself"

    def test_a_recipient_is_reached_if_one_of_its_lines_keeps_it(self, store: AdvancingStore) -> None:
        visit(store, "user.1/full", "strict")
        visit(store, "user.1/free", "strict")
        put(store, make_draft("user.1/full"), make_draft("user.1/full"))
        store.subscribe(["user.1"], "room.1")
        assert store.group_append(group_draft()).recipients == 1
        assert dropped(store, "user.1/full") == 1
        put(store, make_draft("user.1/free"))
        answer = store.group_append(group_draft())
        assert (answer.outcome, answer.recipients) == (Outcome.DROPPED, 0)

    def test_it_waits_for_the_first_line_to_appear(self, store: AdvancingStore) -> None:
        store.subscribe(["user.1"], "room.1")
        draft = group_draft()
        store.group_append(draft)
        visit(store, "user.1/phone")
        assert ids(get(store, "user.1/phone")) == [draft.id]

    # --- what is left ------------------------------------------------------------------------------------------

    def test_an_ack_removes_it_from_one_line_only(self, store: AdvancingStore) -> None:
        store.subscribe(["user.1", "user.2"], "room.1")
        draft = group_draft()
        store.group_append(draft)
        store.ack({"user.1": [message.position for message in get(store).messages]})
        assert (ids(get(store)), ids(get(store, "user.2"))) == ([], [draft.id])

    def test_holders_are_those_of_members_and_their_lines(self, store: AdvancingStore) -> None:
        for server in (HERE, THERE):
            store.heartbeat(server)
        for line, server in (("user.1", HERE), ("user.2/tab", THERE), ("user.1", THERE), ("user.3", HERE)):
            store.attach(make_presence(line, server=server), make_policy())
        store.subscribe(["user.1", "user.2"], "room.1")
        store.subscribe(["user.3"], "room.2")
        assert store.group_holders(["room.1"]) == {HERE.id: ["user.1"], THERE.id: ["user.1", "user.2/tab"]}
        assert store.group_holders(["room.2", "no.such"]) == {HERE.id: ["user.3"]}
        store.advance(30)
        store.heartbeat(THERE)
        assert store.group_holders(["room.1"]).keys() == {THERE.id}, "the other server is dead"

    def test_a_forgotten_queue_stays_subscribed(self, store: AdvancingStore) -> None:
        visit(store, "user.1", "roomy")
        store.subscribe(["user.1"], "room.1")
        store.advance(31 * DAY)
        assert store.forget_idle(10) == 1
        assert len(store.members("room.1", 10)) == 1
        assert store.group_append(group_draft()).recipients == 1
        assert store.waiting(["user.1"]) == {"user.1"}

    def test_empty_groups_are_forgotten_and_may_come_again(self, store: AdvancingStore) -> None:
        store.subscribe(["user.1", "user.2"], "room.1")
        store.unsubscribe(["user.1"], "room.1")
        store.subscribe(["user.1"], "room.2")
        store.unsubscribe(["user.1"], "room.2")
        store.advance(31 * DAY)
        store.forget_idle(10)
        assert store.group_append(group_draft()).recipients == 1
        assert store.group_append(group_draft(group="room.2")).recipients == 0
        assert store.subscribe(["user.1"], "room.2") == 1
        assert store.group_append(group_draft(group="room.2")).recipients == 1

    def test_subscriptions_and_sends_at_once(self, store: AdvancingStore) -> None:
        """Every queue gets a run of the messages: from its subscription to its unsubscription, without a gap."""
        names = [f"user.{n}" for n in range(4)]
        with override_settings(NETRA_QUEUE={"POLICIES": {"default": {"MAX_MESSAGES": 1000}}}):

            def send() -> list[str]:
                drafts = [group_draft() for _ in range(30)]
                return [store.group_append(draft).id for draft in drafts]

            def come_and_go(name: str) -> None:
                assert store.subscribe([name], "room.1") == 1
                assert store.subscribe([name], "room.1") == 0
                assert store.unsubscribe([name], "room.1") == 1

            def stay(name: str) -> None:
                store.subscribe([name], "room.1")

            calls = [partial(come_and_go, names[0]), partial(come_and_go, names[1]), partial(stay, names[2])]
            sent: Any = together(send, *calls)[0]
        for name in names[:3]:
            got = ids(get(store, name))
            start = sent.index(got[0]) if got else 0
            assert got == sent[start : start + len(got)], "no gap"
        last = ids(get(store, names[2]))
        assert last == sent[len(sent) - len(last) :]
