"""Dead letters, withheld and left-out messages in the database: concurrency, transactions, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from netra_queue.core.message import LossReason
from netra_queue.models import Message
from netra_queue.stores.base import Returned
from tests.making import AdvancingDatabaseStore, get, ids, make_draft, make_policy, put, rolled_back
from tests.waiting import together

POLICY = make_policy(max_deliveries=4)
DROPPED = {"POLICIES": {"default": {"DEAD_LETTERS": ["dropped", "left_out", "withheld", "dead"]}}}


@pytest.fixture
def store(database: str, settings: Any) -> AdvancingDatabaseStore:
    settings.NETRA_QUEUE = DROPPED
    return AdvancingDatabaseStore(database)


@pytest.fixture
def concurrent_store(concurrent_database: str, settings: Any) -> AdvancingDatabaseStore:
    settings.NETRA_QUEUE = DROPPED
    store = AdvancingDatabaseStore(concurrent_database)
    store.ensure(["user.1"])
    return store


def places(store: AdvancingDatabaseStore, count: int) -> list[int]:
    answers = put(store, *(make_draft() for _ in range(count)))
    return [answer.position for answer in answers if answer.position is not None]


def back(store: AdvancingDatabaseStore, *positions: int, alone: bool = False) -> int:
    return store.returned([Returned("user.1", positions, alone, POLICY)])


@contextmanager
def held(store: AdvancingDatabaseStore, position: int) -> Iterator[None]:
    """Another transaction has this message's row: the calling thread's, with the work done in a thread beside it."""
    with transaction.atomic(using=store.using):
        assert Message.objects.using(store.using).select_for_update().get(pk=position)
        yield


def beside(work: Callable[[], Any]) -> Any:
    """Done on a connection of its own, and within seconds: it waits for nobody."""
    return together(work, timeout=10)[0]


class TestAtTheSameTime:
    def test_rows_in_other_hands_are_not_waited_for(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        taken, withheld, left, *free = places(store, 40)
        with held(store, taken):
            assert beside(lambda: back(store, taken, *free)) == 0
            assert beside(lambda: store.withhold({"user.1": [taken, withheld]})) == {"user.1": {taken}}
            waiting, _ = beside(lambda: store.leave_out("user.1", [taken, left], None, POLICY))
            assert waiting == 38
        assert {message.position: message.deliveries for message in get(store).messages} == {
            taken: 0,
            **dict.fromkeys(free, 1),
        }
        assert store.withhold({"user.1": [taken]}) == {}

    def test_setting_aside_waits_for_nobody(self, concurrent_store: AdvancingDatabaseStore) -> None:
        """MariaDB looks at a small table as a whole unless it is told not to."""
        store = concurrent_store
        taken, mine = places(store, 2)
        with held(store, taken):
            for _ in range(3):
                assert beside(lambda: back(store, mine, alone=True)) == 0
            assert beside(lambda: back(store, mine, alone=True)) == 1
        assert [letter.deliveries for letter in store.letters(9)] == [4]

    def test_neither_does_a_caller_whose_transaction_locks_what_it_reads(
        self, concurrent_store: AdvancingDatabaseStore
    ) -> None:
        store = concurrent_store
        taken, *_ = places(store, 40)

        def overflow() -> None:
            if connections[store.using].vendor == "mysql":
                with connections[store.using].cursor() as cursor:
                    cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            with transaction.atomic(using=store.using):
                put(store, make_draft(), policy=make_policy(max_messages=5))

        with held(store, taken):
            beside(overflow)
        assert len(store.letters(99)) == 36

    def test_many_counts_of_one_message(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        positions = places(store, 20)
        dead = 0
        for _ in range(8):
            dead += sum(together(*(partial(back, store, position, alone=True) for position in positions[:6])))
            dead += sum(together(*(partial(back, store, *positions, alone=False) for _ in range(4))))
        assert dead == 6
        assert len(store.letters(99)) == 6
        assert store.losses(["user.1"])["user.1"].total(LossReason.DEAD) == 6
        assert {message.deliveries for message in get(store).messages} == {2}

    def test_acked_or_set_aside_but_not_both(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        for _ in range(10):
            (position,) = places(store, 1)
            for _ in range(3):
                back(store, position, alone=True)
            before = len(store.letters(99))
            together(
                lambda: back(store, position, alone=True),  # noqa: B023  called at once
                lambda: store.ack({"user.1": [position]}),  # noqa: B023
            )
            store.ack({"user.1": [position]})
            lost = store.losses(["user.1"])
            assert len(store.letters(99)) in (before, before + 1)
            assert (lost["user.1"].total(LossReason.DEAD) if lost else 0) == len(store.letters(99))
            assert get(store).messages == ()

    def test_two_operators_requeue_one_letter_once(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        for _ in range(5):
            (position,) = places(store, 1)
            store.withhold({"user.1": [position]})
            (letter,) = store.letters(9)
            answers = together(*(partial(store.requeue, letter.number) for _ in range(4)))
            assert len([answer for answer in answers if answer is not None]) == 1
            (message,) = get(store).messages
            store.ack({"user.1": [message.position]})


class TestTransactions:
    def test_what_a_rolled_back_send_pushed_out_was_not_set_aside(self, store: AdvancingDatabaseStore) -> None:
        draft = make_draft()
        put(store, draft)
        with rolled_back(store.using):
            put(store, make_draft(), policy=make_policy(max_messages=1))
            assert [letter.id for letter in store.letters(9)] == [draft.id]
        assert store.letters(9) == []
        assert ids(get(store)) == [draft.id]

    def test_a_requeue_that_is_rolled_back_leaves_the_letter(self, store: AdvancingDatabaseStore) -> None:
        store.ensure(["user.1"])
        (position,) = places(store, 1)
        store.withhold({"user.1": [position]})
        (letter,) = store.letters(9)
        with rolled_back(store.using):
            assert store.requeue(letter.number) is not None
        assert store.letters(9) == [letter]
        assert get(store).messages == ()

    def test_a_letter_without_a_queue_stays(self, store: AdvancingDatabaseStore) -> None:
        (position,) = places(store, 1)
        store.withhold({"user.1": [position]})
        (letter,) = store.letters(9)
        assert letter.queue.startswith("#")
        assert store.requeue(letter.number) is None
        assert store.letters(9) == [letter]


def statements(store: AdvancingDatabaseStore, work: Callable[[], object]) -> list[str]:
    with CaptureQueriesContext(connections[store.using]) as queries:
        work()
    return [query["sql"] for query in queries if "netra_queue_" in query["sql"]]


def test_counting_many_takes_as_many_statements_as_counting_one(store: AdvancingDatabaseStore) -> None:
    one, *many = places(store, 101)
    few = statements(store, lambda: back(store, one))
    returns = [Returned("user.1", tuple(many[start : start + 10]), False, POLICY) for start in range(0, 100, 10)]
    assert len(statements(store, lambda: store.returned(returns))) == len(few)
    updates = [sql for sql in few if sql.startswith("UPDATE") and "deliveries" in sql]
    assert len(updates) == 1


def test_no_queue_is_looked_up_when_no_policy_keeps_such_losses(store: AdvancingDatabaseStore, settings: Any) -> None:
    def tables() -> str:
        put(store, make_draft(ttl=1))
        store.advance(1)
        return " ".join(statements(store, lambda: store.sweep(10)))

    assert "netra_queue_queue" not in tables()
    settings.NETRA_QUEUE = {"POLICIES": {"other": {"DEAD_LETTERS": ["expired"]}}}
    found = tables()
    assert "netra_queue_queue" in found
    assert "netra_queue_deadletter" not in found
