"""DatabaseStore inside the caller's transaction, across transactions, and on connections that break."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections, transaction

from netra_queue.core.message import LossReason, Outcome, Priority
from netra_queue.core.policy import Overflow
from netra_queue.exceptions import QueueFull, StoreUnavailable
from netra_queue.stores import appending
from netra_queue.stores.base import Appended
from netra_queue.stores.connecting import own_transaction
from tests.conftest import DATABASES_HERE
from tests.making import AdvancingDatabaseStore, get, ids, make_draft, make_policy, make_presence, put, rolled_back
from tests.waiting import together


@pytest.fixture
def store(database: str) -> AdvancingDatabaseStore:
    return AdvancingDatabaseStore(database)


@pytest.fixture
def concurrent_store(concurrent_database: str) -> AdvancingDatabaseStore:
    return AdvancingDatabaseStore(concurrent_database)


class TestCallersTransaction:
    def test_commit_makes_it_visible(self, store: AdvancingDatabaseStore) -> None:
        draft = make_draft(key="k")
        assert store.transactional
        assert not store.in_transaction()
        with transaction.atomic(using=store.using):
            assert store.in_transaction()
            put(store, draft)
        assert ids(get(store)) == [draft.id]

    def test_rollback_means_it_never_was(self, store: AdvancingDatabaseStore) -> None:
        with rolled_back(store.using):
            put(store, make_draft(key="k"))
        assert ids(get(store)) == []
        assert put(store, make_draft(key="k"))[0].outcome is Outcome.QUEUED

    def test_rollback_to_a_savepoint(self, store: AdvancingDatabaseStore) -> None:
        kept = make_draft()
        with transaction.atomic(using=store.using):
            put(store, kept)
            with rolled_back(store.using):
                put(store, make_draft())
        assert ids(get(store)) == [kept.id]

    def test_after_commit(self, store: AdvancingDatabaseStore) -> None:
        calls: list[str] = []
        store.after_commit(partial(calls.append, "at once"))
        with transaction.atomic(using=store.using):
            store.after_commit(partial(calls.append, "committed"))
            assert calls == ["at once"]
        with rolled_back(store.using):
            store.after_commit(partial(calls.append, "rolled back"))
        assert calls == ["at once", "committed"]

    def test_what_fails_after_the_commit_fails_alone(
        self, store: AdvancingDatabaseStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Django's word for the log wants a name of it, which a partial has not."""
        with transaction.atomic(using=store.using):
            put(store, make_draft())
            store.after_commit(partial(int, "no number"))  # type: ignore[arg-type]
        assert "no number" in caplog.text
        assert len(ids(get(store))) == 1

    def test_a_full_queue_leaves_the_transaction_usable(self, store: AdvancingDatabaseStore) -> None:
        reject = make_policy(max_messages=1, overflow=Overflow.REJECT)
        first, other = make_draft(), make_draft("user.2")
        with transaction.atomic(using=store.using):
            put(store, first, policy=reject)
            with pytest.raises(QueueFull):
                put(store, make_draft(key="k"), make_draft("user.2"), policy=reject)
            put(store, other, policy=reject)
        assert ids(get(store)) == [first.id]
        assert ids(get(store, "user.2")) == [other.id]
        assert put(store, make_draft(key="k"))[0].outcome is Outcome.QUEUED

    def test_limits_count_what_the_transaction_wrote(self, store: AdvancingDatabaseStore) -> None:
        with transaction.atomic(using=store.using):
            for _ in range(5):
                put(store, make_draft(), policy=make_policy(max_messages=3))
        assert len(get(store).messages) == 3
        assert store.losses(["user.1"])["user.1"].total(LossReason.DROPPED) == 2


class TestTwoTransactions:
    def test_the_lower_position_commits_last(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        late, early = make_draft(), make_draft()
        has_written, may_commit = threading.Event(), threading.Event()

        def slow() -> int | None:
            with transaction.atomic(using=store.using):
                (answer,) = put(store, late)
                has_written.set()
                assert may_commit.wait(20)
            return answer.position

        def quick() -> int | None:
            assert has_written.wait(20)
            try:
                (answer,) = put(store, early)
                batch = get(store)
                assert ids(batch) == [early.id]
            finally:
                may_commit.set()
            return answer.position

        first, second = together(slow, quick)
        assert first is not None
        assert second is not None
        assert first < second
        assert ids(get(store, without=[second])) == [late.id]
        assert ids(get(store)) == [late.id, early.id]

    def test_nobody_waits_for_an_open_transaction(self, concurrent_store: AdvancingDatabaseStore) -> None:
        """Sending, reading, acking, sweeping and connecting go on while a sender's transaction is open."""
        store = concurrent_store
        policy = make_policy(max_messages=3)
        (old,) = put(store, make_draft())
        assert old.position is not None
        has_written, may_commit = threading.Event(), threading.Event()

        def slow() -> None:
            with transaction.atomic(using=store.using):
                for _ in range(5):
                    put(store, make_draft(), policy=policy)
                has_written.set()
                assert may_commit.wait(40)

        def others() -> None:
            assert has_written.wait(20)
            try:
                for _ in range(5):
                    put(store, make_draft(), policy=policy)
                store.attach(make_presence(), policy)
                store.sweep(10)
                store.purge("user.1", 1)
                assert len(get(store).messages) >= 1
                store.forget_idle(10)
            finally:
                may_commit.set()

        together(slow, others)
        put(store, make_draft(), policy=policy)
        assert store.stat("user.1").messages <= 3, "the next append removes what open transactions exceeded"

    def test_an_ack_names_what_another_transaction_holds(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        held, free = put(store, make_draft(), make_draft(priority=Priority.LOW))
        assert held.position is not None
        assert free.position is not None
        positions = [held.position, free.position]
        has_locked, may_end = threading.Event(), threading.Event()

        def hold() -> dict[str, set[int]]:
            with rolled_back(store.using):
                assert store.purge("user.1", 1) == 1
                has_locked.set()
                assert may_end.wait(20)
            return {}

        def acknowledge() -> dict[str, set[int]]:
            assert has_locked.wait(20)
            try:
                return store.ack({"user.1": positions})
            finally:
                may_end.set()

        assert together(hold, acknowledge)[1] == {"user.1": {held.position}}
        assert ids(get(store)) == [held.id]
        assert store.ack({"user.1": positions}) == {}
        assert ids(get(store)) == []

    def test_one_key_in_two_transactions(self, concurrent_store: AdvancingDatabaseStore) -> None:
        """The second one waits for the first one's end: a key cannot be judged before."""
        store = concurrent_store
        has_written = threading.Event()

        def first() -> Outcome:
            with rolled_back(store.using):
                put(store, make_draft(key="k"))
                has_written.set()
            return Outcome.DROPPED

        def second() -> Outcome:
            assert has_written.wait(20)
            return put(store, make_draft(key="k"))[0].outcome

        assert together(first, second)[1] is Outcome.QUEUED
        assert len(get(store).messages) == 1


class TestConnections:
    def test_a_thread_of_ours_keeps_its_connection(self, store: AdvancingDatabaseStore) -> None:
        def work() -> tuple[object, object]:
            store.in_own_thread(partial(get, store))
            first = connections[store.using].connection
            store.in_own_thread(partial(get, store))
            return first, connections[store.using].connection

        ((first, second),) = together(work)
        assert first is not None
        assert first is second

    def test_a_thread_of_ours_keeps_no_statements_with_debug(
        self, store: AdvancingDatabaseStore, settings: Any
    ) -> None:
        """Django's log of statements is emptied by requests, of which these threads have none."""
        settings.DEBUG = True

        def work() -> int:
            store.in_own_thread(partial(put, store, make_draft(text='"' + "x" * 1000 + '"')))
            return len(connections[store.using].queries_log)

        assert together(work) == [0]

    def test_leaving_a_thread_closes_its_connection(self, store: AdvancingDatabaseStore) -> None:
        def work() -> object:
            get(store)
            store.leave_thread()
            return connections[store.using].connection

        assert together(work) == [None]

    def test_a_connection_that_the_server_cut_is_replaced(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        draft = make_draft()

        def work() -> None:
            get(store)
            _cut(store.using)
            put(store, draft)

        together(work)
        assert ids(get(store)) == [draft.id]

    def test_a_connection_cut_within_a_transaction_is_an_error(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store

        def work() -> None:
            with transaction.atomic(using=store.using):
                put(store, make_draft())
                _cut(store.using)
                put(store, make_draft())

        with pytest.raises(StoreUnavailable):
            together(work)
        assert ids(get(store)) == []

    def test_a_commit_without_an_answer_is_found_again(
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
        drafts = [make_draft(), make_draft(key="k")]
        answers = together(partial(put, store, *drafts))[0]
        assert [(a.id, a.outcome) for a in answers] == [(draft.id, Outcome.QUEUED) for draft in drafts]
        found = get(store).messages
        assert [(message.id, message.position) for message in found] == [(a.id, a.position) for a in answers]

    @pytest.mark.parametrize("alias", DATABASES_HERE[1:2])
    def test_a_pool_may_give_several_dead_connections(self, alias: str) -> None:
        """As psycopg's does after a restart of the database. Between units of work the thread has no connection."""
        store = AdvancingDatabaseStore(alias)
        draft = make_draft()
        store.now()

        def work() -> None:
            connection, dead = connections[store.using], [True] * 3
            connect = connection.get_new_connection

            def from_pool(parameters: dict[str, Any]) -> Any:
                found = connect(parameters)
                if dead and dead.pop():
                    found.close()
                return found

            connection.get_new_connection = from_pool
            put(store, draft)
            assert not dead

        together(work)
        assert ids(get(store)) == [draft.id]

    def test_a_database_that_cannot_be_reached_is_not_tried_again(
        self, concurrent_store: AdvancingDatabaseStore
    ) -> None:
        store = concurrent_store
        store.now()
        tries: list[bool] = []

        def work() -> None:
            def refuse(parameters: object) -> None:
                tries.append(True)
                raise connections[store.using].Database.OperationalError("connection refused")

            connections[store.using].get_new_connection = refuse
            with pytest.raises(StoreUnavailable, match="refused"):
                put(store, make_draft())

        together(work)
        assert len(tries) == 1

    def test_a_server_that_became_read_only_is_left(self, concurrent_database: str) -> None:
        store = AdvancingDatabaseStore(concurrent_database)
        draft = make_draft()

        def work() -> None:
            get(store)
            _make_read_only(store.using)
            put(store, draft)

        together(work)
        assert ids(get(store)) == [draft.id]

    def test_a_read_only_server_within_a_transaction_is_an_error(self, concurrent_database: str) -> None:
        store = AdvancingDatabaseStore(concurrent_database)

        def work() -> bool:
            get(store)
            before = connections[store.using].connection
            _make_read_only(store.using)
            with pytest.raises(StoreUnavailable), transaction.atomic(using=store.using):
                put(store, make_draft())
            return connections[store.using].connection is before

        assert together(work) == [True]


class TestIsolation:
    """On a database whose OPTIONS ask for more than READ COMMITTED, our own transactions have that nevertheless."""

    @pytest.fixture(autouse=True)
    def repeatable_read(self, concurrent_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = connections[concurrent_database].settings_dict
        is_postgresql = connections[concurrent_database].vendor == "postgresql"
        level = psycopg.IsolationLevel.REPEATABLE_READ if is_postgresql else None
        monkeypatch.setitem(settings, "OPTIONS", {**settings.get("OPTIONS", {}), "isolation_level": level})

    def looks(self, store: AdvancingDatabaseStore, surrounding: AbstractContextManager[object]) -> list[int]:
        """How many messages a transaction sees before and after another one commits one."""

        def work() -> list[int]:
            with surrounding:
                before = store.stat("user.1").messages
                together(partial(put, store, make_draft()))
                return [before, store.stat("user.1").messages]

        return together(work)[0]

    def test_ours_sees_what_others_commit(self, concurrent_store: AdvancingDatabaseStore) -> None:
        using = concurrent_store.using
        assert self.looks(concurrent_store, own_transaction(using)) == [0, 1]

    def test_the_callers_is_the_callers(self, concurrent_store: AdvancingDatabaseStore) -> None:
        assert self.looks(concurrent_store, transaction.atomic(using=concurrent_store.using)) == [0, 0]

    def test_ours_in_the_callers_changes_nothing_there(self, concurrent_store: AdvancingDatabaseStore) -> None:
        def work() -> None:
            with transaction.atomic(using=concurrent_store.using):
                concurrent_store.stat("user.1")
                put(concurrent_store, make_draft())

        together(work)
        assert concurrent_store.stat("user.1").messages == 1


def _make_read_only(using: str) -> None:
    """The calling thread's connection, as after a failover."""
    is_postgresql = connections[using].vendor == "postgresql"
    with connections[using].cursor() as cursor:
        cursor.execute(
            "SET default_transaction_read_only = on" if is_postgresql else "SET SESSION TRANSACTION READ ONLY"
        )


def _cut(using: str) -> None:
    """Have the server end the calling thread's connection, from another one."""
    connection = connections[using]
    is_postgresql = connection.vendor == "postgresql"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()" if is_postgresql else "SELECT CONNECTION_ID()")
        number = cursor.fetchone()[0]
    kill = f"SELECT pg_terminate_backend({number}, 5000)" if is_postgresql else f"KILL {number}"

    def run() -> None:
        with connections[using].cursor() as cursor:
            cursor.execute(kill)

    together(run)
