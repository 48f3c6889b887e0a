"""The public verbs, each with its asynchronous twin: receipts and options, bells on each database, refusals."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser, User
from django.db import connections, transaction

import netra_queue
from netra_queue import (
    CalledOnEventLoop,
    InvalidMessage,
    MessageTooLarge,
    Outcome,
    Priority,
    QueueFull,
    Receipt,
    StoreUnavailable,
    models,
    testing,
    wakeup,
)
from netra_queue.hub import LOOK_AGAIN_SECONDS
from netra_queue.sending import HOLDERS_KNOWN_SECONDS
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from tests.conftest import CONCURRENT_DATABASES_HERE
from tests.making import HERE, AdvancingDatabaseStore, get, make_policy, make_presence, rolled_back
from tests.server.conftest import STORES, play
from tests.waiting import wait_until

Calls = list[list[str]]
Verb = Callable[..., Any]


@pytest.fixture
def store(settings: Any, database: str) -> Iterator[Store]:
    """Each database in turn."""
    settings.NETRA_QUEUE = {"STORE": STORES[database]}
    yield current_store()
    testing.shutdown()


@pytest.fixture
def use(settings: Any, transactional_db: None) -> Iterator[Callable[..., AdvancingDatabaseStore]]:
    """Makes the store on SQLite, with these keys as the default policy."""

    def make(**policy: Any) -> AdvancingDatabaseStore:
        settings.NETRA_QUEUE = {"STORE": "tests.making.AdvancingDatabaseStore", "POLICIES": {"default": policy}}
        store = current_store()
        assert isinstance(store, AdvancingDatabaseStore)
        return store

    yield make
    testing.shutdown()


@pytest.fixture
def here(use: Callable[..., AdvancingDatabaseStore]) -> AdvancingDatabaseStore:
    return use()


@pytest.fixture
def rung() -> Iterator[Calls]:
    """What this process's hub, if it had one, was rung for."""
    calls: Calls = []
    wakeup.register_local("test", lambda queues: calls.append(sorted(queues)))
    yield calls
    wakeup.unregister_local("test")


def asynchronous(verb: Verb) -> Verb:
    """An asynchronous verb, called from synchronous code on an event loop of its own."""
    return lambda *args, **options: play(verb(*args, **options))


SEND = pytest.mark.parametrize("send", [netra_queue.send, asynchronous(netra_queue.asend)], ids=["send", "asend"])
SEND_MANY = pytest.mark.parametrize(
    "send_many", [netra_queue.send_many, asynchronous(netra_queue.asend_many)], ids=["send_many", "asend_many"]
)
SEND_TO_USER = pytest.mark.parametrize(
    "send_to_user",
    [netra_queue.send_to_user, asynchronous(netra_queue.asend_to_user)],
    ids=["send_to_user", "asend_to_user"],
)


def payloads(store: Store, queue: str = "user.1") -> list[str]:
    return [message.payload.text for message in get(store, queue).messages]


def written() -> list[int]:
    """How many rows of each kind a send may leave behind."""
    return [model.objects.count() for model in (models.Message, models.UsedKey, models.Loss)]


# --- the bell and the transaction ----------------------------------------------------------------------------------


def test_the_bell_rings_after_the_commit_and_not_before(store: Store, database: str, rung: Calls) -> None:
    with transaction.atomic(using=database):
        netra_queue.send("user.1", 1)
        netra_queue.send_many([("user.2", 1), ("user.3", 2)])
        assert rung == []
    wait_until(lambda: rung == [["user.1"], ["user.2", "user.3"]])


def test_the_bell_never_rings_after_a_rollback(store: Store, database: str, rung: Calls) -> None:
    with rolled_back(database):
        netra_queue.send("user.1", 1)
    with transaction.atomic(using=database):
        netra_queue.send("user.2", 2)
        with rolled_back(database):
            netra_queue.send("user.3", 3)
    wait_until(lambda: ["user.2"] in rung)
    assert rung == [["user.2"]]
    assert [payloads(store, f"user.{number}") for number in (1, 2, 3)] == [[], ["2"], []]


def test_after_a_long_transaction_it_is_asked_anew_who_is_there(
    store: Store, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever came meanwhile looked again before the commit."""
    told: list[Any] = []
    monkeypatch.setattr(wakeup, "ring", lambda queues, lookup, holders=None: told.append(holders))
    store.heartbeat(HERE)
    store.attach(make_presence("user.1"), make_policy())
    with transaction.atomic(using=database):
        netra_queue.send("user.1", 1)
    with transaction.atomic(using=database):
        netra_queue.send("user.1", 2)
        monkeypatch.setattr("netra_queue.sending.HOLDERS_KNOWN_SECONDS", 0.0)
    assert told == [{HERE.id: {"user.1"}}, None]


def test_connections_look_again_after_what_senders_take_for_just_now() -> None:
    assert 2 * HOLDERS_KNOWN_SECONDS < LOOK_AGAIN_SECONDS


@SEND
def test_the_bell_rings_at_once_without_a_transaction(store: Store, rung: Calls, send: Verb) -> None:
    send("user.1", 1)
    assert rung == [["user.1"]]


@pytest.mark.parametrize("verb", [netra_queue.asend_many, netra_queue.asend], ids=["asend_many", "asend"])
def test_asend_below_async_to_sync_belongs_to_the_transaction(
    store: Store, database: str, rung: Calls, verb: Verb
) -> None:
    arguments = ("user.1", 1) if verb is netra_queue.asend else ([("user.1", 1)],)
    with rolled_back(database):
        async_to_sync(verb)(*arguments)
        assert payloads(store) == ["1"], "this thread sees what it wrote"
    assert (payloads(store), rung) == ([], [])
    with transaction.atomic(using=database):
        async_to_sync(verb)(*arguments)
        assert rung == []
    assert (payloads(store), rung) == (["1"], [["user.1"]])


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        (netra_queue.send, ("user.1", 1)),
        (netra_queue.send_many, ([("user.1", 1)],)),
        (netra_queue.send_to_user, (SimpleNamespace(pk=1), 1)),
    ],
    ids=["send", "send_many", "send_to_user"],
)
def test_a_synchronous_verb_on_an_event_loop(
    here: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch, verb: Verb, arguments: tuple[Any, ...]
) -> None:
    monkeypatch.delenv("DJANGO_ALLOW_ASYNC_UNSAFE", raising=False)

    async def call() -> None:
        verb(*arguments)

    with pytest.raises(CalledOnEventLoop, match=rf"await a{verb.__name__}\("):
        play(call())
    assert written() == [0, 0, 0]


# --- receipts and options ------------------------------------------------------------------------------------------


@SEND
def test_a_receipt_names_the_message(here: AdvancingDatabaseStore, send: Verb) -> None:
    receipt = send("user.1", {"n": 1})
    (message,) = get(here).messages
    assert receipt == Receipt(id=message.id, queue="user.1", outcome=Outcome.QUEUED)
    assert (message.payload.text, message.priority) == ('{"n":1}', Priority.NORMAL)


@SEND_MANY
def test_many_answer_in_order(here: AdvancingDatabaseStore, send_many: Verb) -> None:
    queues = ["user.2", "user.1", "user.2", "user.3", "user.1"]
    receipts = send_many((queue, number) for number, queue in enumerate(queues))
    assert [receipt.queue for receipt in receipts] == queues
    found = {message.id: message.payload.text for queue in set(queues) for message in get(here, queue).messages}
    assert [found[receipt.id] for receipt in receipts] == ["0", "1", "2", "3", "4"]
    assert send_many([]) == []


@SEND_MANY
def test_options_hold_for_all_of_many(here: AdvancingDatabaseStore, send_many: Verb) -> None:
    pairs = [("user.1", 1), ("user.2", 2), ("user.1", 3)]
    receipts = send_many(pairs, priority=Priority.HIGH, ttl=60, key="k")
    assert [receipt.outcome for receipt in receipts] == [Outcome.QUEUED, Outcome.QUEUED, Outcome.DUPLICATE]
    assert receipts[2].id == receipts[0].id
    for queue in ("user.1", "user.2"):
        assert [message.priority for message in get(here, queue).messages] == [Priority.HIGH]
    here.advance(61)
    assert here.waiting(["user.1", "user.2"]) == set()


@SEND_MANY
def test_many_are_all_accepted_or_none(
    use: Callable[..., AdvancingDatabaseStore], rung: Calls, send_many: Verb
) -> None:
    use(MAX_MESSAGES=1, OVERFLOW="reject", MAX_MESSAGE_BYTES=10, MAX_BYTES=100)
    with pytest.raises(QueueFull) as full:
        send_many([("user.1", 1), ("user.2", 2), ("user.2", 3)], key=None)
    assert (full.value.queue, full.value.limit_messages) == ("user.2", 1)
    with pytest.raises(MessageTooLarge) as large:
        send_many([("user.1", 1), ("user.2", "x" * 10)])
    assert (large.value.queue, large.value.size, large.value.limit) == ("user.2", 12, 10)
    with pytest.raises(InvalidMessage):
        send_many([("user.1", 1), ("no such name!", 2)])
    assert (written(), rung) == ([0, 0, 0], [])


@SEND
def test_a_key_makes_one_message_of_two(here: AdvancingDatabaseStore, send: Verb) -> None:
    first, second = send("user.1", 1, key="k", ttl=60), send("user.1", 2, key="k")
    assert (second.outcome, second.id) == (Outcome.DUPLICATE, first.id)
    assert send("user.2", 3, key="k").outcome is Outcome.QUEUED
    here.advance(61)
    assert send("user.1", 4, key="k").outcome is Outcome.QUEUED
    assert payloads(here) == ["4"]


@SEND
@pytest.mark.parametrize("ttl", [60, 60.0, timedelta(minutes=1)])
def test_the_time_to_live(here: AdvancingDatabaseStore, send: Verb, ttl: Any) -> None:
    send("user.1", 1, ttl=ttl)
    here.advance(55)
    assert payloads(here) == ["1"]
    here.advance(5)
    assert payloads(here) == []


@SEND
def test_the_time_to_live_of_the_policy(use: Callable[..., AdvancingDatabaseStore], send: Verb) -> None:
    store = use(TTL={"high": 100, "normal": 200})
    send("user.1", "high", priority=Priority.HIGH)
    send("user.1", "normal")
    store.advance(100)
    assert payloads(store) == ['"normal"']
    store.advance(100)
    assert payloads(store) == []


@SEND
def test_a_dropped_message_says_so(use: Callable[..., AdvancingDatabaseStore], send: Verb) -> None:
    store = use(MAX_MESSAGES=1, OVERFLOW="drop_newest")
    assert send("user.1", 1).outcome is Outcome.QUEUED
    assert send("user.1", 2).outcome is Outcome.DROPPED
    assert payloads(store) == ["1"]


@SEND
def test_a_full_queue_refuses(use: Callable[..., AdvancingDatabaseStore], send: Verb) -> None:
    store = use(MAX_MESSAGES=1, OVERFLOW="reject")
    send("user.1", 1)
    with pytest.raises(QueueFull) as caught:
        send("user.1", 2, key="k")
    assert (caught.value.queue, caught.value.messages, caught.value.limit_messages) == ("user.1", 2, 1)
    assert (payloads(store), written()) == (["1"], [1, 0, 0])


# --- users ---------------------------------------------------------------------------------------------------------


@SEND_TO_USER
def test_a_users_queue(here: AdvancingDatabaseStore, send_to_user: Verb) -> None:
    user = User.objects.create(username="somebody")
    receipt = send_to_user(user, 1, priority=Priority.LOW, ttl=60, key="k")
    (message,) = get(here, f"user.{user.pk}").messages
    assert receipt == Receipt(id=message.id, queue=f"user.{user.pk}", outcome=Outcome.QUEUED)
    assert message.priority is Priority.LOW
    assert send_to_user(user, 2, key="k").outcome is Outcome.DUPLICATE
    here.advance(61)
    assert payloads(here, f"user.{user.pk}") == []


@SEND_TO_USER
@pytest.mark.parametrize(
    "user", [AnonymousUser(), User(username="unsaved"), None], ids=["anonymous", "unsaved", "None"]
)
def test_a_user_without_a_primary_key(here: AdvancingDatabaseStore, send_to_user: Verb, user: Any) -> None:
    with pytest.raises(InvalidMessage, match="a user with a primary key"):
        send_to_user(user, 1)
    assert written() == [0, 0, 0]


# --- what is refused -----------------------------------------------------------------------------------------------


@SEND_MANY
@pytest.mark.parametrize("entry", ["ab", ("user.1",), ("user.1", 1, 2), {"user.1": 1, "user.2": 2}, None, 5, b"ab"])
def test_what_is_no_pair(here: AdvancingDatabaseStore, send_many: Verb, entry: Any) -> None:
    with pytest.raises(InvalidMessage, match="a pair of queue name and payload"):
        send_many([("user.1", 1), entry])
    assert written() == [0, 0, 0]


REFUSED: dict[str, dict[str, Any]] = {
    "queue": {"queue": "no such name!"},
    "queue is no text": {"queue": 42},
    "no JSON": {"payload": object()},
    "NaN": {"payload": [math.nan]},
    "lone surrogate": {"payload": "\ud800"},
    "too large": {"payload": "x" * 262_144},
    "priority": {"priority": 4},
    "priority by name": {"priority": "high"},
    "priority is a bool": {"priority": True},
    "no ttl": {"ttl": 0},
    "negative ttl": {"ttl": timedelta(seconds=-1)},
    "endless ttl": {"ttl": math.inf},
    "ttl is text": {"ttl": "60"},
    "empty key": {"key": ""},
    "long key": {"key": "k" * 1000},
    "key is no text": {"key": 1},
    "key is a surrogate": {"key": "\ud800"},
}


@SEND
@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_message_writes_nothing(
    here: AdvancingDatabaseStore, rung: Calls, send: Verb, wrong: dict[str, Any]
) -> None:
    arguments = {"queue": "user.1", "payload": 1, "key": "k", **wrong}
    with pytest.raises(InvalidMessage):
        send(arguments.pop("queue"), arguments.pop("payload"), **arguments)
    assert (written(), rung) == ([0, 0, 0], [])


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
def test_a_refused_message_leaves_the_callers_transaction_alone(
    here: AdvancingDatabaseStore, wrong: dict[str, Any]
) -> None:
    arguments = {"queue": "user.1", "payload": 1, **wrong}
    with transaction.atomic():
        netra_queue.send("user.1", "before")
        with pytest.raises(InvalidMessage):
            netra_queue.send(arguments.pop("queue"), arguments.pop("payload"), **arguments)
        netra_queue.send("user.1", "after")
    assert payloads(here) == ['"before"', '"after"']


# --- a store that does not answer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE[:1])
def test_asend_does_not_wait_longer_than_the_store_timeout(settings: Any, alias: str) -> None:
    settings.NETRA_QUEUE = {"STORE": STORES[alias], "STORE_TIMEOUT_SECONDS": 0.5}
    try:
        with transaction.atomic(using=alias):
            with connections[alias].cursor() as cursor:
                cursor.execute("LOCK TABLE netra_queue_message IN ACCESS EXCLUSIVE MODE")
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"no answer within 0\.5 seconds"):
                asyncio.run(netra_queue.asend("user.1", 1))
            assert 0.5 <= time.monotonic() - began < 5
    finally:
        testing.shutdown()


@SEND
def test_a_message_too_large_makes_no_queue_known(here: AdvancingDatabaseStore, send: Verb) -> None:
    with pytest.raises(MessageTooLarge):
        send("user.1", "x" * 300_000)
    assert models.Queue.objects.count() == 0
