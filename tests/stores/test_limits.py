"""Limits of DatabaseStore among transactions that are open at the same time: what is locked, and who takes turns."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection
from typing import TypeVar

import pytest
from django.db import transaction

from netra_queue.core.message import LossReason, Outcome, Priority
from netra_queue.core.policy import Overflow
from netra_queue.exceptions import QueueFull
from netra_queue.stores import limits
from tests.making import AdvancingDatabaseStore, get, ids, make_draft, make_policy, put
from tests.waiting import together

CRITICAL, HIGH, NORMAL, LOW = Priority
SENDERS = 6
Result = TypeVar("Result")


@pytest.fixture
def store(concurrent_database: str) -> AdvancingDatabaseStore:
    return AdvancingDatabaseStore(concurrent_database)


def while_open(store: AdvancingDatabaseStore, held: Callable[[], object], work: Callable[[], Result]) -> Result:
    """What ``work`` gives while a transaction is open that has done ``held``."""
    is_open, may_end = threading.Event(), threading.Event()
    found: list[Result] = []

    def hold() -> None:
        with transaction.atomic(using=store.using):
            held()
            is_open.set()
            assert may_end.wait(30)

    def act() -> None:
        assert is_open.wait(30)
        try:
            found.append(work())
        finally:
            may_end.set()

    together(hold, act)
    return found[0]


class TestWhatIsLocked:
    def test_an_open_overflow_holds_its_victim_only(self, store: AdvancingDatabaseStore) -> None:
        policy = make_policy(max_messages=40)
        low = put(store, *(make_draft(priority=LOW) for _ in range(20)), policy=policy)
        put(store, *(make_draft(priority=CRITICAL) for _ in range(20)), policy=policy)

        def others() -> set[int]:
            (urgent,) = put(store, make_draft(priority=HIGH), policy=policy)
            assert urgent.outcome is Outcome.QUEUED
            return store.ack({"user.1": [a.position for a in low if a.position is not None]}).get("user.1", set())

        refused = while_open(store, lambda: put(store, make_draft(priority=LOW), policy=policy), others)
        assert refused == {low[0].position}, "the acks of what was only looked at are taken"
        losses = store.losses(["user.1"])["user.1"]
        assert dict(losses.counts) == {(LossReason.DROPPED, LOW): 2}, "nothing urgent went for what is less urgent"

    def test_an_open_overflow_does_not_hold_the_next_message_to_expire(self, store: AdvancingDatabaseStore) -> None:
        policy = make_policy(max_messages=1)
        (next_one,) = put(store, make_draft("user.2", ttl=60))
        put(store, make_draft(), policy=policy)
        assert next_one.position is not None
        positions = {"user.2": [next_one.position]}
        assert while_open(store, lambda: put(store, make_draft(), policy=policy), lambda: store.ack(positions)) == {}
        assert store.waiting(["user.2"]) == set()

    def test_for_a_victim_in_other_hands_the_next_one_goes(self, store: AdvancingDatabaseStore) -> None:
        policy = make_policy(max_messages=3)
        sent = [make_draft() for _ in range(3)]
        first = put(store, *sent, policy=policy)[0].position
        assert first is not None
        newcomer = make_draft()

        def overflow() -> list[str]:
            put(store, newcomer, policy=policy)
            return ids(get(store))

        def acknowledge() -> None:
            assert store.ack({"user.1": [first]}) == {}

        assert while_open(store, acknowledge, overflow) == [sent[0].id, sent[2].id, newcomer.id]

    def test_what_went_meanwhile_needs_no_replacement(
        self, store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy = make_policy(max_messages=3)
        sent = [make_draft() for _ in range(3)]
        first = put(store, *sent, policy=policy)[0].position
        assert first is not None
        lock = limits.lock

        def acked_before(using: str, positions: Collection[int]) -> set[int]:
            if first in positions:
                together(lambda: store.ack({"user.1": [first]}))
            return lock(using, positions)

        monkeypatch.setattr(limits, "lock", acked_before)
        newcomer = make_draft()
        put(store, newcomer, policy=policy)
        assert ids(get(store)) == [sent[1].id, sent[2].id, newcomer.id]
        assert store.losses(["user.1"]) == {}


class TestTurns:
    @pytest.fixture(autouse=True)
    def all_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every sender has inserted before the first one counts. One that repeats after a deadlock goes on alone."""
        barrier, enforce, calls = threading.Barrier(SENDERS), limits.enforce, itertools.count()

        def meet(*arguments: object, **options: object) -> set[int]:
            if next(calls) < SENDERS:
                barrier.wait(30)
            return enforce(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(limits, "enforce", meet)

    def accepted(self, send: Callable[[], object]) -> int:
        def try_to() -> bool:
            try:
                send()
            except QueueFull:
                return False
            return True

        return sum(together(*[try_to] * SENDERS))

    def test_senders_of_many_messages(self, store: AdvancingDatabaseStore) -> None:
        policy = make_policy(max_messages=130, overflow=Overflow.REJECT)
        assert self.accepted(lambda: put(store, *(make_draft() for _ in range(40)), policy=policy)) == 3
        assert store.stat("user.1").messages == 120

    def test_senders_of_large_messages(self, store: AdvancingDatabaseStore) -> None:
        policy = make_policy(max_bytes=1000, overflow=Overflow.REJECT)
        assert self.accepted(lambda: put(store, make_draft(text='"' + "x" * 398 + '"'), policy=policy)) == 2
        assert store.stat("user.1").size == 800

    def test_senders_that_fit_together_do_not_wait(self, store: AdvancingDatabaseStore) -> None:
        assert self.accepted(lambda: put(store, make_draft(), policy=make_policy())) == SENDERS
