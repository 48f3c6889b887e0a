"""From the adder to the store: in the right bucket, once, also when the store was away, and at no cost to senders."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connections

import netra_queue
from netra_queue import statistics
from netra_queue.core.message import Priority
from netra_queue.core.statistics import BUCKET_SECONDS, Event, Gauge, Timing, aligned
from netra_queue.counting import Adder, adder
from netra_queue.exceptions import MessageTooLarge, QueueFull, StoreUnavailable
from netra_queue.statistics import MOST_PENDING, Ledger
from netra_queue.stores import current_store
from netra_queue.stores.database import DatabaseStore
from tests import counts
from tests.making import AdvancingMemoryStore, force_breaker
from tests.server.conftest import database_url
from tests.waiting import together, wait_until

NORMAL = Priority.NORMAL


@pytest.fixture
def store(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdvancingMemoryStore]:
    settings.NETRA_QUEUE = {
        "STORE": "tests.making.AdvancingMemoryStore",
        "POLICIES": {"default": {"MAX_MESSAGES": 3, "OVERFLOW": "reject", "MAX_MESSAGE_BYTES": 100}},
    }
    monkeypatch.setattr(statistics, "ledger", Ledger())
    counts.take()
    yield current_store()  # type: ignore[misc]
    statistics.close()
    counts.take()


def recorded(store: AdvancingMemoryStore, step: int = BUCKET_SECONDS) -> list[tuple[float, dict[str, int]]]:
    """What is recorded, by seconds before now."""
    now = aligned(store.now())
    buckets = store.statistics(now - timedelta(days=1), now + timedelta(days=1), step)
    return [((bucket.start - now).total_seconds(), counts.counted(bucket.figures)) for bucket in buckets]


class Away(AdvancingMemoryStore):
    """It records nothing while it is away."""

    is_away = True
    loses_answers = False

    def record_statistics(self, process: str, buckets: Any) -> None:
        if self.is_away:
            raise StoreUnavailable("away")
        super().record_statistics(process, buckets)
        if self.loses_answers:
            raise StoreUnavailable("no answer")


@pytest.fixture
def away(store: AdvancingMemoryStore, settings: Any) -> Away:
    """Asked each time, whatever the breaker would say."""
    settings.NETRA_QUEUE = {"STORE": f"{__name__}.Away"}
    away = current_store()
    assert isinstance(away, Away)
    force_breaker(away, is_open=False)
    return away


# --- the adder -----------------------------------------------------------------------------------------------------


def test_threads_lose_no_count() -> None:
    mine = Adder()

    def count() -> None:
        for _ in range(2000):
            mine.count(Event.ACCEPTED, [0, 2])
            mine.add(Event.ACKED, 3, 2)
            mine.observe(Timing.ACK, [0.1])

    together(count, count, count)
    taken = mine.take()
    assert taken is not None
    assert taken[0].counts[Event.ACCEPTED] == [6000, 0, 6000, 0]
    assert taken[0].counts[Event.ACKED] == [0, 0, 0, 12_000]
    assert taken[0].timings[Timing.ACK].count == 6000
    assert mine.take() is None


def test_the_first_count_after_a_take_says_so() -> None:
    mine, calls = Adder(), []
    mine.on_first = lambda: calls.append(1)
    for expected in (1, 2):
        mine.add(Event.CONNECTED)
        mine.add(Event.CONNECTED)
        assert len(calls) == expected
        mine.take()


def test_counting_costs_next_to_nothing() -> None:
    """A microsecond a message is the promise; measured are 0.4 for one and 0.05 in a batch. Machines have bad days."""
    one, many = [NORMAL], [NORMAL] * 500

    def best(work: Any, number: int) -> float:
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(number):
                work()
            seconds.append((time.perf_counter() - began) / number)
        return min(seconds)

    assert best(lambda: adder.count(Event.ACCEPTED, one), 2000) < 5e-6
    assert best(lambda: adder.count(Event.ACCEPTED, many), 50) / 500 < 1e-6
    counts.take()


# --- rejections ----------------------------------------------------------------------------------------------------


def test_what_senders_are_told_is_counted(store: AdvancingMemoryStore) -> None:
    netra_queue.send_many([("user.1", number) for number in range(3)])
    with pytest.raises(QueueFull):
        netra_queue.send("user.1", 4, priority=Priority.HIGH)
    with pytest.raises(QueueFull):
        netra_queue.send_many((("user.1", number) for number in range(2)), priority=Priority.LOW)
    with pytest.raises(MessageTooLarge):
        netra_queue.send("user.2", 200 * "x")
    with pytest.raises(MessageTooLarge):
        netra_queue.group_send("room", 200 * "x")
    with pytest.raises(netra_queue.InvalidMessage):
        netra_queue.send("no such name!", 1)
    figures = counts.take()
    assert counts.counted(figures) == {"accepted": 3, "rejected_full": 3, "rejected_too_large": 2}
    assert counts.of_priority(figures, Event.REJECTED_FULL) == {Priority.HIGH: 1, Priority.LOW: 2}


@pytest.mark.asyncio
async def test_asynchronous_senders_too(store: AdvancingMemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await netra_queue.asend_many([("user.1", number) for number in range(3)])
    with pytest.raises(QueueFull):
        await netra_queue.asend("user.1", 4, priority=Priority.HIGH)

    def away(*arguments: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "append", away)
    with pytest.raises(StoreUnavailable):
        await netra_queue.asend_many((f"user.{number}", number) for number in (2, 3))
    assert counts.counted() == {"accepted": 3, "rejected_full": 1, "rejected_unavailable": 2}


def test_below_async_to_sync_a_rejection_is_counted_once(store: AdvancingMemoryStore) -> None:
    netra_queue.send_many([("user.1", number) for number in range(3)])
    with pytest.raises(QueueFull):
        async_to_sync(netra_queue.asend)("user.1", 4)
    assert counts.counted() == {"accepted": 3, "rejected_full": 1}


# --- the ledger ----------------------------------------------------------------------------------------------------


def test_what_is_counted_goes_into_the_bucket_in_which_it_began(store: AdvancingMemoryStore) -> None:
    ledger = statistics.ledger
    adder.add(Event.ACKED, NORMAL, 2)
    ledger.write()
    (first,) = recorded(store)
    assert first[1] == {"acked": 2}
    adder.add(Event.ACKED, NORMAL, 3)
    ledger.write()
    ledger.write()
    assert sum(found["acked"] for _, found in recorded(store)) == 5, "the bucket goes on, and is written as a whole"
    store.advance(30)
    adder.add(Event.ACKED, NORMAL)
    ledger.write()
    assert [found["acked"] for _, found in recorded(store, 3600 * 48)] == [6]
    assert recorded(store)[-1] == (0, {"acked": 1})
    assert not ledger.has_unwritten


def test_the_stores_time_counts(store: AdvancingMemoryStore) -> None:
    store.advance(86_400 * 30)
    adder.add(Event.CONNECTED)
    statistics.ledger.write()
    assert recorded(store) == [(0, {"connected": 1})]


def test_the_stores_time_counts_for_the_first_row_of_a_sender(store: AdvancingMemoryStore) -> None:
    store.advance(-86_400 / 2)
    netra_queue.send("user.1", "hello")
    statistics.close()
    ((_, found),) = [some for some in recorded(store) if some[0] > -60]
    assert found == {"accepted": 1}


def test_a_store_that_does_not_tell_the_time(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bucket is kept for itself meanwhile."""

    def nobody_knows() -> Any:
        raise StoreUnavailable("away")

    away.is_away = False
    with monkeypatch.context() as patch:
        patch.setattr(away, "now", nobody_knows)
        for _ in range(2):
            adder.add(Event.ACKED, NORMAL)
            statistics.ledger.try_to_write()
            assert adder.is_empty
    statistics.ledger.try_to_write()
    assert away.statistics_total().count(Event.ACKED) == 2


def test_a_clock_that_is_set_back_costs_no_count(store: AdvancingMemoryStore) -> None:
    """What was written for good is not written again with less in it."""
    adder.add(Event.ACKED, NORMAL, 2)
    statistics.ledger.write()
    store.advance(60)
    adder.add(Event.ACKED, NORMAL, 3)
    statistics.ledger.write()
    store.advance(-60)
    adder.add(Event.ACKED, NORMAL, 4)
    statistics.ledger.write()
    assert store.statistics_total().count(Event.ACKED) == 9


def test_what_is_over_and_written_is_forgotten(store: AdvancingMemoryStore) -> None:
    """Also what was written for the last time before it was over."""
    for _ in range(2 * MOST_PENDING):
        adder.add(Event.ACKED, NORMAL)
        statistics.ledger.write()
        store.advance(BUCKET_SECONDS)
    assert counts.counted(store.statistics_total()) == {"acked": 2 * MOST_PENDING}
    assert len(statistics.ledger._buckets) == 1


def test_a_store_that_is_away_gets_it_later(away: Away, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        adder.add(Event.ACKED, NORMAL)
        statistics.ledger.try_to_write()
        away.advance(BUCKET_SECONDS)
    assert caplog.text.count("statistics not written yet") == 1, "the log is told now and then"
    away.is_away = False
    statistics.ledger.try_to_write()
    assert [found for _, found in recorded(away)] == [{"acked": 1}] * 5
    assert not statistics.ledger.has_unwritten


def test_an_answer_that_is_lost_counts_nothing_twice(away: Away) -> None:
    away.is_away, away.loses_answers = False, True
    adder.add(Event.ACKED, NORMAL)
    statistics.ledger.try_to_write()
    adder.add(Event.ACKED, NORMAL)
    statistics.ledger.try_to_write()
    away.loses_answers = False
    statistics.ledger.try_to_write()
    assert away.statistics_total().count(Event.ACKED) == 2


def test_a_listener_that_fails_costs_nothing(store: AdvancingMemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    def fails(figures: Any) -> None:
        raise OSError("no space left")

    statistics.ledger.listeners.append(fails)
    adder.add(Event.ACKED, NORMAL)
    statistics.ledger.write()
    assert store.statistics_total().count(Event.ACKED) == 1
    assert "no space left" in caplog.text


def test_memory_is_bounded_and_nothing_is_lost_silently(away: Away) -> None:
    heard: list[int] = []
    statistics.ledger.listeners.append(lambda figures: heard.append(figures.count(Event.BUCKET_MERGED)))
    for _ in range(MOST_PENDING + 7):
        adder.add(Event.ACKED, NORMAL)
        statistics.ledger.try_to_write()
        away.advance(BUCKET_SECONDS)
    assert len(statistics.ledger._buckets) == MOST_PENDING + 1
    away.is_away = False
    statistics.ledger.try_to_write()
    found = recorded(away)
    assert len(found) == MOST_PENDING + 1
    assert [some for _, some in found[:2]] == [{"acked": 1}, {"acked": 7, "bucket_merged": 6}]
    assert away.statistics_total().count(Event.ACKED) == MOST_PENDING + 7
    assert sum(heard) == 6, "the metrics of this process say so as well"


@pytest.mark.parametrize("loses_answers", [False, True])
def test_what_the_store_may_have_is_added_to_nothing_else(away: Away, loses_answers: bool) -> None:
    """It has a part of a bucket, with or without an answer, and is away for long then."""
    away.is_away, away.loses_answers = False, loses_answers
    adder.add(Event.ACKED, NORMAL)
    statistics.ledger.try_to_write()
    away.is_away = True
    for _ in range(2 * MOST_PENDING):
        adder.add(Event.ACKED, NORMAL)
        statistics.ledger.try_to_write()
        away.advance(BUCKET_SECONDS)
    away.is_away = away.loses_answers = False
    statistics.ledger.try_to_write()
    assert away.statistics_total().count(Event.ACKED) == 1 + 2 * MOST_PENDING


def test_a_store_that_hangs_holds_up_nobody(away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on, is_hanging = threading.Event(), threading.Event()
    away.is_away = False
    record = away.record_statistics

    def hanging(process: str, buckets: Any) -> None:
        is_hanging.set()
        assert may_go_on.wait(20)
        record(process, buckets)

    monkeypatch.setattr(away, "record_statistics", hanging)
    adder.add(Event.ACKED, NORMAL)
    writer = threading.Thread(target=statistics.ledger.write)
    writer.start()
    assert is_hanging.wait(10)
    began = time.monotonic()
    netra_queue.send("user.1", "meanwhile")
    statistics.ledger.gather()
    statistics.close(0.2)
    assert time.monotonic() - began < 2
    may_go_on.set()
    writer.join(10)
    statistics.ledger.write()
    assert counts.counted(away.statistics_total()) == {"acked": 1, "accepted": 1}


# --- who writes ----------------------------------------------------------------------------------------------------


def test_a_sender_has_a_thread_that_writes(store: AdvancingMemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "seconds_to_next", lambda now: 0.05)
    monkeypatch.setattr(adder, "on_first", statistics._thread.wake)
    adder.take()  # what tests before this one have counted: nothing is the first thing beside it
    for number in (1, 2):
        netra_queue.send("user.1", "hello")
        wait_until(lambda: store.statistics_total().count(Event.ACCEPTED) == number)  # noqa: B023  called at once
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "netra-statistics"]
    assert thread.daemon
    statistics.close()
    wait_until(lambda: not thread.is_alive())


def test_the_end_of_a_process_writes_what_is_left(store: AdvancingMemoryStore) -> None:
    netra_queue.send("user.1", "hello")
    statistics.close()
    assert store.statistics_total().count(Event.ACCEPTED) == 1
    netra_queue.send("user.1", "and it starts anew")
    statistics.close()
    assert store.statistics_total().count(Event.ACCEPTED) == 2
    statistics.close()


def test_writes_are_spread_behind_the_end_of_a_bucket(store: AdvancingMemoryStore) -> None:
    for _ in range(50):
        seconds = statistics.seconds_to_next(aligned(store.now()) + timedelta(seconds=4))
        assert 6 < seconds <= 6.5


def test_a_forked_process_counts_its_own(store: AdvancingMemoryStore) -> None:
    netra_queue.send("user.1", "of the parent")
    before = statistics.ledger.process
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        adder.add(Event.ACKED, NORMAL)
        found = counts.counted()
        os.write(writer, f"{found} {statistics.ledger.process != before} {statistics._thread.hubs}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 1000).decode() == "{'acked': 1} True 0"
    assert counts.counted() == {"accepted": 1}


SHORT = """
import django
django.setup()
import netra_queue
netra_queue.send("user.1", "the last act of a short process")
"""


def test_a_short_process_is_counted(database: str) -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "DATABASE_URL": database_url(database)}
    ended = subprocess.run([sys.executable, "-c", SHORT], env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert counts.counted(DatabaseStore(database).statistics_total()) == {"accepted": 1}
    connections[database].close()


def test_gauges_are_those_of_all_hubs(store: AdvancingMemoryStore) -> None:
    ledger = Ledger()
    ledger.note_gauges(1, {Gauge.CONNECTIONS: 2})
    ledger.note_gauges(2, {Gauge.CONNECTIONS: 3})
    ledger.note_gauges(1, {Gauge.CONNECTIONS: 5})
    assert ledger.gauge(Gauge.CONNECTIONS) == 8


def test_when_python_is_ending_nobody_is_hindered(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(work: object) -> None:
        raise RuntimeError("can't register atexit after shutdown")

    monkeypatch.setattr(threading, "_register_atexit", too_late, raising=False)
    monkeypatch.setattr(statistics, "_is_registered", False)
    thread = statistics.Thread()
    thread.wake()
    assert thread._thread is None
