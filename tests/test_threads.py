"""Threads of our own: what a pool promises, and what a process and its forks share."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from netra_queue.threads import PerProcess, Pool
from tests.waiting import together, wait_until

SECONDS = 20
MakePool = Callable[..., Pool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    """Makes pools that are closed with the test."""
    pools: list[Pool] = []

    def make(size: int = 1, **options: Callable[..., object]) -> Pool:
        pools.append(Pool(size, "test-pool", **options))  # type: ignore[arg-type]
        return pools[-1]

    yield make
    closed = [pool.close(SECONDS) for pool in pools]
    assert all(closed)


def names() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("test-pool"))


class Gate:
    """Work that waits until it is let go."""

    def __init__(self) -> None:
        self.is_busy, self.may_go = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.is_busy.set()
        assert self.may_go.wait(SECONDS)
        return threading.current_thread().name


class TestPool:
    def test_first_in_first_out(self, make_pool: MakePool) -> None:
        pool, gate = make_pool(), Gate()
        pool.submit(gate)
        done: list[int] = []
        futures = [pool.submit(lambda number=number: done.append(number)) for number in range(100)]  # type: ignore[misc]
        gate.may_go.set()
        for future in futures:
            future.result(SECONDS)
        assert done == list(range(100))

    def test_as_many_threads_as_are_needed_and_no_more_than_its_size(self, make_pool: MakePool) -> None:
        pool = make_pool(3)
        assert names() == [], "none before the first work"
        for _ in range(5):
            pool.submit(int).result(SECONDS)
            wait_until(lambda: pool._idle == 1)
        assert names() == ["test-pool-0"]
        gates = [Gate() for _ in range(5)]
        futures = [pool.submit(gate) for gate in gates]
        wait_until(lambda: sum(gate.is_busy.is_set() for gate in gates) == 3)
        assert names() == ["test-pool-0", "test-pool-1", "test-pool-2"]
        assert all(thread.daemon for thread in threading.enumerate() if thread.name in names())
        for gate in gates:
            gate.may_go.set()
        assert {future.result(SECONDS) for future in futures} <= set(names())

    def test_errors_are_the_futures(self, make_pool: MakePool) -> None:
        pool = make_pool()
        for error in (ZeroDivisionError("0"), SystemExit(1)):

            def fail(error: BaseException = error) -> None:
                raise error

            assert pool.submit(fail).exception(SECONDS) is error
        assert pool.submit(lambda: "goes on").result(SECONDS) == "goes on"

    def test_wrap_surrounds_each_and_at_end_ends_each_thread(self, make_pool: MakePool) -> None:
        events: list[tuple[str, str]] = []

        def wrap(work: Callable[[], object]) -> object:
            events.append(("begin", threading.current_thread().name))
            try:
                return work()
            finally:
                events.append(("end", threading.current_thread().name))

        pool = make_pool(2, wrap=wrap, at_end=lambda: events.append(("at_end", threading.current_thread().name)))
        gates = [Gate(), Gate()]
        futures = [pool.submit(gate) for gate in gates]
        wait_until(lambda: all(gate.is_busy.is_set() for gate in gates))
        for gate in gates:
            gate.may_go.set()
        for future in futures:
            future.result(SECONDS)
        assert pool.close(SECONDS)
        for name in ("test-pool-0", "test-pool-1"):
            assert [what for what, whose in events if whose == name] == ["begin", "end", "at_end"]

    def test_what_is_cancelled_before_its_turn_is_skipped(self, make_pool: MakePool) -> None:
        pool, gate = make_pool(), Gate()
        busy = pool.submit(gate)
        done: list[str] = []
        cancelled, kept = pool.submit(lambda: done.append("cancelled")), pool.submit(lambda: done.append("kept"))
        assert gate.is_busy.wait(SECONDS)
        assert (cancelled.cancel(), busy.cancel()) == (True, False)
        gate.may_go.set()
        kept.result(SECONDS)
        assert done == ["kept"]

    def test_closing_finishes_what_was_submitted(self, make_pool: MakePool) -> None:
        pool, gate = make_pool(), Gate()
        futures: list[Future[object]] = [pool.submit(gate), *(pool.submit(object) for _ in range(5))]
        assert gate.is_busy.wait(SECONDS)
        began = time.monotonic()
        assert pool.close(0.05) is False
        assert time.monotonic() - began < 5
        with pytest.raises(RuntimeError, match="test-pool"):
            pool.submit(int)
        gate.may_go.set()
        assert pool.close(SECONDS) is True
        assert all(future.done() and not future.cancelled() for future in futures)
        assert names() == []
        assert pool.close(0) is True

    def test_a_finished_jobs_work_is_not_kept(self, make_pool: MakePool) -> None:
        pool, gate = make_pool(), Gate()
        gate.may_go.set()
        watched = weakref.ref(gate)
        pool.submit(gate).result(SECONDS)
        del gate

        def is_gone() -> bool:
            gc.collect()
            return watched() is None

        wait_until(is_gone)


def in_a_fork(work: Callable[[], int]) -> int:
    """The exit status of a child that does this; a hang ends it by a signal."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(5)
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.WIFEXITED(status), "the child hung"
    return os.WEXITSTATUS(status)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
class TestPerProcess:
    def test_made_on_first_use_and_once(self) -> None:
        made: list[object] = []

        def make() -> object:
            time.sleep(0.01)  # so that the threads meet in here if they can
            made.append(object())
            return made[-1]

        kept = PerProcess(make)
        assert made == []
        found = together(*[kept.get] * 8)
        assert len(made) == 1
        assert all(value is made[0] for value in found)

    def test_taken_it_is_made_anew(self) -> None:
        kept = PerProcess(object)
        assert kept.take() is None
        first = kept.get()
        assert kept.take() is first
        assert kept.take() is None
        assert kept.get() is not first

    def test_a_fork_makes_its_own(self) -> None:
        kept = PerProcess(os.getpid)
        assert kept.get() == os.getpid()
        assert in_a_fork(lambda: 3 if kept.get() == os.getpid() else 4) == 3
        assert in_a_fork(lambda: 3 if kept.take() is None else 4) == 3, "it has nothing to close"
        assert kept.get() == os.getpid()

    def test_a_fork_while_another_thread_makes_it(self) -> None:
        is_making, may_go = threading.Event(), threading.Event()

        def make() -> int:
            if os.getpid() == parent:
                is_making.set()
                assert may_go.wait(SECONDS)
            return os.getpid()

        parent, kept = os.getpid(), PerProcess(make)
        thread = threading.Thread(target=kept.get)
        thread.start()
        try:
            assert is_making.wait(SECONDS)
            assert in_a_fork(lambda: 3 if kept.get() == os.getpid() else 4) == 3
        finally:
            may_go.set()
            thread.join()

    def test_a_fork_has_threads_of_its_own(self) -> None:
        kept = PerProcess(lambda: Pool(1, "test-pool"))
        assert kept.get().submit(os.getpid).result(SECONDS) == os.getpid()
        assert in_a_fork(lambda: 3 if kept.get().submit(os.getpid).result(4) == os.getpid() else 4) == 3
        assert kept.get().close(SECONDS)
