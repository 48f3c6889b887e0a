"""Group commit seen by its senders: what they share, what they do not, and what they are told when the store fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import pytest

from netra_queue.core.message import Draft, Outcome
from netra_queue.core.policy import Policy
from netra_queue.exceptions import StoreUnavailable
from netra_queue.stores import batching
from netra_queue.stores.base import Appended
from netra_queue.stores.batching import BatchingWriter
from netra_queue.stores.memory import MemoryStore
from tests.making import get, ids, make_draft, make_policy
from tests.waiting import together, wait_until

SECONDS = 20


class HeldUp(MemoryStore):
    """Waits in each append until it is let go, and fails as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_busy, self.may_go = threading.Event(), threading.Event()
        self.appends: list[list[str]] = []
        self.error: Exception | None = None
        self.refused = ""  # the payload of a draft that the database refuses

    def append(self, drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> list[Appended]:
        self.appends.append([draft.id for draft in drafts])
        self.is_busy.set()
        assert self.may_go.wait(SECONDS)
        if self.error is not None:
            raise self.error
        if any(draft.payload.text == self.refused for draft in drafts):
            raise ValueError("the database refuses this one")
        return super().append(drafts, policies)


@pytest.fixture
def store() -> HeldUp:
    return HeldUp()


@pytest.fixture
def writer(store: HeldUp) -> Iterator[BatchingWriter]:
    writer = BatchingWriter(store)
    yield writer
    store.may_go.set()
    assert writer.close(SECONDS)


def submit(writer: BatchingWriter, *drafts: Draft) -> Future[list[Appended]]:
    return writer.submit(drafts, {draft.queue: make_policy() for draft in drafts})


def hold_up(writer: BatchingWriter, store: HeldUp) -> Future[list[Appended]]:
    """Returns when the writer's thread is in an append."""
    future = submit(writer, make_draft("first"))
    assert store.is_busy.wait(SECONDS)
    return future


def test_concurrent_senders_share_commits_and_each_gets_its_own_answer(writer: BatchingWriter, store: HeldUp) -> None:
    hold_up(writer, store)
    jobs = [[make_draft(f"user.{number}") for _ in range(number % 3 + 1)] for number in range(60)]
    futures = together(*(lambda job=job: submit(writer, *job) for job in jobs))
    store.may_go.set()
    answers = [future.result(SECONDS) for future in futures]
    assert [[answer.id for answer in some] for some in answers] == [[draft.id for draft in job] for job in jobs]
    assert len(store.appends) <= 3
    for number, job in enumerate(jobs):
        assert ids(get(store, f"user.{number}")) == [draft.id for draft in job]


def test_one_senders_order_is_kept(writer: BatchingWriter, store: HeldUp) -> None:
    hold_up(writer, store)
    drafts = [make_draft() for _ in range(600)]
    futures = [submit(writer, draft) for draft in drafts]
    store.may_go.set()
    for future in futures:
        future.result(SECONDS)
    assert ids(get(store)) == [draft.id for draft in drafts]


def test_what_the_database_refuses_fails_its_own_sender_only(writer: BatchingWriter, store: HeldUp) -> None:
    store.refused = '"bad"'
    hold_up(writer, store)
    before, bad, after = make_draft(), [make_draft(), make_draft(text='"bad"')], make_draft()
    futures = [submit(writer, before), submit(writer, *bad), submit(writer, after)]
    store.may_go.set()
    with pytest.raises(ValueError, match="refuses"):
        futures[1].result(SECONDS)
    assert [futures[number].result(SECONDS)[0].outcome for number in (0, 2)] == [Outcome.QUEUED] * 2
    assert ids(get(store)) == [before.id, after.id], "each once, and nothing of the sender that failed"


def test_an_unavailable_store_is_the_answer_to_all(writer: BatchingWriter, store: HeldUp) -> None:
    store.error = StoreUnavailable("it is away")
    futures = [hold_up(writer, store), *(submit(writer, make_draft()) for _ in range(5))]
    store.may_go.set()
    for future in futures:
        with pytest.raises(StoreUnavailable, match="it is away"):
            future.result(SECONDS)
    assert [len(some) for some in store.appends] == [1, 5], "it is not asked once more for each of them"
    store.error = None
    draft = make_draft()
    assert submit(writer, draft).result(SECONDS)[0].id == draft.id
    assert ids(get(store)) == [draft.id]


@pytest.mark.parametrize(
    ("limit", "value", "size"),
    [("BACKLOG_MESSAGES", 10, 1), ("BACKLOG_BYTES", 1000, 100)],
    ids=["messages", "bytes"],
)
def test_a_backlog_is_bounded(
    writer: BatchingWriter, store: HeldUp, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, size: int
) -> None:
    monkeypatch.setattr(batching, limit, value)
    hold_up(writer, store)
    drafts = [make_draft(text="1" * size) for _ in range(12)]
    futures = [submit(writer, *drafts[start : start + 2]) for start in range(0, 8, 2)]
    with pytest.raises(StoreUnavailable, match="waiting to be written"):
        submit(writer, *drafts[8:11])
    futures.append(submit(writer, *drafts[8:10]))
    with pytest.raises(StoreUnavailable, match="waiting to be written"):
        submit(writer, drafts[10])
    store.may_go.set()
    for future in futures:
        future.result(SECONDS)
    submit(writer, drafts[11]).result(SECONDS)
    assert ids(get(store)) == [draft.id for draft in [*drafts[:10], drafts[11]]]


def test_a_job_that_is_cancelled_before_its_batch_leaves_nothing(
    writer: BatchingWriter, store: HeldUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "BACKLOG_MESSAGES", 3)
    first = hold_up(writer, store)
    kept, cancelled = make_draft(), make_draft(key="k")
    futures = [submit(writer, cancelled), submit(writer, kept)]
    assert futures[0].cancel()
    assert not first.cancel(), "it is being written"
    store.may_go.set()
    futures[1].result(SECONDS)
    assert ids(get(store)) == [kept.id]
    assert submit(writer, make_draft(key="k")).result(SECONDS)[0].outcome is Outcome.QUEUED
    store.may_go.clear()
    store.is_busy.clear()
    hold_up(writer, store)
    for _ in range(3):
        submit(writer, make_draft())  # the cancelled one takes no room


def test_all_are_cancelled(writer: BatchingWriter, store: HeldUp) -> None:
    hold_up(writer, store)
    futures = [submit(writer, make_draft()) for _ in range(3)]
    assert all(future.cancel() for future in futures)
    store.may_go.set()
    last = make_draft()
    submit(writer, last).result(SECONDS)
    assert ids(get(store)) == [last.id]
    assert all(store.appends), "nothing is asked for nothing"


def test_closing_writes_what_was_submitted(store: HeldUp) -> None:
    writer = BatchingWriter(store)
    hold_up(writer, store)
    drafts = [make_draft() for _ in range(3)]
    futures = [submit(writer, draft) for draft in drafts]
    assert not writer.close(0.05), "the store is busy"
    store.may_go.set()
    assert writer.close(SECONDS)
    assert all(future.done() for future in futures)
    assert ids(get(store)) == [draft.id for draft in drafts]


def test_a_senders_thread_is_not_used(writer: BatchingWriter, store: HeldUp) -> None:
    """``submit`` never blocks: it returns while the store does not."""
    futures = [hold_up(writer, store), submit(writer, make_draft())]
    assert not any(future.done() for future in futures)
    store.may_go.set()
    wait_until(lambda: all(future.done() for future in futures))


class Listening:
    """An event loop's side: what is announced, and its futures."""

    def __init__(self, writer: BatchingWriter) -> None:
        self._writer, self.announced, self.threads = writer, list[str](), set[str]()

    def announce(self, appended: Iterable[Appended]) -> None:
        self.announced += [answer.id for answer in appended]
        self.threads.add(threading.current_thread().name)

    def submit(self, *drafts: Draft) -> asyncio.Future[list[Appended]]:
        return self._writer.asubmit(drafts, {draft.queue: make_policy() for draft in drafts}, self.announce)


def test_what_was_written_is_announced_whoever_still_waits(writer: BatchingWriter, store: HeldUp) -> None:
    """Where the bell is rung by a task that was cancelled meanwhile, the message waits for the next poll."""
    first, other = make_draft(), make_draft()

    async def cancelled() -> Listening:
        listening = Listening(writer)
        begun = listening.submit(first)
        assert await asyncio.to_thread(store.is_busy.wait, SECONDS)
        begun.cancel()
        behind = listening.submit(other)
        store.may_go.set()
        assert [answer.id for answer in await asyncio.wait_for(behind, SECONDS)] == [other.id]
        return listening

    listening = asyncio.run(cancelled())
    assert listening.announced == [first.id, other.id]
    assert listening.threads == {"netra-writer-0"}


def test_what_nobody_waits_for_any_more_is_not_written(writer: BatchingWriter, store: HeldUp) -> None:
    late, last = make_draft(), make_draft()

    async def too_late() -> Listening:
        listening = Listening(writer)
        hold_up(writer, store)
        given_up = listening.submit(late)
        given_up.set_exception(StoreUnavailable("too late"))
        given_up.exception()
        behind = listening.submit(last)
        store.may_go.set()
        await asyncio.wait_for(behind, SECONDS)
        return listening

    assert asyncio.run(too_late()).announced == [last.id]
    assert store.appends[1:] == [[last.id]]
