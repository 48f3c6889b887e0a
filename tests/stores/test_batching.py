"""The batching writer: what shares a transaction, what waits for whom, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from netra_queue.core.message import Draft, Outcome
from netra_queue.core.policy import Overflow, Policy
from netra_queue.exceptions import QueueFull
from netra_queue.stores import batching, current_store
from netra_queue.stores.base import Appended
from netra_queue.stores.batching import BatchingWriter, current_writer
from netra_queue.stores.database import DatabaseStore
from netra_queue.stores.memory import MemoryStore
from tests.conftest import DATABASES_HERE
from tests.making import get, make_draft, make_policy
from tests.waiting import together

SECONDS = 20


class Recording(MemoryStore):
    """Tells how many drafts each append had, and waits before the first one until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.is_busy, self.may_go = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def append(self, drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> list[Appended]:
        self.batches.append(len(drafts))
        self.is_busy.set()
        assert self.may_go.wait(SECONDS)
        return super().append(drafts, policies)


def submit(writer: BatchingWriter, *drafts: Draft, policy: Policy | None = None) -> Any:
    return writer.submit(drafts, {draft.queue: policy or make_policy() for draft in drafts})


def batches(writer: BatchingWriter, store: Recording, *jobs: list[Draft]) -> list[int]:
    """How these jobs are shared out when all of them were submitted while the writer was busy."""
    first = submit(writer, make_draft())
    assert store.is_busy.wait(SECONDS)
    futures = [submit(writer, *drafts) for drafts in jobs]
    store.may_go.set()
    for future in [first, *futures]:
        future.result(SECONDS)
    assert writer.close(SECONDS)
    return store.batches[1:]


def test_what_was_submitted_meanwhile_shares_a_batch() -> None:
    store = Recording()
    assert batches(BatchingWriter(store), store, *([make_draft()] for _ in range(5))) == [5]


def test_a_batch_has_its_most_messages() -> None:
    store = Recording()
    jobs = [[make_draft() for _ in range(count)] for count in (2, 2, 7, 1)]
    assert batches(BatchingWriter(store, batch_messages=5), store, *jobs) == [4, 7, 1]


def test_a_batch_has_its_most_bytes_and_a_larger_job_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_BYTES", 100)
    store = Recording()
    jobs = [[make_draft(text="1" * size)] for size in (60, 40, 1, 200, 50, 51)]
    assert batches(BatchingWriter(store), store, *jobs) == [2, 1, 1, 1, 1]


def test_a_job_that_fails_fails_alone() -> None:
    store = Recording()
    writer = BatchingWriter(store)
    submit(writer, make_draft())
    assert store.is_busy.wait(SECONDS)
    reject = make_policy(max_messages=1, overflow=Overflow.REJECT)
    full = submit(writer, make_draft("user.2"), make_draft("user.2"), policy=reject)
    good = submit(writer, make_draft("user.3"))
    store.may_go.set()
    assert good.result(SECONDS)[0].outcome is Outcome.QUEUED
    with pytest.raises(QueueFull):
        full.result(SECONDS)
    assert writer.close(SECONDS)


def test_what_comes_after_the_end_is_refused_and_not_kept() -> None:
    writer = BatchingWriter(MemoryStore())
    assert writer.close(SECONDS)
    with pytest.raises(RuntimeError):
        submit(writer, make_draft())
    assert not writer._jobs
    assert (writer._messages, writer._bytes) == (0, 0)


@pytest.fixture
def lanes(settings: Any, concurrent_database: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The process's writers on each database that lets two transactions write at a time."""
    settings.NETRA_QUEUE = {}
    store = DatabaseStore(concurrent_database)
    monkeypatch.setattr(batching, "current_store", lambda: store)
    yield store
    assert batching.close(SECONDS)


def test_a_key_in_an_open_transaction_stalls_nobody_else(lanes: DatabaseStore) -> None:
    is_open, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic(using=lanes.using):
            lanes.append([make_draft(key="k")], {"user.1": make_policy()})
            is_open.set()
            assert may_end.wait(SECONDS)

    def send() -> list[Outcome]:
        assert is_open.wait(SECONDS)
        try:
            waiting = submit(current_writer(keyed=True), make_draft(key="k"))
            others = [submit(current_writer(), make_draft()), submit(current_writer(keyed=True), make_draft(key="l"))]
            outcomes = [future.result(SECONDS)[0].outcome for future in others]
            assert not waiting.done()
        finally:
            may_end.set()
        return [*outcomes, waiting.result(SECONDS)[0].outcome]

    assert together(hold, send)[1] == [Outcome.QUEUED, Outcome.QUEUED, Outcome.DUPLICATE]


def test_closing_closes_both_lanes(settings: Any) -> None:
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore"}
    plain, keyed = current_writer(), current_writer(keyed=True)
    assert plain is not keyed
    written = [submit(plain, make_draft()), submit(keyed, make_draft(key="k"))]
    assert batching.close(SECONDS)
    assert all(future.done() for future in written)
    for writer in (plain, keyed):
        with pytest.raises(RuntimeError):
            submit(writer, make_draft())
    assert current_writer() is not plain
    assert batching.close(SECONDS)


def test_the_writer_follows_the_store_setting(settings: Any) -> None:
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore"}
    submit(current_writer(), make_draft()).result(SECONDS)
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore", "POLL_SECONDS": 1}
    draft = make_draft()
    submit(current_writer(), draft).result(SECONDS)
    assert [message.id for message in get(current_store()).messages] == [draft.id]
    assert batching.close(SECONDS)


def test_one_statement_carries_no_more_than_a_packet_may(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netra_queue.stores.appending.INSERT_BYTES", 100)
    store = DatabaseStore(database)
    drafts = [make_draft(text="1" * size) for size in (60, 40, 1, 200, 50, 51)]
    with CaptureQueriesContext(connections[database]) as queries:
        answers = store.append(drafts, {"user.1": make_policy()})
    inserts = [query["sql"] for query in queries if "netra_queue_message" in query["sql"].split("(")[0]]
    assert len([sql for sql in inserts if "INSERT" in sql]) == 5
    assert [message.id for message in get(store).messages] == [draft.id for draft in drafts]
    assert [answer.position for answer in answers] == [message.position for message in get(store).messages]


@pytest.mark.parametrize("alias", DATABASES_HERE[2:])
def test_positions_where_the_database_does_not_return_them(alias: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MySQL; MariaDB keeps the same promises about its ids."""
    monkeypatch.setattr(type(connections[alias].features), "can_return_rows_from_bulk_insert", False)
    store = DatabaseStore(alias)
    store.append([make_draft()], {"user.1": make_policy()})
    answers = store.append([make_draft(), make_draft("user.2")], {n: make_policy() for n in ("user.1", "user.2")})
    found = [get(store, "user.1").messages[1].position, get(store, "user.2").messages[0].position]
    assert [answer.position for answer in answers] == found
