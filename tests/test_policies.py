"""Policies remembered by a process, and what a fork makes of that."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator
from typing import Any

import pytest

from netra_queue import conf, policies
from netra_queue.exceptions import NotConfigured
from netra_queue.stores.memory import MemoryStore
from tests.making import make_policy, make_presence


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_looks_a_policy_up() -> None:
    """The child has only the thread that forked: a lock that another one held would never be given back."""
    store = MemoryStore()
    store.ensure(["user.1"])
    policies.of(store, ["user.1"])
    with policies._lock:
        pid = os.fork()
        if pid == 0:
            signal.alarm(5)
            os._exit(3 if policies.remembered(store, ["user.1"]) is None else 4)
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status), "the child hung"
    assert os.WEXITSTATUS(status) == 3, "the child asks the store itself"
    assert policies.remembered(store, [make_presence().queue]) is not None


class Counting(MemoryStore):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.described: list[list[str]] = []
        self.ensured: list[list[str]] = []

    def describe(self, queues: Collection[str]) -> dict[str, str]:
        self.described.append(sorted(queues))
        return super().describe(queues)

    def ensure(self, queues: Collection[str]) -> None:
        self.ensured.append(sorted(queues))
        super().ensure(queues)


@pytest.fixture
def store(settings: Any) -> Iterator[Counting]:
    settings.NETRA_QUEUE = {"POLICIES": {"narrow": {"WINDOW": 2}}}
    policies.forget()
    store = Counting()
    store.attach(make_presence("user.1", policy="narrow"), make_policy())
    yield store
    policies.forget()


def test_the_store_is_asked_once_in_a_while(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        assert policies.of(store, ["user.1"])["user.1"].window == 2
    assert store.described == [["user.1"]]
    assert policies.remembered(Counting(), ["user.1"]) is None, "another store is asked itself"
    policies.forget()
    policies.of(store, ["user.1"])
    assert len(store.described) == 2
    monkeypatch.setattr(policies, "REMEMBER_SECONDS", -1.0)
    policies.forget()
    for _ in range(2):
        policies.of(store, ["user.1"])
    assert len(store.described) == 4, "what was remembered has run out"


def test_an_unknown_queue_has_the_default_until_it_is_known(store: Counting) -> None:
    assert policies.of(store, ["user.2"])["user.2"].window == 256
    store.attach(make_presence("user.2", policy="narrow"), make_policy())
    assert policies.of(store, ["user.2"])["user.2"].window == 2, "that it was unknown is not relied upon"


def test_queues_are_made_known_once(store: Counting) -> None:
    policies.of(store, ["user.1", "user.2"])
    for _ in range(3):
        policies.make_known(store, ["user.1", "user.2"])
    assert store.ensured == [["user.2"]]
    assert store.describe(["user.2"]) == {"user.2": ""}
    known = policies.remembered(store, ["user.1", "user.2"])
    assert known is not None
    assert [known[queue].window for queue in ("user.1", "user.2")] == [2, 256]


def test_a_policy_that_the_settings_have_no_more(store: Counting, settings: Any, caplog: Any) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"WINDOW": 3}}}
    assert policies.of(store, ["user.1"])["user.1"].window == 3
    assert "there is no policy 'narrow'" in caplog.text
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"WINDOW": 0}}}
    with pytest.raises(NotConfigured, match="WINDOW"):
        conf.policy_or_default("narrow")
    with pytest.raises(NotConfigured, match="WINDOW"):
        conf.policy_or_default("default")


def test_memory_is_bounded(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "REMEMBERED_QUEUES", 10)
    for number in range(50):
        policies.of(store, [f"user.{number}"])
        assert len(policies._remembered) <= 10
