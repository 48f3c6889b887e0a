"""What every store promises about what was not delivered: returned, withheld, left out, set aside."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import override_settings

from netra_queue.core.message import LossReason, Outcome, Priority
from netra_queue.core.policy import Overflow, Policy, Replay
from netra_queue.exceptions import MessageTooLarge, QueueFull
from netra_queue.stores.base import Returned
from tests.making import HERE, THERE, AdvancingStore, get, ids, make_draft, make_policy, make_presence, put

CRITICAL, HIGH, NORMAL, LOW = Priority
DAY = 86_400
FOUR = make_policy(max_deliveries=4)


def set_policy(**values: Any) -> Any:
    """The settings with this default policy."""
    return override_settings(NETRA_QUEUE={"POLICIES": {"default": values}})


SHORT = set_policy(TTL=100, DEAD_LETTER_SECONDS=DAY)


def places(store: AdvancingStore, *drafts: Any, policy: Policy | None = None) -> list[int]:
    found = [answer.position for answer in put(store, *drafts, policy=policy)]
    return [position for position in found if position is not None]


def back(store: AdvancingStore, *positions: int, alone: bool = False, policy: Policy = FOUR) -> int:
    return store.returned([Returned("user.1", positions, alone, policy)])


def deliveries(store: AdvancingStore, queue: str = "user.1") -> list[int]:
    return [message.deliveries for message in get(store, queue).messages]


def lost(store: AdvancingStore, queue: str = "user.1") -> dict[tuple[LossReason, Priority], int]:
    found = store.losses([queue])
    return dict(found[queue].counts) if found else {}


class ReturnedContract:
    def test_deliveries_are_counted(self, store: AdvancingStore) -> None:
        first, second, _ = places(store, *(make_draft() for _ in range(3)))
        assert back(store, first, second) == 0
        assert back(store, second) == 0
        assert deliveries(store) == [1, 2, 0]

    def test_in_company_none_gets_further_than_to_travel_alone(self, store: AdvancingStore) -> None:
        positions = places(store, *(make_draft() for _ in range(3)))
        for _ in range(9):
            assert back(store, *positions) == 0
        assert deliveries(store) == [2, 2, 2]

    def test_many_returns_at_once(self, store: AdvancingStore) -> None:
        mine = places(store, make_draft(), make_draft())
        (yours,) = places(store, make_draft("user.2"))
        returns = [
            Returned("user.1", tuple(mine), False, FOUR),
            Returned("user.1", tuple(mine[:1]), False, FOUR),
            Returned("user.2", (yours,), False, FOUR),
        ]
        assert store.returned(returns) == 0
        assert deliveries(store, "user.1") == [2, 1]
        assert deliveries(store, "user.2") == [1]

    def test_a_queue_counts_its_own_messages_only(self, store: AdvancingStore) -> None:
        (yours,) = places(store, make_draft("user.2"))
        back(store, yours, 10**9)
        assert deliveries(store, "user.2") == [0]
        assert store.returned([]) == 0

    def test_more_than_one_statement_takes(self, store: AdvancingStore) -> None:
        positions = places(store, *(make_draft() for _ in range(600)))
        back(store, *positions)
        assert set(deliveries(store)) == {1}

    def test_at_the_limit_it_is_set_aside_and_counted(self, store: AdvancingStore) -> None:
        before = store.now()
        store.ensure(["user.1"])
        draft, other = make_draft(priority=HIGH), make_draft()
        position, _ = places(store, draft, other)
        assert [back(store, position, alone=True) for _ in range(4)] == [0, 0, 0, 1]
        assert back(store, position, alone=True) == 0, "it is gone"
        assert ids(get(store)) == [other.id]
        assert lost(store) == {(LossReason.DEAD, HIGH): 1}
        (letter,) = store.letters(10)
        assert (letter.queue, letter.id) == ("user.1", draft.id)
        assert (letter.reason, letter.priority) == (LossReason.DEAD, HIGH)
        assert (letter.deliveries, letter.size) == (4, draft.payload.size)
        assert before <= letter.sent_at <= letter.died_at <= store.now()
        assert letter.keep_until == letter.died_at + timedelta(days=14)

    def test_the_limit_is_where_counting_ends(self, store: AdvancingStore) -> None:
        store.ensure(["user.1"])
        (position,) = places(store, make_draft())
        assert store.returned([Returned("user.1", (position,), True, FOUR)] * 9) == 1
        assert [letter.deliveries for letter in store.letters(9)] == [4]

    def test_a_lowered_limit_holds_for_what_has_been_delivered_more_often(self, store: AdvancingStore) -> None:
        (position,) = places(store, make_draft())
        for _ in range(10):
            back(store, position, alone=True, policy=make_policy())
        assert back(store, position, policy=FOUR) == 0, "in company nothing dies"
        assert back(store, position, alone=True, policy=FOUR) == 1


class KeptContract:
    """Which losses the policy keeps as dead letters."""

    def reasons(self, store: AdvancingStore) -> list[LossReason]:
        return [letter.reason for letter in store.letters(10, queue="user.1")]

    def lose(self, store: AdvancingStore) -> None:
        """One message for each reason."""
        store.ensure(["user.1"])
        (dead,) = places(store, make_draft())
        for _ in range(4):
            back(store, dead, alone=True)
        put(store, make_draft(ttl=1))
        store.advance(1)
        store.sweep(10)
        put(store, make_draft(), make_draft(), policy=make_policy(max_messages=1))
        (left,) = [message.position for message in get(store).messages]
        store.withhold({"user.1": [left]})
        (left,) = places(store, make_draft())
        store.leave_out("user.1", [left], None, make_policy())

    def test_by_default_only_what_was_delivered_too_often(self, store: AdvancingStore) -> None:
        self.lose(store)
        assert self.reasons(store) == [LossReason.DEAD]
        assert lost(store) == {(reason, NORMAL): 1 for reason in LossReason if reason is not LossReason.UNPROTECTED}

    @set_policy(DEAD_LETTERS=["expired", "dropped", "withheld", "left_out"], DEAD_LETTER_SECONDS=DAY)
    def test_what_the_policy_names(self, store: AdvancingStore) -> None:
        self.lose(store)
        assert self.reasons(store) == [
            LossReason.LEFT_OUT,
            LossReason.WITHHELD,
            LossReason.DROPPED,
            LossReason.EXPIRED,
        ]
        assert {letter.keep_until - letter.died_at for letter in store.letters(10)} == {timedelta(days=1)}
        assert [letter.reason for letter in store.letters(10, reason=LossReason.EXPIRED)] == [LossReason.EXPIRED]
        assert self.reasons(store)[:2] == [letter.reason for letter in store.letters(2)]
        assert store.letters(10, queue="user.2") == []

    @set_policy(DEAD_LETTERS=[])
    def test_none(self, store: AdvancingStore) -> None:
        self.lose(store)
        assert store.letters(10) == []

    @override_settings(NETRA_QUEUE={"POLICIES": {"keeping": {"DEAD_LETTERS": ["dropped", "expired"]}}})
    def test_each_queue_has_its_own_policy(self, store: AdvancingStore) -> None:
        store.attach(make_presence("user.1", policy="keeping"), make_policy())
        store.attach(make_presence("user.2", policy="default"), make_policy())
        put(store, make_draft("user.1", ttl=1), make_draft("user.2", ttl=1), make_draft("user.3", ttl=1))
        store.advance(1)
        store.sweep(10)
        assert [(letter.queue, letter.reason) for letter in store.letters(10)] == [("user.1", LossReason.EXPIRED)]

    @set_policy(DEAD_LETTERS=["dropped"])
    def test_what_an_operator_purges_is_not_kept(self, store: AdvancingStore) -> None:
        put(store, make_draft())
        assert store.purge("user.1", 10) == 1
        assert store.letters(10) == []

    @set_policy(DEAD_LETTERS=["dropped"])
    def test_a_payload_that_several_lines_share_is_kept(self, store: AdvancingStore) -> None:
        for line in ("user.1/a", "user.1/b"):
            store.attach(make_presence(line, policy="default"), make_policy())
        draft = make_draft(text='{"shared":true}')
        put(store, draft)
        full = make_policy(max_messages=1)
        put(store, make_draft("user.1/a"), policy=full)
        (letter,) = store.letters(10)
        assert (letter.queue, letter.id) == ("user.1/a", draft.id)
        store.purge("user.1/a", 10)
        store.purge("user.1/b", 10)
        answer = store.requeue(letter.number)
        assert answer is not None
        assert answer.lines == ("user.1/a",)
        assert [message.payload for message in get(store, "user.1/a").messages] == [draft.payload]
        assert get(store, "user.1/b").messages == ()


class LettersContract:
    def set_aside(self, store: AdvancingStore, queue: str = "user.1", **values: Any) -> int:
        """A message that died a minute after it was sent. Returns its letter's number."""
        store.ensure([queue])
        (position,) = places(store, make_draft(queue, **values))
        store.advance(60)
        for _ in range(4):
            store.returned([Returned(queue, (position,), True, FOUR)])
        return store.letters(1)[0].number

    @SHORT
    def test_requeued_it_is_the_same_message(self, store: AdvancingStore) -> None:
        draft = make_draft(priority=HIGH, ttl=1000)
        number = self.set_aside(store, id=draft.id, priority=HIGH, text='{"x":"ü"}')
        (letter,) = store.letters(1)
        newer, lower = make_draft(priority=HIGH), make_draft(priority=LOW)
        put(store, newer, lower)
        answer = store.requeue(number)
        assert answer is not None
        assert (answer.id, answer.outcome, answer.lines) == (draft.id, Outcome.QUEUED, ("user.1",))
        batch = get(store)
        assert ids(batch) == [newer.id, draft.id, lower.id], "the newest of its priority"
        message = batch.messages[1]
        assert (message.position, message.created_at, message.deliveries) == (answer.position, letter.sent_at, 0)
        assert message.payload.text == '{"x":"ü"}'
        assert store.letters(10) == []
        assert store.requeue(number) is None

    @SHORT
    def test_requeued_it_has_all_its_time_to_live(self, store: AdvancingStore) -> None:
        number = self.set_aside(store, ttl=90)
        assert store.requeue(number) is not None
        store.advance(99)
        assert len(get(store).messages) == 1
        store.advance(1)
        assert len(get(store).messages) == 0

    @SHORT
    def test_it_pushes_out_what_the_policy_lets_it(self, store: AdvancingStore) -> None:
        number = self.set_aside(store)
        with set_policy(MAX_MESSAGES=2):
            older = [make_draft(), make_draft()]
            put(store, *older)
            assert store.requeue(number) is not None
        assert ids(get(store))[0] == older[1].id
        assert lost(store)[LossReason.DROPPED, NORMAL] == 1

    @SHORT
    @pytest.mark.parametrize("overflow", ["reject", "drop_newest"])
    def test_a_full_queue_does_not_take_it(self, store: AdvancingStore, overflow: str) -> None:
        number = self.set_aside(store)
        before = lost(store)
        waiting = make_draft()
        put(store, waiting)
        with set_policy(MAX_MESSAGES=1, OVERFLOW=overflow, DEAD_LETTERS=["dropped"]), pytest.raises(QueueFull):
            store.requeue(number)
        assert ids(get(store)) == [waiting.id]
        assert [letter.number for letter in store.letters(10)] == [number]
        assert lost(store) == before

    @SHORT
    def test_one_that_the_policy_finds_too_large_stays(self, store: AdvancingStore) -> None:
        number = self.set_aside(store, text='"' + "x" * 100 + '"')
        with set_policy(MAX_MESSAGE_BYTES=50), pytest.raises(MessageTooLarge):
            store.requeue(number)
        assert [letter.number for letter in store.letters(10)] == [number]

    @SHORT
    def test_a_line_that_is_in_use_no_more_leaves_it_to_the_others(self, store: AdvancingStore) -> None:
        for line in ("user.1/a", "user.1/b"):
            presence = make_presence(line, policy="default")
            store.attach(presence, make_policy())
            store.detach([presence])
        number = self.set_aside(store, "user.1/a")
        store.forget_line("user.1/a", make_policy())
        answer = store.requeue(number)
        assert answer is not None
        assert answer.lines == ("user.1/b",)
        assert len(get(store, "user.1/b").messages) == 1

    @SHORT
    def test_deleting(self, store: AdvancingStore) -> None:
        numbers = [self.set_aside(store) for _ in range(3)]
        assert store.delete_letters(numbers[:2]) == 2
        assert store.delete_letters(numbers[:2]) == 0
        assert [letter.number for letter in store.letters(10)] == numbers[2:]

    @SHORT
    def test_they_are_forgotten_in_time(self, store: AdvancingStore) -> None:
        for _ in range(3):
            self.set_aside(store)
        store.advance(DAY - 121)
        assert store.due(10).letters == store.forget_letters(10) == 0
        store.advance(1)
        assert store.due(10).letters == 1
        assert store.forget_letters(10) == 1
        store.advance(120)
        assert store.due(1).letters == 1
        assert [store.forget_letters(1) for _ in range(3)] == [1, 1, 0]
        assert store.letters(10) == []

    @SHORT
    def test_a_queue_with_dead_letters_is_not_forgotten(self, store: AdvancingStore) -> None:
        number = self.set_aside(store)
        store.settle("user.1", store.losses(["user.1"])["user.1"].records)
        store.advance(31 * DAY)
        assert store.due(10).idle_queues == store.forget_idle(10) == 0
        store.delete_letters([number])
        assert store.forget_idle(10) == 1


class WithheldContract:
    def test_it_is_removed_and_counted(self, store: AdvancingStore) -> None:
        sent = [make_draft(priority=p) for p in (HIGH, NORMAL, LOW)]
        positions = places(store, *sent)
        for _ in range(2):
            assert store.withhold({"user.1": positions[:2]}) == {}
        assert ids(get(store)) == [sent[2].id]
        assert lost(store) == {(LossReason.WITHHELD, HIGH): 1, (LossReason.WITHHELD, NORMAL): 1}

    def test_of_its_own_queue_only(self, store: AdvancingStore) -> None:
        (mine,), (yours,) = places(store, make_draft()), places(store, make_draft("user.2"))
        assert store.withhold({"user.1": [mine, yours]}) == {}
        assert get(store, "user.1").messages == ()
        assert len(get(store, "user.2").messages) == 1
        assert store.withhold({}) == {}


class ReplayContract:
    def surplus(self, store: AdvancingStore, **replay: Any) -> tuple[int, ...]:
        presence = make_presence()
        store.heartbeat(HERE)
        policy = make_policy(replay=Replay(**replay))
        store.attach(presence, policy)
        found = store.surplus(presence, policy)
        store.detach([presence])
        return found.positions

    def test_the_newest_of_the_most_urgent_are_kept(self, store: AdvancingStore) -> None:
        low, normal, high, normal2 = places(store, *(make_draft(priority=p) for p in (LOW, NORMAL, HIGH, NORMAL)))
        assert self.surplus(store, newest=4) == ()
        assert self.surplus(store, newest=3) == (low,)
        assert self.surplus(store, newest=2) == (low, normal)
        assert self.surplus(store, newest=1) == (low, normal, normal2)
        assert self.surplus(store, newest=0) == (low, normal, high, normal2)

    def test_what_is_too_old_is_left_out(self, store: AdvancingStore) -> None:
        (old,) = places(store, make_draft(priority=CRITICAL))
        store.advance(100)
        young, younger = places(store, make_draft(), make_draft())
        assert self.surplus(store, seconds=90) == (old,)
        assert self.surplus(store, seconds=110) == ()
        assert self.surplus(store, seconds=90, newest=1) == (old, young)
        assert younger

    def test_what_has_expired_is_not_left_out(self, store: AdvancingStore) -> None:
        put(store, make_draft(ttl=10))
        store.advance(10)
        assert self.surplus(store, newest=0) == ()

    def test_beside_another_connection_nothing_is_left_out(self, store: AdvancingStore) -> None:
        put(store, make_draft())
        store.heartbeat(THERE)
        store.attach(make_presence(server=THERE), make_policy())
        assert self.surplus(store, newest=0) == ()
        store.advance(31)
        assert len(self.surplus(store, newest=0)) == 1, "its server is dead"

    def test_messages_are_given_to_a_digest_only(self, store: AdvancingStore) -> None:
        low, high = make_draft(priority=LOW), make_draft(priority=HIGH)
        put(store, low, high)
        presence = make_presence()
        for digest, found in ((None, []), ("some.where", [high.id, low.id])):
            policy = make_policy(replay=Replay(newest=0, digest=digest))
            store.attach(presence, policy)
            assert [message.id for message in store.surplus(presence, policy).messages] == found

    def test_leaving_out_counts_and_appends_the_digest(self, store: AdvancingStore) -> None:
        sent = [make_draft(priority=p) for p in (HIGH, NORMAL, NORMAL)]
        positions = places(store, *sent)
        digest = make_draft(priority=HIGH, text='"two more"')
        waiting, losses = store.leave_out("user.1", positions[:2], digest, make_policy())
        assert waiting == 2
        assert dict(losses.counts) == {(LossReason.LEFT_OUT, HIGH): 1, (LossReason.LEFT_OUT, NORMAL): 1}
        assert losses == store.losses(["user.1"])["user.1"]
        assert ids(get(store)) == [digest.id, sent[2].id]
        again = store.leave_out("user.1", positions[:2], make_draft(), make_policy())
        assert again == (waiting, losses), "what is gone needs no digest"
        assert ids(get(store)) == [digest.id, sent[2].id]

    def test_of_its_own_queue_only(self, store: AdvancingStore) -> None:
        (yours,) = places(store, make_draft("user.2"))
        store.leave_out("user.1", [yours], make_draft(), make_policy())
        assert len(get(store, "user.2").messages) == 1
        assert get(store, "user.1").messages == ()

    def test_a_digest_is_for_the_line_that_left_out(self, store: AdvancingStore) -> None:
        for line in ("user.1", "user.1/phone"):
            store.attach(make_presence(line), make_policy())
        put(store, make_draft())
        (message,) = get(store, "user.1").messages
        digest = make_draft("user.1")
        store.leave_out("user.1", [message.position], digest, make_policy())
        assert ids(get(store, "user.1")) == [digest.id]
        assert ids(get(store, "user.1/phone")) == [message.id]

    @pytest.mark.parametrize("overflow", [Overflow.REJECT, Overflow.DROP_NEWEST])
    def test_a_digest_that_does_not_fit_changes_nothing(self, store: AdvancingStore, overflow: Overflow) -> None:
        sent = [make_draft(), make_draft()]
        positions = places(store, *sent)
        small = make_policy(max_bytes=20, overflow=overflow)
        with pytest.raises((MessageTooLarge, QueueFull)):
            store.leave_out("user.1", positions[:1], make_draft(text='"' + "x" * 30 + '"'), small)
        assert ids(get(store)) == [draft.id for draft in sent]
        assert lost(store) == {}


class LetterContract(ReturnedContract, KeptContract, LettersContract, WithheldContract, ReplayContract):
    """Everything that ends otherwise than with an ack."""
