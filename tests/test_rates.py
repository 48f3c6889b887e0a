"""Rates of sends: refused or delayed, by queue and by class of senders, in transactions and without."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

import netra_queue
from netra_queue import InvalidMessage, Outcome, Priority, QueueFull, RateLimited, StoreUnavailable, rates, testing
from netra_queue.core.rate import Taken, Want
from netra_queue.core.statistics import Event
from netra_queue.counting import adder
from netra_queue.stores import current_store
from netra_queue.stores.memory import MemoryStore
from tests.conftest import CONCURRENT_DATABASES_HERE, DATABASES_HERE
from tests.making import AdvancingStore, get, rolled_back
from tests.server.conftest import STORES, database_url, play
from tests.waiting import together

MEMORY = "tests.making.AdvancingMemoryStore"
Use = Callable[..., AdvancingStore]


@pytest.fixture
def use(settings: Any) -> Iterator[Use]:
    """Makes a store, by default the one in memory, with these keys as the default policy."""

    def make(store: str = MEMORY, **policy: Any) -> Any:
        settings.NETRA_QUEUE = {"STORE": store, "POLICIES": {"default": policy}}
        return current_store()

    yield make
    testing.shutdown()


@pytest.fixture
def in_database(use: Use, database: str) -> Use:
    """The same in each database."""
    return lambda **policy: use(STORES[database], **policy)


def outcomes(count: int, queue: str = "user.1", **options: Any) -> list[bool]:
    """Which of so many sends were let through."""
    found: list[bool] = []
    for number in range(count):
        try:
            netra_queue.send(queue, number, **options)
        except RateLimited:
            found.append(False)
        else:
            found.append(True)
    return found


def counted(event: Event) -> int:
    taken = adder.take()
    return 0 if taken is None else taken[0].count(event)


def test_above_the_rate_nothing_is_written(in_database: Use) -> None:
    store = in_database(RATE="60/m burst 3")
    adder.take()
    assert outcomes(5) == [True] * 3 + [False] * 2
    with pytest.raises(RateLimited) as caught:
        netra_queue.send("user.1/phone", 1)
    assert (caught.value.queue, caught.value.limit, caught.value.sender) == ("user.1", "60/m burst 3", "")
    assert 0 < caught.value.retry_after_seconds <= 1
    assert store.stat("user.1").messages == 3
    assert counted(Event.REJECTED_RATE) == 3
    assert outcomes(1, "user.2") == [True], "each queue has its own"


def test_a_rate_comes_back(use: Use) -> None:
    store = use(RATE="60/m burst 2")
    assert outcomes(2) == [True, True]
    store.advance(1.1)
    assert outcomes(2) == [True, False]


def test_the_error_says_what_is_limited_and_can_be_pickled() -> None:
    error = RateLimited("user.1", limit="5/s", retry_after_seconds=0.25, sender="import")
    text = "user.1: more than its policy's rate for senders of class 'import', 5/s; worth another try in 0.25 seconds"
    assert str(error) == text
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.retry_after_seconds, copy.sender) == (text, 0.25, "import")


def test_classes_of_senders_have_their_own_rates_within_the_queues(use: Use) -> None:
    use(RATE="60/m burst 5", SENDER_RATES={"import": "60/m burst 2", "chat": None})
    assert outcomes(3, sender="import") == [True, True, False]
    assert outcomes(4, sender="chat") == [True] * 3 + [False], "a class without a rate has the queue's"
    assert outcomes(1) == [False]
    with pytest.raises(RateLimited) as caught:
        netra_queue.send("user.1", 1, sender="import")
    assert (caught.value.sender, caught.value.limit) in {("", "60/m burst 5"), ("import", "60/m burst 2")}


def test_what_one_rate_refuses_takes_nothing_from_the_other(use: Use) -> None:
    use(RATE="1/m burst 3", SENDER_RATES={"import": "1/m burst 1"})
    assert outcomes(3, sender="import") == [True, False, False]
    assert outcomes(3) == [True, True, False]


@pytest.mark.parametrize("sender", ["a b", "x" * 51, "/", None, 5, "ä"])
def test_what_is_no_class_of_senders(use: Use, sender: Any) -> None:
    store = use(RATE="1/m")
    with pytest.raises(InvalidMessage, match="sender: expected the name of a class of senders"):
        netra_queue.send("user.1", 1, sender=sender)
    with pytest.raises(InvalidMessage, match="sender: expected the name of a class of senders"):
        netra_queue.group_send("all", 1, sender=sender)
    assert store.stat("user.1").messages == 0
    assert outcomes(1) == [True]


def test_many_are_all_let_through_or_none(in_database: Use) -> None:
    store = in_database(RATE="60/m burst 5")
    netra_queue.send_many([("user.1", n) for n in range(3)])
    with pytest.raises(RateLimited) as caught:
        netra_queue.send_many([("user.2", 0), *(("user.1", n) for n in range(3))])
    assert caught.value.queue == "user.1"
    assert (store.stat("user.1").messages, store.stat("user.2").messages) == (3, 0)
    netra_queue.send_many([*(("user.2", n) for n in range(5)), *(("user.1", n) for n in range(2))])


def test_a_call_that_is_larger_than_a_burst_passes_alone(use: Use) -> None:
    store = use(RATE="60/m burst 5")
    netra_queue.send_many([("user.1", n) for n in range(50)])
    assert outcomes(1) == [False]
    store.advance(45.5)
    assert outcomes(2) == [False, False]
    rates._empty = rates._Empty()  # the store's time goes on here, and the process's does not
    store.advance(1)
    assert outcomes(2) == [True, False]


def test_asynchronous_sends(in_database: Use) -> None:
    store = in_database(RATE="60/m burst 3", SENDER_RATES={"import": "60/m burst 1"})

    async def send() -> list[bool]:
        found = []
        for sender in ("import", "import", "", "", ""):
            try:
                await netra_queue.asend("user.1", 1, sender=sender)
            except RateLimited:
                found.append(False)
            else:
                found.append(True)
        return found

    assert play(send()) == [True, False, True, True, False]
    assert store.stat("user.1").messages == 3


def test_who_waits_for_room_is_admitted_once(use: Use) -> None:
    store = use(RATE="60/m burst 3", MAX_MESSAGES=1)

    async def send() -> None:
        await netra_queue.asend("user.1", 1)
        with pytest.raises(QueueFull):
            await netra_queue.asend("user.1", 2, overflow="wait", timeout=0.3)
        store.ack({"user.1": [get(store).messages[0].position]})
        await netra_queue.asend("user.1", 3)

    play(send())


def test_a_group_counts_as_one(in_database: Use) -> None:
    store = in_database(RATE="1/m burst 1", SENDER_RATES={"import": "60/m burst 2"})
    for user in ("user.1", "user.2"):
        netra_queue.subscribe(user, "all")
    for _ in range(2):
        assert netra_queue.group_send("all", 1, sender="import").recipients == 2
    with pytest.raises(RateLimited) as caught:
        netra_queue.group_send("all", 1, sender="import")
    assert (caught.value.queue, caught.value.sender) == ("group all", "import")
    with pytest.raises(RateLimited):
        play(netra_queue.agroup_send("all", 1, sender="import"))
    assert netra_queue.group_send("all", 1).recipients == 2
    assert netra_queue.group_send("other", 1, sender="import").recipients == 0
    assert store.stat("user.1").messages == 3


# --- later, instead of not at all ----------------------------------------------------------------------------------


def test_delayed_messages_keep_to_the_rate_and_their_order(in_database: Use) -> None:
    store = in_database(RATE="60/m burst 2", RATE_EXCEEDED="delay")
    adder.take()
    receipts = [netra_queue.send("user.1", n) for n in range(5)]
    assert [receipt.outcome for receipt in receipts] == [Outcome.QUEUED] * 5
    assert [receipt.not_before is not None for receipt in receipts] == [False] * 2 + [True] * 3
    assert [m.payload.text for m in get(store).messages] == ["0", "1"]
    turns = [receipt.not_before for receipt in receipts[2:] if receipt.not_before is not None]
    assert turns == sorted(turns)
    for earlier, later in itertools.pairwise(turns):
        assert abs(later - earlier - timedelta(seconds=1)) < timedelta(milliseconds=1)
    assert abs(store.next_due(["user.1"])["user.1"] - turns[0]) < timedelta(milliseconds=1)
    assert counted(Event.DELAYED) == 3
    assert store.stat("user.1").messages == 5


def test_many_are_spread(use: Use) -> None:
    store = use(RATE="60/m burst 2", RATE_EXCEEDED="delay")
    receipts = netra_queue.send_many([("user.1", n) for n in range(4)] + [("user.2", 0)], priority=Priority.HIGH)
    assert [receipt.not_before is not None for receipt in receipts] == [False, False, True, True, False]
    store.advance(2.1)
    assert [m.payload.text for m in get(store).messages] == ["0", "1", "2", "3"]


def test_a_turn_after_its_end_is_refused(use: Use) -> None:
    store = use(RATE="60/m burst 1", RATE_EXCEEDED="delay")
    for number in range(4):
        netra_queue.send("user.1", number, ttl=3)
    with pytest.raises(RateLimited) as caught:
        netra_queue.send("user.1", 4, ttl=3)
    assert 0 < caught.value.retry_after_seconds <= 1
    assert store.stat("user.1").messages == 4
    netra_queue.send("user.1", 5, ttl=60)


def test_what_takes_the_place_of_another_is_not_delayed_but_refused(use: Use) -> None:
    """Each new one would push back the turn of all: a client would never see any."""
    use(RATE="60/m burst 1", RATE_EXCEEDED="delay")
    assert outcomes(3, collapse="progress") == [True, False, False]


def test_the_later_turn_of_two_rates_counts(use: Use) -> None:
    use(RATE="60/m burst 2", SENDER_RATES={"import": "6/m burst 1"}, RATE_EXCEEDED="delay")
    now = current_store().now()
    receipts = [netra_queue.send("user.1", n, sender="import") for n in range(3)]
    waits = [0 if r.not_before is None else round((r.not_before - now).total_seconds()) for r in receipts]
    assert waits == [0, 10, 20]


def test_a_duplicate_has_no_turn(use: Use) -> None:
    use(RATE="60/m burst 1", RATE_EXCEEDED="delay")
    netra_queue.send("user.1", 1, key="a")
    again = netra_queue.send("user.1", 1, key="a")
    assert (again.outcome, again.not_before) == (Outcome.DUPLICATE, None)


# --- transactions, processes, cost ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE)
def test_a_sender_in_a_transaction_has_nobody_wait(use: Use, alias: str) -> None:
    """What it was granted stays taken when its transaction is rolled back."""
    store = use(STORES[alias], RATE="60/m burst 3")
    with rolled_back(alias):
        netra_queue.send("user.1", 1)
        assert together(lambda: outcomes(1), timeout=10) == [[True]]
    assert outcomes(2) == [True, False]
    assert store.stat("user.1").messages == 2


@pytest.mark.django_db(databases=["default"], transaction=True)
def test_a_sender_in_a_transaction_on_sqlite(use: Use) -> None:
    store = use(STORES["default"], RATE="60/m burst 2")
    with transaction.atomic():
        assert outcomes(3) == [True, True, False]
    assert store.stat("user.1").messages == 2


@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE)
def test_a_rate_that_cannot_be_asked_for_in_time(use: Use, alias: str, settings: Any) -> None:
    use(STORES[alias], RATE="60/m burst 2")
    outcomes(1)
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "STORE_TIMEOUT_SECONDS": 0.2}
    with transaction.atomic(using=alias):
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT id FROM netra_queue_ratebucket FOR UPDATE")
        with pytest.raises(StoreUnavailable, match="whether a rate is exceeded"):
            netra_queue.send("user.1", 1)


@pytest.mark.parametrize("alias", DATABASES_HERE)
def test_without_a_rate_no_statement_more_and_with_one_it_is_one(use: Use, alias: str) -> None:
    def of_a_send() -> int:
        with CaptureQueriesContext(connections[alias]) as queries:
            outcomes(1)
        return len(queries)

    def statements(**policy: Any) -> int:
        """The fewest of several: every few seconds a send asks again for what is remembered that long."""
        use(STORES[alias], **policy)
        outcomes(3)
        return min(of_a_send() for _ in range(5))

    without = statements()
    assert statements(SENDER_RATES={"import": "1/m"}) == without, "a class that nobody belongs to"
    assert statements(RATE="1000/s") == without + 1


class Asked(MemoryStore):
    times = 0

    def admit(self, wants: Sequence[Want]) -> list[Taken]:
        Asked.times += 1
        return super().admit(wants)


def test_who_goes_far_beyond_the_rate_costs_the_store_nothing(use: Use) -> None:
    Asked.times = 0
    use(f"{__name__}.Asked", RATE="60/m burst 2")
    assert outcomes(50).count(True) == 2
    assert Asked.times == 3, "two were let through, and one was told"


def test_a_bucket_that_is_empty_for_many_may_have_one_left(use: Use) -> None:
    use(RATE="60/m burst 5")
    netra_queue.send_many([("user.1", n) for n in range(3)])
    with pytest.raises(RateLimited):
        netra_queue.send_many([("user.1", n) for n in range(4)])
    assert outcomes(3) == [True, True, False]


def test_a_refusal_of_a_large_call_is_remembered_as_one(use: Use) -> None:
    use(RATE="60/m burst 2")
    netra_queue.send("user.1", 1)
    for _ in range(2):
        with pytest.raises(RateLimited) as caught:
            netra_queue.send_many([("user.1", n) for n in range(9)])
        assert 0.5 < caught.value.retry_after_seconds <= 1


def test_pauses_are_not_the_same_for_all() -> None:
    found = {round(rates.paced(10), 3) for _ in range(50)}
    assert len(found) > 40
    assert all(10 <= seconds <= 20 for seconds in found)
    assert max(rates.paced(0) for _ in range(200)) > 0.5


SENDER = """
import sys, time, django
django.setup()
import netra_queue
print("ready", flush=True)
sys.stdin.readline()
passed = 0
for number in range(20):
    try:
        netra_queue.send("user.1", number)
    except netra_queue.RateLimited:
        pass
    else:
        passed += 1
print(passed, flush=True)
"""


@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE)
def test_a_rate_holds_for_all_processes_together(use: Use, alias: str) -> None:
    policy = {"RATE": "1/m burst 10"}
    store = use(STORES[alias], **policy)
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DATABASE_URL": database_url(alias),
    }
    code = (
        f"from django.conf import settings\nsettings.NETRA_QUEUE = {{'POLICIES': {{'default': {policy!r}}}}}\n{SENDER}"
    )
    senders = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for sender in senders:
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
    results = []
    for sender in senders:
        assert sender.stdin is not None
        sender.stdin.write("go\n")
        sender.stdin.flush()
    for sender in senders:
        output, _ = sender.communicate(timeout=60)
        results.append(int(output))
    assert sum(results) == 10
    assert store.stat("user.1").messages == 10
