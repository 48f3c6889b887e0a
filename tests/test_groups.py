"""The verbs for groups, each with its asynchronous twin: receipts, transactions, bells, refusals."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser, User
from django.db import connections, transaction

import netra_queue
from netra_queue import (
    CalledOnEventLoop,
    GroupReceipt,
    InvalidMessage,
    MessageTooLarge,
    Outcome,
    Priority,
    controls,
    models,
    operating,
    testing,
    wakeup,
)
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from tests.making import HERE, get, make_policy, make_presence, rolled_back
from tests.server.conftest import STORES, play
from tests.waiting import wait_until

Calls = list[Any]
Verb = Callable[..., Any]


@pytest.fixture
def store(settings: Any, database: str) -> Iterator[Store]:
    """Each database in turn."""
    settings.NETRA_QUEUE = {"STORE": STORES[database]}
    yield current_store()
    testing.shutdown()


@pytest.fixture
def here(settings: Any, transactional_db: None) -> Iterator[Store]:
    """The store on SQLite."""
    settings.NETRA_QUEUE = {"POLICIES": {"small": {"MAX_MESSAGE_BYTES": 10}, "default": {"MAX_MESSAGE_BYTES": 100}}}
    yield current_store()
    testing.shutdown()


@pytest.fixture
def rung() -> Iterator[Calls]:
    """What this process's hub, if it had one, was rung for."""
    calls: Calls = []
    wakeup.register_local(HERE.id, lambda queues: calls.append(None if queues is None else sorted(queues)))
    yield calls
    wakeup.unregister_local(HERE.id)


def connect(store: Store, *lines: str) -> None:
    store.heartbeat(HERE)
    for line in lines:
        store.attach(make_presence(line), make_policy())


def asynchronous(verb: Verb) -> Verb:
    return lambda *args, **options: play(verb(*args, **options))


def pairs(*names: str) -> pytest.MarkDecorator:
    """Each plain verb, and then each asynchronous one."""
    plain = [getattr(netra_queue, name) for name in names]
    twins = [asynchronous(getattr(netra_queue, f"a{name}")) for name in names]
    values = [tuple(plain), tuple(twins)] if len(names) > 1 else [*plain, *twins]
    return pytest.mark.parametrize(",".join(names), values, ids=["plain", "async"])


@pairs("subscribe", "unsubscribe", "group_send")
def test_subscribe_send_unsubscribe(store: Store, subscribe: Verb, unsubscribe: Verb, group_send: Verb) -> None:
    assert [subscribe("user.1", "room.1") for _ in range(2)] == [True, False]
    receipt = group_send("room.1", {"n": 1}, priority=Priority.HIGH, ttl=60, key="k")
    (message,) = get(store).messages
    assert receipt == GroupReceipt(id=message.id, group="room.1", outcome=Outcome.QUEUED, recipients=1)
    assert (message.payload.text, message.priority) == ('{"n":1}', Priority.HIGH)
    again = group_send("room.1", {"n": 1}, key="k")
    assert again == GroupReceipt(id=message.id, group="room.1", outcome=Outcome.DUPLICATE, recipients=0)
    assert [unsubscribe("user.1", "room.1") for _ in range(2)] == [True, False]
    assert group_send("room.1", {"n": 2}).recipients == 0
    assert len(get(store).messages) == 1
    wait_until(lambda: store.describe(["user.1"]) == {"user.1": ""})


@pairs("subscribe", "unsubscribe")
def test_users_are_subscribed_by_their_queue(here: Store, subscribe: Verb, unsubscribe: Verb) -> None:
    user = User.objects.create_user("somebody")
    assert subscribe(user, "room.1")
    assert here.members("room.1", 10) == [f"user.{user.pk}"]
    assert unsubscribe(f"user.{user.pk}", "room.1")
    with pytest.raises(InvalidMessage, match="user"):
        subscribe(AnonymousUser(), "room.1")


@pytest.mark.parametrize("queue", ["", "user 1", "user.1/phone", None, 5])
@pairs("subscribe", "unsubscribe")
def test_no_queue(here: Store, subscribe: Verb, unsubscribe: Verb, queue: Any) -> None:
    """A line, too: what is sent to a group goes to all lines of a queue."""
    for verb in (subscribe, unsubscribe):
        with pytest.raises(InvalidMessage):
            verb(queue, "room.1")
    assert not models.Group.objects.exists()


@pytest.mark.parametrize("group", ["", "room 1", "/room", "room.1/x", None, 5, "r" * 151])
@pairs("subscribe", "unsubscribe", "group_send")
def test_no_group(here: Store, subscribe: Verb, unsubscribe: Verb, group_send: Verb, group: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: subscribe("user.1", group),
        lambda: unsubscribe("user.1", group),
        lambda: group_send(group, 1),
    ]
    for call in calls:
        with pytest.raises(InvalidMessage, match="group name"):
            call()


@pytest.mark.parametrize(
    "options", [{"priority": 9}, {"ttl": 0}, {"key": ""}, {"payload": float("nan")}, {"payload": "\ud800"}]
)
@pairs("group_send")
def test_what_cannot_be_sent(here: Store, group_send: Verb, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        group_send("room.1", **{"payload": 1, **options})
    with pytest.raises(TypeError):
        group_send("room.1", 1, deliver="first")
    assert not models.Group.objects.exists()


@pairs("group_send")
def test_too_large_for_every_policy(here: Store, group_send: Verb) -> None:
    with pytest.raises(MessageTooLarge, match=r"group room\.1 has 101 bytes"):
        group_send("room.1", "x" * 99)
    assert group_send("room.1", "x" * 98).outcome is Outcome.QUEUED


@pytest.mark.parametrize("verb", ["subscribe", "unsubscribe", "group_send"])
def test_plain_verbs_refuse_the_event_loop(here: Store, verb: str) -> None:
    async def call() -> None:
        getattr(netra_queue, verb)("user.1", "room.1")

    with pytest.raises(CalledOnEventLoop, match=f"await a{verb}"):
        asyncio.run(call())


# --- transactions --------------------------------------------------------------------------------------------------


def test_the_bell_rings_after_the_commit_for_the_members_that_are_here(
    store: Store, database: str, rung: Calls
) -> None:
    connect(store, "user.1", "user.2/phone", "user.9")
    for queue in ("user.1", "user.2", "user.3"):
        netra_queue.subscribe(queue, "room.1")
    with rolled_back(database):
        netra_queue.group_send("room.1", 1)
    with transaction.atomic(using=database):
        netra_queue.group_send("room.1", 2)
        assert rung == []
    wait_until(lambda: rung == [["user.1", "user.2/phone"]])
    assert [message.payload.text for message in get(store).messages] == ["2"]


def test_a_process_with_very_many_members_looks_at_everything(
    here: Store, rung: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "MOST_QUEUES", 1)
    connect(here, "user.1", "user.2")
    for queue in ("user.1", "user.2"):
        netra_queue.subscribe(queue, "room.1")
    netra_queue.group_send("room.1", 1)
    wait_until(lambda: rung == [None])


@pytest.mark.parametrize("verb", ["asubscribe", "agroup_send"])
def test_below_async_to_sync_it_belongs_to_the_transaction(store: Store, database: str, verb: str) -> None:
    netra_queue.subscribe("user.1", "room.1")
    arguments = ("user.2", "room.1") if verb == "asubscribe" else ("room.1", 1)
    with rolled_back(database):
        async_to_sync(getattr(netra_queue, verb))(*arguments)
    store.ensure(["user.1"])
    assert store.members("room.1", 10) == ["user.1"]
    assert get(store).messages == ()


def test_who_waits_for_a_group_holds_up_no_other_sender(settings: Any, concurrent_database: str) -> None:
    """A subscription waits for an open transaction; what others send meanwhile does not wait for the subscription."""
    settings.NETRA_QUEUE = {"STORE": STORES[concurrent_database]}
    store = current_store()
    has_sent, may_commit = threading.Event(), threading.Event()

    def send_slowly() -> None:
        with transaction.atomic(using=concurrent_database):
            netra_queue.group_send("room.1", 1)
            has_sent.set()
            assert may_commit.wait(20)
        connections.close_all()

    async def others() -> None:
        waiting = asyncio.create_task(netra_queue.asubscribe("user.1", "room.1"))
        await asyncio.sleep(0)
        for number in range(5):
            await netra_queue.asend("user.2", number, key=f"k{number}")
            await netra_queue.asend("user.2", number)
        assert not waiting.done()
        may_commit.set()
        assert await waiting

    sender = threading.Thread(target=send_slowly, daemon=True)
    sender.start()
    try:
        assert has_sent.wait(20)
        play(others())
    finally:
        may_commit.set()
        sender.join(20)
    assert len(get(store, "user.2").messages) == 10
    testing.shutdown()


@pytest.mark.parametrize("verb", [netra_queue.group_send, async_to_sync(netra_queue.agroup_send)])
def test_what_operators_have_set_holds_for_a_groups_members(here: Store, verb: Verb) -> None:
    """In a process that has sent nothing yet, too; how large a message may be at the most is part of it."""
    netra_queue.subscribe("user.1", "room")
    netra_queue.subscribe("vip.1", "room")
    large = "x" * 500
    with pytest.raises(MessageTooLarge):
        verb("room", large)
    here.change_controls(operating.policy_changed("huge", {"MAX_MESSAGE_BYTES": 1000}))
    here.change_controls(operating.pattern_set("vip.*", "huge", 1))
    controls.forget()
    assert verb("room", large).recipients == 1
    assert [here.stat(queue).messages for queue in ("user.1", "vip.1")] == [0, 1]
