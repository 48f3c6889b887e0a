"""Group commit: what many tasks append at the same time goes into the store in one transaction.

One thread takes whatever has been submitted while it was busy with the batch before; so a single send waits for
nobody, and a thousand concurrent ones share few commits. Not for a caller with a transaction of its own: its messages
must commit or roll back with it.

**Messages with a key** have a lane of their own, of few threads and one job a batch: an open transaction that has used
the same key is waited for, and that must be nobody else's wait.

**If a batch fails**, its jobs are tried one by one: a queue that is full, or a message that the database refuses,
fails its own sender only. When the store is unavailable, that is the answer to all of them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from django.core.signals import setting_changed

from .. import conf
from ..core.message import Draft
from ..core.policy import Policy
from ..exceptions import StoreUnavailable
from ..threads import PerProcess, Pool
from . import current_store
from .base import Appended, Store
from .guarded import current_guard

Result = TypeVar("Result")
BATCH_MESSAGES = 500
BATCH_BYTES = 4_194_304
BACKLOG_MESSAGES = 20_000
BACKLOG_BYTES = 134_217_728
KEYED_THREADS = 4
GROUP_THREADS = 4


Answer = list[Appended] | BaseException
Announce = Callable[[Iterable[Appended]], None]


@dataclass(slots=True, eq=False)
class _Job:
    """``future``: a thread's or, with ``loop``, an event loop's."""

    drafts: Sequence[Draft]
    policies: Mapping[str, Policy]
    size: int
    future: Future[list[Appended]] | asyncio.Future[list[Appended]]
    loop: asyncio.AbstractEventLoop | None = None
    announce: Announce | None = None

    def begins(self) -> bool:
        """Whether somebody still wants it. From now on, a thread's future cannot be cancelled any more."""
        return not self.future.done() if self.loop is not None else self.future.set_running_or_notify_cancel()  # type: ignore[union-attr]

    def settle(self, answer: Answer) -> None:
        """In the thread that the future belongs to."""
        if self.loop is not None and self.future.done():  # given up meanwhile
            return
        if isinstance(answer, BaseException):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


class _Answers:
    """What became of the jobs of one batch. It is announced, and an event loop woken, once for all of its own."""

    def __init__(self) -> None:
        self._of_loops: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Answer]]] = defaultdict(list)
        self._to_announce: dict[Announce, list[Appended]] = defaultdict(list)

    def add(self, job: _Job, answer: Answer) -> None:
        if job.announce is not None and not isinstance(answer, BaseException):
            self._to_announce[job.announce] += answer
        if job.loop is None:
            job.settle(answer)
        else:
            self._of_loops[job.loop].append((job, answer))

    def deliver(self) -> None:
        for announce, appended in self._to_announce.items():
            announce(appended)
        for loop, answers in self._of_loops.items():
            with suppress(RuntimeError):  # the loop has been closed, and nobody waits any more
                loop.call_soon_threadsafe(_settle, answers)


def _settle(answers: Sequence[tuple[_Job, Answer]]) -> None:
    for job, answer in answers:
        job.settle(answer)


class BatchingWriter:
    """Appends for concurrent senders, with ``threads`` batches at a time. Thread-safe.

    A batch has at most ``batch_messages`` messages and BATCH_BYTES bytes, or is one job that is larger.
    """

    def __init__(self, store: Store, *, threads: int = 1, batch_messages: int = BATCH_MESSAGES) -> None:
        self._store, self._batch_messages = store, batch_messages
        self._lock = threading.Lock()
        self._jobs: deque[_Job] = deque()
        self._messages = self._bytes = 0
        self._threads, self._called = threads, 0  # how many threads have been called, and have not begun yet
        self._pool = Pool(threads, "netra-writer", wrap=store.in_own_thread, at_end=store.leave_thread)

    def submit(self, drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> Future[list[Appended]]:
        """Append these drafts, all or none; the future gives what ``Store.append`` returns or raises.

        Never blocks. A future that is cancelled before its batch begins leaves nothing behind; after that, the
        drafts may have been appended. Raises StoreUnavailable when too much is waiting already, RuntimeError after
        ``close``.
        """
        future: Future[list[Appended]] = Future()
        self._accept(_Job(drafts, policies, _size(drafts), future))
        return future

    def asubmit(
        self, drafts: Sequence[Draft], policies: Mapping[str, Policy], announce: Announce
    ) -> asyncio.Future[list[Appended]]:
        """``submit`` for the running event loop, with a future of its own, which is woken once for a whole batch.

        Nothing is written any more of what is done, for example cancelled, before its batch begins. ``announce`` is
        called with what was appended, once for a whole batch, in the writer's thread, whoever still waits. It must not
        raise.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Appended]] = loop.create_future()
        self._accept(_Job(drafts, policies, _size(drafts), future, loop, announce))
        return future

    def _accept(self, job: _Job) -> None:
        current_guard().check()
        with self._lock:
            if self._messages + len(job.drafts) > BACKLOG_MESSAGES or self._bytes + job.size > BACKLOG_BYTES:
                raise StoreUnavailable(f"{self._messages} messages are waiting to be written already")
            if self._called < self._threads:  # otherwise whoever begins next takes this job along, or calls again
                self._pool.submit(self._write_batches)
                self._called += 1
            self._jobs.append(job)
            self._messages += len(job.drafts)
            self._bytes += job.size

    def run(self, work: Callable[[], Result]) -> Future[Result]:
        """Have other short work on the store done in the writer's thread, in turn. Raises BreakerOpen."""
        current_guard().check()
        return self._pool.submit(work)

    def close(self, timeout_seconds: float) -> bool:
        """Write what was submitted, within about this time. Returns whether that worked. Idempotent."""
        return self._pool.close(timeout_seconds)

    def _write_batches(self) -> None:
        """One, and the next one after what else waits for the threads; after ``close``, where nothing does, all."""
        is_last = False
        while not is_last:
            jobs, is_last = self._take()
            self._write_batch([job for job in jobs if job.begins()])

    def _write_batch(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        answers = _Answers()
        try:
            self._write(jobs, answers)
        except Exception as error:
            if len(jobs) > 1 and not isinstance(error, StoreUnavailable):
                self._write_one_by_one(jobs, answers)
            else:
                for job in jobs:
                    answers.add(job, error)
        answers.deliver()

    def _take(self) -> tuple[list[_Job], bool]:
        """A batch, and whether this call is done with it: the next one has been called for, or there is none."""
        jobs: list[_Job] = []
        messages = size = 0
        with self._lock:
            while self._jobs:
                job = self._jobs[0]
                fits = messages + len(job.drafts) <= self._batch_messages and size + job.size <= BATCH_BYTES
                if jobs and not fits:
                    break
                jobs.append(self._jobs.popleft())
                messages, size = messages + len(job.drafts), size + job.size
            self._messages -= messages
            self._bytes -= size
            return jobs, self._has_called_again()

    def _has_called_again(self) -> bool:
        self._called -= 1
        if self._jobs and self._called < self._threads:
            self._called += 1
            try:
                self._pool.submit(self._write_batches)
            except RuntimeError:  # closed
                return False
        return True

    def _write(self, jobs: Sequence[_Job], answers: _Answers) -> None:
        drafts = [draft for job in jobs for draft in job.drafts]
        policies = {queue: policy for job in jobs for queue, policy in job.policies.items()}
        appended = iter(self._store.append(drafts, policies))
        for job in jobs:
            answers.add(job, [next(appended) for _ in job.drafts])

    def _write_one_by_one(self, jobs: Sequence[_Job], answers: _Answers) -> None:
        for job in jobs:
            try:
                self._write([job], answers)
            except Exception as error:
                answers.add(job, error)


def _size(drafts: Sequence[Draft]) -> int:
    return sum(draft.payload.size for draft in drafts)


_plain = PerProcess(lambda: BatchingWriter(current_store()))
_keyed = PerProcess(lambda: BatchingWriter(current_store(), threads=KEYED_THREADS, batch_messages=1))


_groups = PerProcess(lambda: BatchingWriter(current_store(), threads=GROUP_THREADS))


def current_group_writer() -> BatchingWriter:
    """The process's threads for groups, which may wait for others' transactions, or write much: use ``run``."""
    return _groups.get()


def current_writer(keyed: bool = False) -> BatchingWriter:
    """The process's writer for the store of the settings, made on first use. ``keyed``: for drafts with a key."""
    return (_keyed if keyed else _plain).get()


def close(timeout_seconds: float) -> bool:
    """Write what was submitted, within about this time, and end the threads; the next use makes new ones."""
    deadline = time.monotonic() + timeout_seconds
    writers = [writer for lane in (_plain, _keyed, _groups) if (writer := lane.take()) is not None]
    for writer in writers:
        writer.close(0)  # they finish side by side
    ended = [writer.close(max(0.0, deadline - time.monotonic())) for writer in writers]
    return all(ended)


def _forget(*, setting: str, **kwargs: Any) -> None:
    """What was submitted still goes into the store that it was meant for."""
    if setting == conf.SETTING:
        close(0)


setting_changed.connect(_forget, dispatch_uid="netra_queue.stores.batching")
