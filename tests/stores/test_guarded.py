"""The breaker around the process's store, whatever thread asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from netra_queue import BreakerOpen, QueueFull, conf, process
from netra_queue.core.breaker import BreakerState
from netra_queue.core.policy import Overflow
from netra_queue.core.statistics import Event
from netra_queue.exceptions import StoreUnavailable
from netra_queue.signals import breaker_changed
from netra_queue.stores import batching, current_store
from netra_queue.stores.base import Store
from netra_queue.stores.guarded import CONTROLS, UNGUARDED, current_guard
from netra_queue.stores.memory import MemoryStore
from tests import counts
from tests.making import force_breaker, make_draft
from tests.waiting import wait_until

POLICIES = {"user.1": conf.policy("default")}


class Moody(MemoryStore):
    """Fails, or hangs, when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away, self.calls = False, 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def waiting(self, queues: Any) -> set[str]:
        self.calls += 1
        assert self.goes_on.wait(10)
        if self.is_away:
            raise StoreUnavailable("away")
        return super().waiting(queues)


@pytest.fixture
def store(settings: Any) -> Iterator[Moody]:
    settings.NETRA_QUEUE = {"STORE": f"{__name__}.Moody", "BREAKER_SLOW_SECONDS": 0.2}
    store = current_store()
    assert isinstance(store, Moody)
    yield store
    store.goes_on.set()
    process.close()


def fail(store: Moody, times: int = 5) -> None:
    store.is_away = True
    for _ in range(times):
        with pytest.raises(StoreUnavailable, match="away"):
            store.waiting(["user.1"])


def test_a_store_that_fails_is_left_alone_for_a_while(store: Moody) -> None:
    fail(store)
    with pytest.raises(BreakerOpen) as refused:
        store.waiting(["user.1"])
    assert store.calls == 5, "it was not asked"
    assert 0 < (refused.value.retry_after_seconds or 0) <= 1
    with pytest.raises(BreakerOpen):
        store.append([make_draft()], POLICIES)


def test_it_is_asked_again_and_is_believed(store: Moody) -> None:
    fail(store)
    store.is_away = False
    wait_until(lambda: current_guard().state is not BreakerState.OPEN or not refuses(store))
    store.append([make_draft()], POLICIES)
    assert current_guard().state is BreakerState.CLOSED


def refuses(store: Moody) -> bool:
    try:
        store.waiting(["user.1"])
    except BreakerOpen:
        return True
    return False


def test_a_store_that_hangs_is_not_waited_for_by_others(store: Moody) -> None:
    store.goes_on.clear()
    waiting = [threading.Thread(target=store.waiting, args=(["user.1"],)) for _ in range(5)]
    for thread in waiting:
        thread.start()
    wait_until(lambda: current_guard().state is BreakerState.OPEN or not is_let_in())
    with pytest.raises(BreakerOpen):
        store.append([make_draft()], POLICIES)
    with pytest.raises(BreakerOpen):
        batching.current_writer().submit([make_draft()], POLICIES)
    store.goes_on.set()
    for thread in waiting:
        thread.join(5)


def is_let_in() -> bool:
    try:
        current_guard().check()
    except BreakerOpen:
        return False
    return True


def test_an_operator_has_the_last_word(store: Moody) -> None:
    force_breaker(store, is_open=True)
    assert current_guard().state is BreakerState.OPEN
    with pytest.raises(BreakerOpen) as refused:
        store.waiting(["user.1"])
    assert 50 < (refused.value.retry_after_seconds or 0) <= 60
    force_breaker(store, is_open=False)
    fail(store, times=10)
    assert current_guard().state is BreakerState.CLOSED
    force_breaker(store, is_open=None)
    with pytest.raises(BreakerOpen):
        store.waiting(["user.1"])


def test_an_operators_word_runs_out(store: Moody) -> None:
    force_breaker(store, is_open=True, seconds=0.3)
    assert refuses(store)
    wait_until(lambda: not refuses(store))
    assert current_guard().state is BreakerState.CLOSED


def test_it_tells_when_it_changes(store: Moody) -> None:
    told: list[tuple[BreakerState, BreakerState]] = []

    def listen(*, state: BreakerState, before: BreakerState, **kwargs: Any) -> None:
        told.append((before, state))

    breaker_changed.connect(listen)
    fail(store)
    store.is_away = False
    wait_until(lambda: not refuses(store))
    opened, closed = told[0], told[-1]
    assert opened == (BreakerState.CLOSED, BreakerState.OPEN)
    assert closed[1] is BreakerState.CLOSED


def test_the_end_of_the_process_asks_it_all_the_same(store: Moody) -> None:
    fail(store)
    store.is_away = False
    process.close()
    assert store.waiting(["user.1"]) == set()


def test_every_method_of_the_contract_is_guarded(store: Moody) -> None:
    methods = {name for name in dir(Store) if not name.startswith("_") and callable(getattr(Store, name))}
    assert methods >= UNGUARDED | CONTROLS | {"record_statistics", "append"}
    assert {name for name in methods if name in vars(type(store))} == methods - UNGUARDED


def test_full_is_an_answer(store: Moody, settings: Any) -> None:
    small = {"user.1": replace(conf.policy("default"), max_messages=1, overflow=Overflow.REJECT)}
    store.append([make_draft()], small)
    for _ in range(10):
        with pytest.raises(QueueFull):
            store.append([make_draft()], small)
    assert current_guard().state is BreakerState.CLOSED


def test_it_is_counted_that_it_opens_and_that_it_stays_open(store: Moody) -> None:
    """What this process cannot say while it is so."""
    counts.take()
    fail(store)
    opened = counts.take().count(Event.BREAKER_OPENED)
    assert opened == 1

    def stays_open() -> bool:
        with suppress(StoreUnavailable):
            store.waiting(["user.1"])
        return counts.take().count(Event.BREAKER_OPENED) == 1

    wait_until(stays_open)
    store.is_away = False
    wait_until(lambda: not refuses(store))
    assert counts.take().count(Event.BREAKER_OPENED) == 0, "closed again"
