"""Sends that nobody keeps: outside of the rollout, with the store away, in shadow mode."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import netra_queue
from netra_queue import BreakerOpen, operating, process, statistics, unprotected, wakeup
from netra_queue.core.message import LossReason, Outcome, Priority
from netra_queue.core.statistics import Event
from netra_queue.counting import adder
from netra_queue.exceptions import QueueFull, StoreUnavailable
from netra_queue.passing import read
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from tests.making import force_breaker

MEMORY = "netra_queue.stores.memory.MemoryStore"
POLICIES: dict[str, Any] = {
    "out": {"ROLLOUT": {"PERCENT": 0}},
    "live": {"WHILE_UNAVAILABLE": "live"},
    "shadow": {"ROLLOUT": {"SHADOW": True}, "MAX_MESSAGES": 1, "OVERFLOW": "reject"},
}


@pytest.fixture
def store(settings: Any) -> Iterator[Store]:
    settings.NETRA_QUEUE = {"STORE": MEMORY, "POLICIES": POLICIES}
    store = current_store()
    unprotected._begin_anew()
    for name in POLICIES:
        operating.carry_out(operating.pattern_set(f"{name}.*", name, 1))
    yield store
    process.close()


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The queue and the payload of each message that was given."""
    found: list[tuple[str, str]] = []

    def give(notes: Any) -> None:
        for note in notes:
            queue, _, message = read(note)
            found.append((queue, message.payload.text))

    monkeypatch.setattr(wakeup, "give", give)
    return found


def send_all(queues: list[str], verb: str) -> list[Outcome]:
    pairs = [(queue, number) for number, queue in enumerate(queues)]
    receipts = netra_queue.send_many(pairs) if verb == "send" else asyncio.run(netra_queue.asend_many(pairs))
    assert [receipt.queue for receipt in receipts] == queues
    return [receipt.outcome for receipt in receipts]


VERBS = pytest.mark.parametrize("verb", ["send", "asend"])


@VERBS
def test_in_one_call_some_are_kept_and_others_given(store: Store, given: list[Any], verb: str) -> None:
    outcomes = send_all(["out.1", "user.1", "out.2", "user.1"], verb)
    assert outcomes == [Outcome.LIVE_ONLY, Outcome.QUEUED, Outcome.LIVE_ONLY, Outcome.QUEUED]
    assert given == [("out.1", "0"), ("out.2", "2")]
    assert store.waiting(["out.1", "user.1", "out.2"]) == {"user.1"}
    assert set(store.describe(["out.1", "user.1"])) == {"user.1"}, "nothing is written for a queue that is outside"


@VERBS
def test_with_the_kill_switch_pulled_the_store_is_not_asked(
    store: Store, given: list[Any], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operating.carry_out(operating.switched(is_off=True))
    netra_queue.send("user.0", None)  # this process has heard of it
    for name in ("append", "describe", "ensure"):
        monkeypatch.setattr(type(store), name, lambda *_: pytest.fail("asked"))
    assert send_all(["user.1"], verb) == [Outcome.LIVE_ONLY]
    assert given[-1] == ("user.1", "0")


@VERBS
def test_while_the_breaker_is_open_a_policy_may_do_without_the_store(store: Store, given: list[Any], verb: str) -> None:
    force_breaker(store, is_open=True)
    assert send_all(["live.1"], verb) == [Outcome.LIVE_ONLY]
    assert given == [("live.1", "0")]
    for queues in (["user.1"], ["live.1", "user.1"]):
        with pytest.raises(BreakerOpen):
            send_all(queues, verb)
    assert len(given) == 1, "all or none"


def counted(store: Store) -> int:
    statistics.ledger.write()
    buckets = store.statistics(store.now() - timedelta(hours=1), store.now(), 10)
    return sum(bucket.figures.count(Event.UNPROTECTED) for bucket in buckets)


@VERBS
def test_what_was_unprotected_is_a_loss_that_clients_are_told_of(
    store: Store, given: list[Any], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "ledger", statistics.Ledger())
    adder.take()  # what other tests have counted
    force_breaker(store, is_open=True)
    send_all(["live.1", "live.1", "live.2"], verb)
    with pytest.raises(BreakerOpen):
        statistics.ledger.write()
    force_breaker(store, is_open=None)
    statistics.ledger.write()
    losses = store.losses(["live.1", "live.2"])
    assert losses["live.1"].counts == {(LossReason.UNPROTECTED, Priority.NORMAL): 2}
    assert losses["live.2"].total(LossReason.UNPROTECTED) == 1
    statistics.ledger.write()
    assert store.losses(["live.1"])["live.1"].total(LossReason.UNPROTECTED) == 2, "once"
    assert counted(store) == 3


@VERBS
def test_shadow_mode_refuses_nobody(store: Store, given: list[Any], verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [*send_all(["shadow.1"], verb), *send_all(["shadow.1"], verb)] == [Outcome.QUEUED] * 2, (
        "reject is for others"
    )

    def fail(*_: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(type(store), "append", fail)
    assert send_all(["shadow.1"], verb) == [Outcome.LIVE_ONLY]
    with pytest.raises(StoreUnavailable):
        send_all(["live.1"], verb)  # it may have been written


def test_the_error_of_a_full_queue_is_not_about_the_store(store: Store, given: list[Any], settings: Any) -> None:
    operating.carry_out(operating.policy_changed("live", {"MAX_MESSAGES": 1, "OVERFLOW": "reject"}))
    netra_queue.send("live.1", 1)
    with pytest.raises(QueueFull):
        netra_queue.send("live.1", 2)
    assert not given


def test_a_note_that_is_none_is_refused() -> None:
    for wrong in ({}, {"to": "user.1", "id": "1", "payload": "text", "priority": 1, "at": 0, "group": None}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            read(wrong)
