"""More messages than MAX_STORED_MESSAGES: the store takes no more, and gives as ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from netra_queue import BreakerOpen, conf, process
from netra_queue.core.breaker import BreakerState
from netra_queue.stores import current_store, overload
from netra_queue.stores.base import Store
from netra_queue.stores.guarded import current_guard
from tests.making import get, make_draft

POLICIES = {"user.1": conf.policy("default")}


@pytest.fixture
def store(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(overload, "CHECK_EVERY_SECONDS", 0.0)
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore", "MAX_STORED_MESSAGES": 10}
    yield current_store()
    process.close()


def append(store: Store, count: int) -> None:
    for _ in range(count):
        store.append([make_draft()], POLICIES)


def test_it_takes_no_more_until_clients_have_taken_some(store: Store, caplog: Any) -> None:
    append(store, 11)
    with pytest.raises(BreakerOpen) as refused:
        append(store, 1)
    assert refused.value.retry_after_seconds is not None
    positions = [message.position for message in get(store).messages]
    store.ack({"user.1": positions[:1]})
    with pytest.raises(BreakerOpen):
        append(store, 1)  # ten: not enough yet
    store.ack({"user.1": positions[:2]})
    append(store, 2)
    assert current_guard().state is BreakerState.CLOSED, "the store has not failed"
    changes = [record.getMessage() for record in caplog.records if record.action == "overload_changed"]
    assert changes == [
        "the store takes no more: the limit is 10 messages",
        "the store takes messages again: the limit is 10 messages",
    ]


def test_without_a_limit_nobody_looks(store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "MAX_STORED_MESSAGES": None}
    store = current_store()
    monkeypatch.setattr(type(store), "holds_more_than", lambda *_: pytest.fail("looked"))
    append(store, 12)
