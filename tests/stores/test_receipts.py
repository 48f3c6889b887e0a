"""Collapse keys, tracked and watched messages of DatabaseStore among transactions that are open at the same time."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from netra_queue.core.message import Outcome, Priority
from netra_queue.core.tracking import UndeliveredMessage
from netra_queue.models import Body, CollapseSlot, Flag, Message, TrackedMessage, Watch
from netra_queue.stores import appending, transmitting
from netra_queue.stores.base import Appended, Batch
from tests.conftest import DATABASES_HERE
from tests.making import AdvancingDatabaseStore, get, ids, make_draft, make_policy, make_presence, put, rolled_back
from tests.waiting import together, wait_until

from .contract_receipts import LINES, ack, attach, hand_over, state, superseded
from .test_limits import while_open

SENDERS = 6
EACH = 8
WATCHING = make_policy(undelivered={Priority.NORMAL: 60.0})


@pytest.fixture
def store(database: str) -> AdvancingDatabaseStore:
    return AdvancingDatabaseStore(database)


@pytest.fixture
def concurrent(concurrent_database: str) -> AdvancingDatabaseStore:
    return AdvancingDatabaseStore(concurrent_database)


class TestCollapse:
    @pytest.mark.parametrize("is_known", [False, True])
    def test_of_many_senders_of_one_key_one_message_is_left(
        self, concurrent: AdvancingDatabaseStore, is_known: bool
    ) -> None:
        if is_known:
            put(concurrent, make_draft(collapse="k"))

        def send() -> None:
            for _ in range(EACH):
                assert put(concurrent, make_draft(collapse="k"))[0].outcome is Outcome.QUEUED

        together(*[send] * SENDERS)
        assert concurrent.stat("user.1").messages == 1
        assert superseded(concurrent) == SENDERS * EACH - 1 + is_known

    def test_senders_to_many_queues_in_different_orders(self, concurrent: AdvancingDatabaseStore) -> None:
        queues = [f"user.{number}" for number in range(12)]

        def send(names: list[str]) -> None:
            for _ in range(EACH):
                put(concurrent, *(make_draft(name, collapse="k") for name in names))

        together(*(partial(send, names) for names in (queues, queues[::-1], queues[6:] + queues[:6])))
        assert [concurrent.stat(queue).messages for queue in queues] == [1] * 12

    def test_a_sender_waits_for_an_open_one_of_the_same_key_only(self, concurrent: AdvancingDatabaseStore) -> None:
        key, other = make_draft().id, make_draft().id  # of no test before: MariaDB locks beside what was just deleted
        first, second = make_draft(collapse=key), make_draft(collapse=key)
        done: list[str] = []

        def open_one() -> None:
            put(concurrent, first)

        def others() -> threading.Thread:
            together(lambda: put(concurrent, make_draft(collapse=other), make_draft("user.2", collapse=key)))

            def same() -> None:
                put(concurrent, second)
                done.append("same")
                connections.close_all()

            thread = threading.Thread(target=same, daemon=True)
            thread.start()
            thread.join(0.3)
            assert done == []
            return thread

        while_open(concurrent, open_one, others).join(30)
        assert done == ["same"]
        assert second.id in ids(get(concurrent))
        assert first.id not in ids(get(concurrent))

    def test_a_rollback_brings_the_older_one_back(self, store: AdvancingDatabaseStore) -> None:
        old = make_draft(collapse="k", track=True)
        put(store, old)
        with rolled_back(store.using):
            put(store, make_draft(collapse="k"))
        assert (superseded(store), state(store, old.id)) == (0, "queued")
        new = make_draft(collapse="k")
        put(store, new)
        assert ids(get(store)) == [new.id]

    def test_what_an_open_transaction_replaces_is_not_given_out(self, concurrent: AdvancingDatabaseStore) -> None:
        old, other = make_draft(collapse="k"), make_draft()
        put(concurrent, old, other)
        found = while_open(
            concurrent,
            lambda: put(concurrent, make_draft(collapse="k")),
            lambda: (ids(get(concurrent)), concurrent.waiting(["user.1"])),
        )
        assert found == ([other.id], {"user.1"})

    def test_what_an_open_transaction_replaces_keeps_nothing_behind_it_waiting(
        self, concurrent: AdvancingDatabaseStore
    ) -> None:
        """Whatever the window has room for: what is in other hands neither takes that room nor is asked for again."""
        keys = ["a", "b", "c"]
        other = make_draft()
        put(concurrent, *(make_draft(collapse=key) for key in keys), other)
        (batch,) = while_open(
            concurrent,
            lambda: put(concurrent, *(make_draft(collapse=key) for key in keys)),
            lambda: [get(concurrent, limit=1)],
        )
        assert ids(batch) == [other.id]

    def test_a_line_takes_over_although_a_sender_has_its_key_in_hand(self, concurrent: AdvancingDatabaseStore) -> None:
        to_all, to_phone, newer, last = (
            make_draft(queue, collapse="k") for queue in ("user.1", *LINES[:1] * 2, "user.1")
        )
        put(concurrent, to_all)
        put(concurrent, to_phone)
        while_open(concurrent, lambda: put(concurrent, newer), lambda: together(lambda: attach(concurrent, LINES[0])))
        put(concurrent, last)
        assert ids(get(concurrent, LINES[0])) == [to_all.id, last.id]

    def test_when_all_is_in_other_hands_there_is_nothing_more(self, concurrent: AdvancingDatabaseStore) -> None:
        put(concurrent, *(make_draft(collapse=str(number)) for number in range(20)))
        batch = while_open(
            concurrent,
            lambda: put(concurrent, *(make_draft(collapse=str(number)) for number in range(20))),
            lambda: get(concurrent, limit=1),
        )
        assert batch == Batch((), more=False)

    def test_what_is_being_acked_is_left_alone(self, concurrent: AdvancingDatabaseStore) -> None:
        old, new = make_draft(collapse="k"), make_draft(collapse="k")
        (held,) = put(concurrent, old)

        def hold() -> None:
            list(Message.objects.using(concurrent.using).filter(pk=held.position).select_for_update())

        while_open(concurrent, hold, lambda: put(concurrent, new))
        assert ids(get(concurrent)) == [old.id, new.id]

    def test_collapsing_and_reading_at_once(self, concurrent: AdvancingDatabaseStore) -> None:
        """Whatever a read gave is not superseded: it is there until it is acked."""
        sending = threading.Event()
        gone: list[int] = []

        def send() -> None:
            try:
                for _ in range(60):
                    put(concurrent, make_draft(collapse="k"))
            finally:
                sending.set()

        def read() -> int:
            acked = 0
            while not sending.is_set():
                given = [message.position for message in get(concurrent).messages]
                rows = Message.objects.using(concurrent.using).filter(pk__in=given)
                gone.extend(set(given) - set(rows.values_list("pk", flat=True)))
                left = concurrent.ack({"user.1": given}).get("user.1", set())
                acked += len(given) - len(left)
            return acked

        (_, acked) = together(send, read)
        assert gone == []
        assert acked + superseded(concurrent) + concurrent.stat("user.1").messages == 60

    def test_two_readers_at_once_both_get_it(self, concurrent: AdvancingDatabaseStore) -> None:
        for _ in range(10):
            draft = make_draft(collapse="k", track=True)
            put(concurrent, draft)
            wanted = [draft.id]
            together(*[lambda wanted=wanted: wait_until(lambda: ids(get(concurrent)) == wanted)] * 3)  # type: ignore[misc]
            ack(concurrent)

    def test_a_reader_waits_a_moment_for_another_one(
        self, concurrent: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        draft = make_draft(collapse="k")
        (held,) = put(concurrent, draft)
        is_paused, may_go_on = threading.Event(), threading.Event()

        def pause(seconds: float) -> None:
            is_paused.set()
            assert may_go_on.wait(30)

        monkeypatch.setattr(transmitting.time, "sleep", pause)

        def other() -> None:
            with transaction.atomic(using=concurrent.using):
                rows = Message.objects.using(concurrent.using).filter(pk=held.position)
                list(rows.select_for_update())
                may_read.set()
                assert is_paused.wait(30)
            may_go_on.set()

        may_read = threading.Event()

        def read() -> list[str]:
            assert may_read.wait(30)
            return ids(get(concurrent))

        assert together(other, read)[1] == [draft.id]

    def test_upkeep_leaves_a_slot_that_is_being_taken_over(self, concurrent: AdvancingDatabaseStore) -> None:
        put(concurrent, make_draft(collapse="k", ttl=1))
        concurrent.advance(1)
        new = make_draft(collapse="k")
        while_open(concurrent, lambda: put(concurrent, new), lambda: concurrent.forget_keys(10))
        newest = make_draft(collapse="k")
        put(concurrent, newest)
        assert newest.id in ids(get(concurrent))
        assert new.id not in ids(get(concurrent))

    def test_a_takeover_waits_for_no_sender(self, concurrent: AdvancingDatabaseStore) -> None:
        old, other = make_draft(collapse="k"), make_draft(collapse="other")
        put(concurrent, old, other)
        line = LINES[0]
        new = make_draft(collapse="k")

        def attach_meanwhile() -> None:
            attach(concurrent, line)

        while_open(concurrent, lambda: put(concurrent, new), attach_meanwhile)
        assert concurrent.take_over({line: make_policy()}) == {line}
        newest = make_draft(collapse="k")
        put(concurrent, newest)
        assert ids(get(concurrent, line)) == [other.id, newest.id]

    def test_a_commit_without_an_answer_supersedes_once(
        self, store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        append = appending.append
        lost = [True]

        def lose(*arguments: Any, **options: Any) -> list[Appended]:
            answers = append(*arguments, **options)
            if lost.pop() if lost else False:
                connections[store.using].close()
                raise OperationalError("server closed the connection unexpectedly")
            return answers

        monkeypatch.setattr(appending, "append", lose)
        old, first, second = (make_draft(collapse="k", track=True) for _ in range(3))
        monkeypatch.setattr(appending, "append", append)
        put(store, old)
        monkeypatch.setattr(appending, "append", lose)
        answers = together(partial(put, store, first, second))[0]
        assert [answer.outcome for answer in answers] == [Outcome.SUPERSEDED, Outcome.QUEUED]
        assert [state(store, draft.id) for draft in (old, first, second)] == ["superseded", "superseded", "queued"]
        assert ids(get(store)) == [second.id]
        assert superseded(store) == 2

    def test_what_costs_nothing(self, store: AdvancingDatabaseStore) -> None:
        put(store, make_draft())
        get(store)
        assert Message.objects.using(store.using).get().flags == 0
        put(store, make_draft(collapse="k"))
        get(store)
        flags = Message.objects.using(store.using).order_by("pk").last().flags  # type: ignore[union-attr]
        assert flags == Flag.COLLAPSING | Flag.TRANSMITTED
        assert [model.objects.using(store.using).count() for model in (CollapseSlot, TrackedMessage, Watch)] == [
            1,
            0,
            0,
        ]


class TestTracking:
    def test_acks_of_two_lines_at_once(self, concurrent: AdvancingDatabaseStore) -> None:
        attach(concurrent, *LINES)
        for _ in range(5):
            drafts = [make_draft(track=True) for _ in range(20)]
            put(concurrent, *drafts)
            found = [[m.position for m in get(concurrent, line).messages] for line in LINES]
            acks = [partial(concurrent.ack, {line: of}) for line, of in zip(LINES, found, strict=True)]
            assert together(*acks) == [{}, {}]
            assert {state(concurrent, draft.id) for draft in drafts} == {"acked"}

    def test_the_last_two_copies_go_at_once(self, concurrent: AdvancingDatabaseStore) -> None:
        attach(concurrent, *LINES)
        for _ in range(5):
            draft = make_draft(track=True)
            put(concurrent, draft)
            together(*(partial(concurrent.purge, line, 10) for line in LINES))
            assert state(concurrent, draft.id) == "dropped"

    def test_the_last_two_copies_go_in_transactions_that_do_not_see_each_other(
        self, concurrent: AdvancingDatabaseStore
    ) -> None:
        attach(concurrent, *LINES)
        draft = make_draft(track=True)
        put(concurrent, draft)
        while_open(concurrent, lambda: concurrent.purge(LINES[0], 10), lambda: concurrent.purge(LINES[1], 10))
        assert state(concurrent, draft.id) == "dropped"

    def test_an_ack_waits_for_no_open_transaction(self, concurrent: AdvancingDatabaseStore) -> None:
        """One that sends, drops and supersedes tracked messages, and one that drops another line's copy."""
        attach(concurrent, *LINES)
        full = make_policy(max_messages=3)
        old, draft = make_draft(track=True, collapse="k"), make_draft(track=True, priority=Priority.HIGH)
        put(concurrent, old, draft, make_draft(track=True, priority=Priority.LOW))

        def work() -> None:
            concurrent.purge(LINES[0], 10)
            put(concurrent, make_draft(track=True, collapse="k"), make_draft(track=True), policy=full)

        def ack_other() -> dict[str, set[int]]:
            return concurrent.ack({LINES[1]: {m.position for m in get(concurrent, LINES[1], limit=1).messages}})

        assert while_open(concurrent, work, ack_other) == {}
        assert state(concurrent, draft.id) == "acked"

    def test_a_read_waits_for_no_open_transaction(self, concurrent: AdvancingDatabaseStore) -> None:
        tracked = make_draft(track=True)
        put(concurrent, tracked)
        found = while_open(concurrent, lambda: put(concurrent, make_draft(track=True)), lambda: ids(get(concurrent)))
        assert found == [tracked.id]
        assert state(concurrent, tracked.id) == "delivered"

    def test_it_belongs_to_the_transaction_of_the_send(self, store: AdvancingDatabaseStore) -> None:
        draft = make_draft(track=True)
        with rolled_back(store.using):
            put(store, draft)
            assert state(store, draft.id) == "queued"
        assert state(store, draft.id) is None

    def test_a_rolled_back_end_has_not_happened(self, store: AdvancingDatabaseStore) -> None:
        draft = make_draft(track=True)
        put(store, draft)
        with rolled_back(store.using):
            store.purge("user.1", 10)
        assert state(store, draft.id) == "queued"


class TestHandingOver:
    def send(self, store: AdvancingDatabaseStore, count: int = 1, queue: str = "user.1") -> list[str]:
        drafts = [make_draft(queue) for _ in range(count)]
        put(store, *drafts, policy=WATCHING)
        store.advance(61)
        return [draft.id for draft in drafts]

    def test_by_many_at_once_each_message_goes_to_one(self, concurrent: AdvancingDatabaseStore) -> None:
        sent = self.send(concurrent, 60)
        handed: list[str] = []

        def receive(messages: tuple[UndeliveredMessage, ...]) -> None:
            handed.extend(message.id for message in messages)

        def work() -> None:
            wait_until(lambda: concurrent.hand_over("default", 7, receive) == 0 and not concurrent.due(9).undelivered)

        together(*[work] * 4)
        assert sorted(handed) == sorted(sent)

    def test_what_it_writes_commits_with_it(self, store: AdvancingDatabaseStore) -> None:
        (sent,) = self.send(store)
        follow_up = make_draft("user.2")

        def write(messages: object) -> None:
            put(store, follow_up)

        def write_and_fail(messages: object) -> None:
            write(messages)
            raise RuntimeError("the mail server is away")

        with pytest.raises(RuntimeError):
            store.hand_over("default", 10, write_and_fail)
        assert ids(get(store, "user.2")) == []
        assert store.hand_over("default", 10, write) == 1
        assert ids(get(store, "user.2")) == [follow_up.id]
        assert hand_over(store) == []
        assert ids(get(store)) == [sent]

    def test_an_ack_meanwhile_is_left_and_waits_for_nobody(self, concurrent: AdvancingDatabaseStore) -> None:
        self.send(concurrent)
        positions = [message.position for message in get(concurrent).messages]
        left: list[object] = []

        def receive(messages: object) -> None:
            left.extend(together(partial(concurrent.ack, {"user.1": positions})))
            raise RuntimeError("not this time")

        with pytest.raises(RuntimeError):
            concurrent.hand_over("default", 10, receive)
        assert left == [{"user.1": set(positions)}]
        assert concurrent.ack({"user.1": positions}) == {}
        assert hand_over(concurrent) == [], "acked is acked, also after a hand-over that failed"

    def test_others_go_on_meanwhile(self, concurrent: AdvancingDatabaseStore) -> None:
        self.send(concurrent)
        other = make_draft(queue="user.2")
        put(concurrent, other, policy=WATCHING)

        def others() -> None:
            put(concurrent, make_draft("user.1"), policy=WATCHING)
            get(concurrent)
            ack(concurrent, "user.2")
            concurrent.attach(make_presence(), make_policy())
            assert concurrent.hand_over("default", 10, lambda messages: None) == 0
            concurrent.forget_keys(10)
            concurrent.sweep(10)

        def receive(messages: object) -> None:
            together(others)

        assert concurrent.hand_over("default", 10, receive) == 1

    def test_acks_of_two_lines_at_once(self, concurrent: AdvancingDatabaseStore) -> None:
        attach(concurrent, *LINES)
        put(concurrent, *(make_draft() for _ in range(20)), policy=WATCHING)

        def ack_line(line: str) -> None:
            left = {m.position for m in get(concurrent, line).messages}

            def acked() -> bool:
                nonlocal left
                left = concurrent.ack({line: left}).get(line, set())
                return not left

            wait_until(acked)

        together(*(partial(ack_line, line) for line in LINES))
        concurrent.advance(61)
        assert hand_over(concurrent) == []
        assert not Watch.objects.using(concurrent.using).exists()
        assert not Body.objects.using(concurrent.using).exists()

    @pytest.mark.parametrize("end", ["acked", "handed over", "purged", "superseded"])
    def test_payloads_go_with_the_last_use(self, store: AdvancingDatabaseStore, end: str) -> None:
        put(store, make_draft(collapse="k"), policy=WATCHING)
        bodies = Body.objects.using(store.using)
        assert bodies.count() == 1
        if end == "superseded":
            put(store, make_draft(collapse="k"))
        elif end == "purged":
            store.purge("user.1", 10)
            assert bodies.count() == 1, "it is still to be handed over"
        store.advance(61)
        assert len(hand_over(store)) == (end != "superseded")
        assert bodies.count() == (end in ("acked", "handed over"))
        ack(store)
        assert bodies.count() == 0

    @pytest.mark.parametrize("alias", DATABASES_HERE[:1])
    def test_it_is_called_once_though_the_database_fails(self, alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
        store = AdvancingDatabaseStore(alias)
        self.send(store)
        calls: list[object] = []

        def receive(messages: object) -> None:
            calls.append(messages)
            raise OperationalError("database is locked")

        with pytest.raises(OperationalError):
            store.hand_over("default", 10, receive)
        assert len(calls) == 1
