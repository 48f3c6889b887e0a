"""Groups across transactions, what becomes of shared payloads, and what a send to many costs: DatabaseStore."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from netra_queue.core.message import Outcome
from netra_queue.models import Body, Message, Queue
from netra_queue.stores import fanout
from netra_queue.stores.base import GroupAppended
from tests.making import AdvancingDatabaseStore, get, ids, make_draft, put, rolled_back
from tests.waiting import together, wait_until

from .contract_groups import group_draft

WAITING = {
    "postgresql": "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND wait_event_type = 'Lock' AND query LIKE '%%netra_queue_group%%'",
    "mysql": "SELECT COUNT(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
    "ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE() "
    "AND p.info LIKE '%%netra_queue_group%%'",
}


@pytest.fixture
def store(database: str) -> AdvancingDatabaseStore:
    return AdvancingDatabaseStore(database)


@pytest.fixture
def concurrent_store(concurrent_database: str) -> AdvancingDatabaseStore:
    return AdvancingDatabaseStore(concurrent_database)


def somebody_waits(store: AdvancingDatabaseStore) -> bool:
    """Whether a transaction waits for a lock on a group."""
    connection = connections[store.using]
    if connection.vendor == "mysql":
        time.sleep(0.15)  # its table of transactions is not renewed while it is read more often than every 0.1 seconds
    with connection.cursor() as cursor:
        cursor.execute(WAITING[connection.vendor].replace("%%", "%"))
        return bool(cursor.fetchone()[0])


class OpenSender:
    """A sender's transaction that stays open until the others have done, or begun, what they are here for."""

    def __init__(self, store: AdvancingDatabaseStore) -> None:
        self.store, self.draft = store, group_draft()
        self.has_sent, self.may_commit, self.has_committed = (threading.Event() for _ in range(3))

    def send(self) -> int:
        with transaction.atomic(using=self.store.using):
            answer = self.store.group_append(self.draft)
            self.has_sent.set()
            assert self.may_commit.wait(40)
        self.has_committed.set()
        return answer.recipients

    def meanwhile(self, work: Callable[[], object]) -> object:
        """Done while the transaction is open, or it fails."""
        assert self.has_sent.wait(20)
        try:
            result = work()
            assert not self.has_committed.is_set()
        finally:
            self.may_commit.set()
        return result

    def held_up(self, work: Callable[[], object]) -> object:
        """Begun while it is open, and done after it was committed."""
        assert self.has_sent.wait(20)
        result = work()
        assert self.may_commit.is_set(), "it did not wait"
        return result

    def commit_when_somebody_waits(self) -> None:
        assert self.has_sent.wait(20)
        try:
            wait_until(lambda: somebody_waits(self.store), 20)
        finally:
            self.may_commit.set()


class TestRaces:
    @pytest.mark.parametrize("is_known", [True, False])
    def test_a_subscription_waits_for_those_who_are_sending(
        self, concurrent_store: AdvancingDatabaseStore, is_known: bool
    ) -> None:
        """Also the first one of all: who has looked for members must not miss one that was there at its commit."""
        store, sender = concurrent_store, OpenSender(concurrent_store)
        if is_known:
            store.subscribe(["user.9"], "room.1")
        subscribe = partial(sender.held_up, lambda: store.subscribe(["user.1"], "room.1"))
        recipients, added, _ = together(sender.send, subscribe, sender.commit_when_somebody_waits)
        assert (recipients, added) == (int(is_known), 1)
        assert ids(get(store)) == []
        assert store.group_append(group_draft()).recipients == int(is_known) + 1

    def test_an_unsubscription_waits_for_those_who_are_sending(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store, sender = concurrent_store, OpenSender(concurrent_store)
        store.subscribe(["user.1"], "room.1")
        unsubscribe = partial(sender.held_up, lambda: store.unsubscribe(["user.1"], "room.1"))
        recipients, removed, _ = together(sender.send, unsubscribe, sender.commit_when_somebody_waits)
        assert (recipients, removed) == (1, 1)
        assert ids(get(store)) == [sender.draft.id]

    def test_a_sender_waits_for_a_subscription_and_finds_it(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        store.subscribe(["user.9"], "room.1")
        has_subscribed, may_commit = threading.Event(), threading.Event()

        def subscribe() -> int:
            with transaction.atomic(using=store.using):
                store.subscribe(["user.1"], "room.1")
                has_subscribed.set()
                assert may_commit.wait(40)
            return 0

        def send() -> int:
            assert has_subscribed.wait(20)
            return store.group_append(group_draft()).recipients

        def commit() -> int:
            assert has_subscribed.wait(20)
            wait_until(lambda: somebody_waits(store), 20)
            may_commit.set()
            return 0

        assert together(subscribe, send, commit)[1] == 2

    def test_senders_do_not_wait_for_each_other(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store, sender = concurrent_store, OpenSender(concurrent_store)
        store.subscribe(["user.1", "user.2"], "room.1")
        other = group_draft()
        together(sender.send, partial(sender.meanwhile, lambda: store.group_append(other)))
        assert set(ids(get(store))) == {sender.draft.id, other.id}

    def test_what_is_so_already_waits_for_nobody(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store, sender = concurrent_store, OpenSender(concurrent_store)
        store.subscribe(["user.1"], "room.1")

        def repeat() -> tuple[int, int]:
            return store.subscribe(["user.1"], "room.1"), store.unsubscribe(["user.2"], "room.1")

        assert together(sender.send, partial(sender.meanwhile, repeat))[1] == (0, 0)

    def test_nobody_else_waits_for_an_open_send_to_a_group(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store, sender = concurrent_store, OpenSender(concurrent_store)
        store.subscribe(["user.1", "user.2"], "room.1")
        (old,) = put(store, make_draft())

        def others() -> None:
            put(store, make_draft(), make_draft("user.2"))
            store.ack({"user.1": [old.position or 0]})
            store.sweep(10)
            store.forget_bodies(10)

        together(sender.send, partial(sender.meanwhile, others))
        assert len(get(store).messages) == 2


class TestTransactions:
    def test_it_commits_and_rolls_back_with_the_callers(self, store: AdvancingDatabaseStore) -> None:
        with rolled_back(store.using):
            store.subscribe(["user.1"], "room.1")
        assert store.group_append(group_draft()).recipients == 0
        store.subscribe(["user.1"], "room.1")
        with rolled_back(store.using):
            store.group_append(group_draft(key="k"))
        assert get(store).messages == ()
        with transaction.atomic(using=store.using):
            store.subscribe(["user.2"], "room.1")
            assert store.group_append(group_draft(key="k")).recipients == 2

    def test_a_repeated_attempt_does_not_send_twice(self, store: AdvancingDatabaseStore) -> None:
        """The connection was lost after the commit, before the answer."""
        store.subscribe(["user.1", "user.2"], "room.1")
        draft, now, number = group_draft(key="k"), store.now(), fanout.new_number()
        for is_repeat in (False, True, True):
            answer = fanout.group_append(store.using, draft, number, now, is_repeat=is_repeat)
            assert answer == GroupAppended(draft.id, Outcome.QUEUED, 2)
        assert len(get(store).messages) == 1


class TestBodies:
    @pytest.fixture(autouse=True)
    def small_crowd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fanout, "CROWD", 3)

    def send(self, store: AdvancingDatabaseStore, members: int, **options: float) -> list[str]:
        names = [f"user.{number}" for number in range(1, members + 1)]
        store.subscribe(names, "room.1")
        store.group_append(group_draft(**options))
        return names

    def ack(self, store: AdvancingDatabaseStore, queue: str) -> None:
        store.ack({queue: [message.position for message in get(store, queue).messages]})

    def bodies(self, store: AdvancingDatabaseStore) -> int:
        return Body.objects.using(store.using).count()

    def test_one_payload_for_all_goes_with_the_last(self, store: AdvancingDatabaseStore) -> None:
        *others, last = self.send(store, 3)
        assert self.bodies(store) == 1
        assert set(Message.objects.using(store.using).values_list("payload", flat=True)) == {""}
        for name in others:
            self.ack(store, name)
        assert (self.bodies(store), len(get(store, last).messages)) == (1, 1)
        self.ack(store, last)
        assert self.bodies(store) == 0

    def test_a_crowds_payload_is_removed_by_upkeep(self, store: AdvancingDatabaseStore) -> None:
        """Before its time is over: nobody looks for the others with each ack, but upkeep does."""
        *others, last = self.send(store, 4)
        for name in others:
            self.ack(store, name)
        assert store.forget_bodies(10) == 0
        assert len(get(store, last).messages) == 1
        with CaptureQueriesContext(connections[store.using]) as queries:
            self.ack(store, last)
        assert not [
            query["sql"] for query in queries if "netra_queue_body" in query["sql"] and "JOIN" not in query["sql"]
        ]
        assert self.bodies(store) == 1
        assert [store.forget_bodies(10) for _ in range(2)] == [1, 0]
        assert self.bodies(store) == 0

    def test_upkeep_looks_at_every_crowd(self, store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """More of them than one page, and more than it may remove at once."""
        monkeypatch.setattr("netra_queue.stores.upkeep.CHUNK", 2)
        for _ in range(5):
            names = self.send(store, 4)
        for name in names:
            self.ack(store, name)
        self.send(store, 4)
        assert [store.forget_bodies(3) for _ in range(3)] == [3, 2, 0]
        assert self.bodies(store) == 1

    @pytest.mark.parametrize("members", [2, 4])
    def test_what_was_left_over_goes_when_its_time_is_over(self, store: AdvancingDatabaseStore, members: int) -> None:
        self.send(store, members, ttl_seconds=10)
        store.advance(10)
        assert store.due(10).bodies == 0, "messages have it"
        Message.objects.using(store.using).all()._raw_delete(store.using)  # a process died between two statements
        assert store.due(10).bodies == 1
        assert [store.forget_bodies(10) for _ in range(2)] == [1, 0]


@pytest.fixture
def statements(store: AdvancingDatabaseStore) -> Callable[[], int]:
    """Counts the statements of one send to the group."""

    def count() -> int:
        with CaptureQueriesContext(connections[store.using]) as queries:
            store.group_append(group_draft())
        return len([query for query in queries if "netra_queue_" in query["sql"]])

    return count


def test_the_number_of_statements_does_not_depend_on_the_number_of_members(
    store: AdvancingDatabaseStore, statements: Callable[[], int]
) -> None:
    store.subscribe(["user.1"], "room.1")
    alone = statements()
    store.subscribe([f"user.{number}" for number in range(2000)], "room.1")
    assert statements() == alone <= 8


def test_members_of_different_policies_take_no_statements_of_their_own(
    store: AdvancingDatabaseStore, statements: Callable[[], int]
) -> None:
    names = [f"user.{number}" for number in range(9)]
    store.subscribe(names, "room.1")
    store.ensure(names)
    alone = statements()
    Queue.objects.using(store.using).filter(name__in=names[:3]).update(policy="gone")
    assert statements() == alone
