"""What every store promises about statistics (netra_queue/stores/statistics_base.py): it keeps them, and counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from netra_queue.core.message import GroupDraft, LossReason, Outcome, Priority
from netra_queue.core.policy import Overflow, Replay
from netra_queue.core.statistics import Bucket, Event, Figures, Gauge, aligned
from netra_queue.core.wire import text_payload
from netra_queue.exceptions import QueueFull
from netra_queue.stores.base import Returned
from netra_queue.stores.statistics_base import KEPT
from tests import counts
from tests.making import AdvancingStore, get, make_draft, make_policy, make_presence, put
from tests.waiting import together

CRITICAL, HIGH, NORMAL, LOW = Priority
HOUR, DAY = 3600, 86_400


def at(start: datetime, *seconds: float, **figures: float) -> list[Bucket]:
    """A bucket with one ack for each of these times."""
    return [Bucket(start + timedelta(seconds=some), counts.make(**figures)) for some in seconds]


def acked(buckets: Sequence[Bucket], since: datetime) -> dict[float, int]:
    return {(bucket.start - since).total_seconds(): bucket.figures.count(Event.ACKED) for bucket in buckets}


class KeepingContract:
    def test_what_processes_record_is_added_up(self, store: AdvancingStore) -> None:
        start = aligned(store.now(), 60)
        store.record_statistics("one", at(start, 0, 10, 70, connections=10))
        store.record_statistics("two", at(start, 10, connections=20))
        minutes = store.statistics(start, start + timedelta(minutes=5), 60)
        assert acked(minutes, start) == {0: 3, 60: 1}
        assert minutes[0].figures.gauges[Gauge.CONNECTIONS] == 40
        assert acked(store.statistics(start, start + timedelta(minutes=5), 10), start) == {0: 1, 10: 2, 70: 1}
        assert acked(store.statistics(start + timedelta(seconds=10), start + timedelta(seconds=70), 10), start) == {
            10: 2
        }, "from, and to before"

    def test_to_record_twice_counts_once(self, store: AdvancingStore) -> None:
        start = aligned(store.now(), 60)
        for number in (1, 5, 5):
            store.record_statistics("one", [Bucket(start, counts.make(number=number))])
        store.record_statistics("two", at(start, 0))
        assert acked(store.statistics(start, start + timedelta(minutes=1), 10), start) == {0: 6}
        assert store.statistics_total().count(Event.ACKED) == 6
        store.record_statistics("one", [])

    def test_what_was_recorded_is_all_there(self, store: AdvancingStore) -> None:
        start, figures = aligned(store.now(), 60), Figures()
        figures.counts = [[event, 1, 2, 10**12] if event.has_priority else [7, 0, 0, 0] for event in Event]
        figures.timings[0].observe(0.25)
        figures.gauges = [1.5, 2.25, 3.125]
        store.record_statistics("one", [Bucket(start, figures)])
        (bucket,) = store.statistics(start, start + timedelta(minutes=1), 60)
        assert (bucket.start, bucket.figures) == (start, figures)

    def test_an_empty_store_has_none(self, store: AdvancingStore) -> None:
        now = store.now()
        assert store.statistics(now - timedelta(days=1), now, 60) == []
        assert store.statistics_total() == Figures()
        assert store.roll_up_statistics(10) == 0


class RollUpContract:
    def test_after_an_hour_there_is_one_a_minute(self, store: AdvancingStore) -> None:
        start = aligned(store.now(), 60)
        for process in ("one", "two"):
            store.record_statistics(process, at(start, 0, 10, 50, 60))
        assert store.roll_up_statistics(100) == 0, "too young"
        store.advance(HOUR + 60)
        assert store.roll_up_statistics(100) == 6, "the second minute may still be too young in part"
        everything = start, start + timedelta(days=1)
        assert acked(store.statistics(*everything, 10), start) == {0: 6, 60: 2}
        store.advance(60)
        assert store.roll_up_statistics(100) == 2
        assert store.roll_up_statistics(100) == 0
        assert acked(store.statistics(*everything, 10), start) == {0: 6, 60: 2}
        assert acked(store.statistics(*everything, HOUR), aligned(start, HOUR)) == {0: 8}
        assert store.statistics_total().count(Event.ACKED) == 8

    def test_after_two_days_there_is_one_an_hour_and_after_a_month_none(self, store: AdvancingStore) -> None:
        start = aligned(store.now(), HOUR)
        store.record_statistics("one", at(start, 0, 600, HOUR - 10, HOUR))
        everything = start, start + timedelta(days=90)
        store.advance(2 * HOUR + 60)
        assert store.roll_up_statistics(100) == 4
        store.advance(2 * DAY + HOUR)
        assert store.roll_up_statistics(100) == 4
        assert acked(store.statistics(*everything, 10), start) == {0: 3, HOUR: 1}
        store.advance(KEPT.total_seconds())
        assert store.roll_up_statistics(100) == 2
        assert store.statistics(*everything, 10) == []
        assert store.statistics_total().count(Event.ACKED) == 4, "what has ever happened never gets less"

    def test_it_is_bounded_and_goes_on_where_it_ended(self, store: AdvancingStore) -> None:
        start = aligned(store.now(), 60)
        store.record_statistics("one", at(start, *range(0, 100, 10)))
        store.advance(2 * HOUR)
        seen = []
        while gone := store.roll_up_statistics(3):
            seen.append(gone)
            assert store.statistics_total().count(Event.ACKED) == 10
            assert sum(acked(store.statistics(start, store.now(), 60), start).values()) == 10
        assert seen == [3, 3, 3, 1]
        assert acked(store.statistics(start, store.now(), 60), start) == {0: 6, 60: 4}

    def test_what_comes_late_is_added(self, store: AdvancingStore) -> None:
        start = aligned(store.now(), 60)
        store.record_statistics("one", at(start, 0))
        store.advance(2 * HOUR)
        store.roll_up_statistics(10)
        store.record_statistics("two", at(start, 0, 10))
        assert store.roll_up_statistics(10) == 2
        assert acked(store.statistics(start, store.now(), 60), start) == {0: 3}
        assert store.statistics_total().count(Event.ACKED) == 3

    def test_two_at_once_roll_up_once(self, store: AdvancingStore) -> None:
        start = aligned(store.now(), 60)
        for process in range(4):
            store.record_statistics(f"{process}", at(start, *range(0, 300, 10)))
        store.advance(2 * HOUR)

        def roll_up() -> int:
            gone = [store.roll_up_statistics(7) for _ in range(6)]
            store.leave_thread()
            return sum(gone)

        gone = sum(together(roll_up, roll_up, roll_up))
        while more := store.roll_up_statistics(1000):
            gone += more
        assert gone == 120
        assert sum(acked(store.statistics(start, store.now(), 60), start).values()) == 120
        assert store.statistics_total().count(Event.ACKED) == 120


class CountingContract:
    """Beginnings and ends of messages, counted where they happen."""

    @pytest.fixture(autouse=True)
    def _nothing_counted_yet(self) -> None:
        counts.take()

    def test_sent_and_acked(self, store: AdvancingStore) -> None:
        put(store, make_draft(priority=HIGH), make_draft(), make_draft())
        figures = counts.take()
        assert counts.counted(figures) == {"accepted": 3}
        assert counts.of_priority(figures, Event.ACCEPTED) == {HIGH: 1, NORMAL: 2}
        positions = {"user.1": [message.position for message in get(store).messages]}
        for _ in range(2):
            store.ack(positions)
        figures = counts.take()
        assert counts.counted(figures) == {"acked": 3}
        assert counts.of_priority(figures, Event.ACKED) == {HIGH: 1, NORMAL: 2}

    def test_each_device_has_its_copy(self, store: AdvancingStore) -> None:
        for line in ("user.1/phone", "user.1/tab"):
            store.attach(make_presence(line), make_policy())
        put(store, make_draft(deliver_first=True))
        assert counts.counted() == {"accepted": 2}
        store.ack({"user.1/tab": [get(store, "user.1/tab").messages[0].position]})
        assert counts.counted() == {"acked": 2}, "the first ack takes it off the others"

    def test_expired_dropped_and_purged(self, store: AdvancingStore) -> None:
        put(store, make_draft(ttl=1, priority=LOW), make_draft(ttl=100))
        store.advance(2)
        assert store.sweep(10) == 1
        assert store.sweep(10) == 0
        assert counts.counted() == {"accepted": 2, "expired": 1}
        put(store, make_draft(), make_draft(), policy=make_policy(max_messages=2))
        assert counts.counted() == {"accepted": 2, "dropped": 1}
        store.purge("user.1", 10)
        assert counts.counted() == {"dropped": 2}

    def test_a_newcomer_that_goes_at_once_is_counted_in_and_out(self, store: AdvancingStore) -> None:
        policy = make_policy(max_messages=1)
        put(store, make_draft(priority=CRITICAL), policy=policy)
        (answer,) = put(store, make_draft(priority=LOW), policy=policy)
        assert answer.outcome is Outcome.DROPPED
        figures = counts.take()
        assert counts.counted(figures) == {"accepted": 2, "dropped": 1}
        assert counts.of_priority(figures, Event.DROPPED) == {LOW: 1}

    def test_what_is_too_large_for_its_queue(self, store: AdvancingStore) -> None:
        put(store, make_draft(text='"' + 100 * "x" + '"'), make_draft(), policy=make_policy(max_message_bytes=50))
        assert counts.counted() == {"accepted": 2, "dropped": 1}

    def test_a_full_queue_that_rejects_counts_nothing(self, store: AdvancingStore) -> None:
        policy = make_policy(max_messages=1, overflow=Overflow.REJECT)
        put(store, make_draft(), policy=policy)
        counts.take()
        with pytest.raises(QueueFull):
            put(store, make_draft(), policy=policy)
        assert counts.counted() == {}, "the verbs count it: it may be tried again on its own"

    def test_keys_and_collapse_keys(self, store: AdvancingStore) -> None:
        put(store, make_draft(key="k"))
        put(store, make_draft(key="k"), make_draft())
        assert counts.counted() == {"accepted": 2, "duplicate": 1}
        put(store, make_draft(collapse="c"))
        put(store, make_draft(collapse="c"), make_draft(collapse="c"))
        assert counts.counted() == {"accepted": 3, "superseded": 2}
        assert store.stat("user.1").messages == 3

    def test_dead_withheld_and_left_out(self, store: AdvancingStore) -> None:
        put(store, make_draft(), make_draft(), make_draft())
        dead, withheld, left_out = (message.position for message in get(store).messages)
        policy = make_policy(max_deliveries=2, replay=Replay(newest=0))
        store.returned([Returned("user.1", (dead,), True, policy)] * 2)
        store.withhold({"user.1": [withheld]})
        counts.take()
        digest = make_draft()
        store.leave_out("user.1", [left_out], digest, policy)
        assert counts.counted() == {"accepted": 1, "left_out": 1}, "the digest is a message"

    def test_a_requeued_letter_is_accepted_again(self, store: AdvancingStore) -> None:
        store.attach(make_presence(policy="default"), make_policy())
        put(store, make_draft())
        position = get(store).messages[0].position
        store.returned([Returned("user.1", (position,), True, make_policy(max_deliveries=2))] * 2)
        assert counts.counted() == {"accepted": 1, "dead": 1}
        (letter,) = store.letters(10, reason=LossReason.DEAD)
        assert store.requeue(letter.number) is not None
        assert counts.counted() == {"accepted": 1}

    def test_two_copies_that_become_one(self, store: AdvancingStore) -> None:
        presences = [make_presence("user.1"), make_presence("user.1/phone")]
        for presence in presences:
            store.attach(presence, make_policy())
        put(store, make_draft())
        store.detach(presences)
        counts.take()
        store.advance(make_policy().line_seconds + 1)
        store.expire_lines(10)
        store.sweep(10)
        ended = counts.take()
        ends = sum(ended.count(event) for event in Event if Event.ACKED <= event <= Event.MERGED)
        assert ends == 2 - waiting(store), counts.counted(ended)

    def test_a_group(self, store: AdvancingStore) -> None:
        store.subscribe([f"user.{number}" for number in range(5)], "room")
        for line in ("user.1/phone", "user.1/tab"):
            store.attach(make_presence(line), make_policy())
        draft = GroupDraft(group="room", id="0" * 32, payload=text_payload('"hi"'), priority=HIGH, key="k")
        store.group_append(draft)
        figures = counts.take()
        assert counts.counted(figures) == {"accepted": 6}
        assert counts.of_priority(figures, Event.ACCEPTED) == {HIGH: 6}
        store.group_append(replace(draft, id="1" * 32))
        assert counts.counted() == {"duplicate": 1}

    def test_what_was_accepted_has_ended_or_waits(self, store: AdvancingStore) -> None:
        """A story with all of it."""
        small = make_policy(max_messages=4)
        for line in ("user.1/phone", "user.1/tab"):
            store.attach(make_presence(line), small)
        for number in range(6):
            put(store, make_draft(priority=Priority(number % 4), ttl=10 + number), make_draft("user.2"), policy=small)
        put(store, make_draft(collapse="c"), make_draft(collapse="c"), make_draft("user.2", key="k"), policy=small)
        put(store, make_draft("user.2", key="k"), make_draft("user.3/tab"), policy=small)
        store.ack({"user.1/tab": [message.position for message in get(store, "user.1/tab", limit=2).messages]})
        store.forget_line("user.1/phone", small)
        store.advance(13)
        store.sweep(3)
        store.purge("user.2", 1)
        figures = counts.take()
        ends = [event for event in Event if Event.ACKED <= event <= Event.MERGED]
        ended = sum(figures.count(event) for event in ends)
        assert figures.count(Event.ACCEPTED) == ended + waiting(store)
        assert {event for event in ends if figures.count(event)} >= {Event.ACKED, Event.EXPIRED, Event.DROPPED}


def waiting(store: AdvancingStore) -> int:
    return store.overview(10, 10_000).messages


class StatisticsContract(KeepingContract, RollUpContract, CountingContract): ...
