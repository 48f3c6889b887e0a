"""Connections' servers are asked when an operator looks: what comes of it, and what it costs when none answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from channels.layers import get_channel_layer

from netra_queue import details, testing, wakeup
from netra_queue.core.wire import Ack
from netra_queue.describing import MOST_QUEUES, Describing
from netra_queue.links import Links
from netra_queue.stores import current_store
from netra_queue.stores.base import MISSED_HEARTBEATS, Store
from netra_queue.stores.values import Detail
from tests.core.test_connection import live, stored
from tests.making import HERE, NOON, THERE, make_policy, make_presence
from tests.waiting import await_until

LONG_SECONDS = 30.0


@pytest.fixture
def store(settings: Any) -> Iterator[Store]:
    settings.CHANNEL_LAYERS = {}
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore"}
    yield current_store()
    testing.shutdown()


@pytest.fixture
def answering(store: Store) -> Iterator[Callable[..., None]]:
    """Has a server of this process answer with so many deliveries without an ack."""
    servers: list[str] = []

    def answering_(server: str, unacked: int) -> None:
        def on_describe(lines: Collection[str]) -> None:
            mine = [each.id for each in store.connected(lines, 100) if each.server == server]
            store.tell_details([Detail(connection=id, window=9, unacked=unacked, acked_at=NOON) for id in mine])

        servers.append(server)
        wakeup.register_local(server, lambda queues: None, on_describe=on_describe)

    yield answering_
    for server in servers:
        wakeup.unregister_local(server)


def test_all_that_answer_are_not_waited_for_any_longer(
    store: Store, answering: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(details, "WAIT_SECONDS", LONG_SECONDS)
    for number, server in enumerate((HERE, THERE), 1):
        store.heartbeat(server)
        store.attach(make_presence(server=server), make_policy())
        answering(server.id, number)
    store.attach(make_presence("user.2"), make_policy())
    began = time.monotonic()
    for _ in range(2):
        found = {each.connection.server: each for each in details.described(store, ["user.1"], 10)}
        assert {server: each.detail and each.detail.unacked for server, each in found.items()} == {
            HERE.id: 1,
            THERE.id: 2,
        }
        assert all(each.is_answer for each in found.values())
    assert time.monotonic() - began < LONG_SECONDS / 2


def test_one_that_does_not_answer_costs_the_wait(store: Store, answering: Callable[..., None]) -> None:
    store.heartbeat(HERE)
    presence = make_presence()
    store.attach(presence, make_policy())
    began = time.monotonic()
    (found,) = details.described(store, ["user.1"], 10)
    assert time.monotonic() - began >= details.WAIT_SECONDS
    assert (found.detail, found.is_answer) == (None, False)
    store.tell_details([Detail(connection=presence.id, window=9, unacked=4, acked_at=None)])
    (found,) = details.described(store, ["user.1"], 10)
    assert found.detail is not None
    assert (found.detail.unacked, found.is_answer) == (4, False), "what it said before, and that it was before"


def test_nobody_is_asked_without_a_connection_or_about_a_silent_server(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(holders: object) -> None:
        raise AssertionError(holders)

    monkeypatch.setattr(wakeup, "ask_details", ask)
    assert details.described(store, ["user.1"], 10) == []
    store.heartbeat(HERE)
    store.attach(make_presence(), make_policy())
    later = store.now() + timedelta(seconds=MISSED_HEARTBEATS * 10 + 1)
    monkeypatch.setattr(store, "_clock", lambda: later)
    assert [each.is_answer for each in details.described(store, ["user.1"], 10)] == [False]


def test_the_store_is_looked_at_seldom(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Collection[str]] = []
    real = store.details

    def counted(connections: Collection[str]) -> dict[str, Detail]:
        looks.append(connections)
        return real(connections)

    monkeypatch.setattr(store, "details", counted)
    store.heartbeat(HERE)
    store.attach(make_presence(), make_policy())
    details.described(store, ["user.1"], 10)
    assert 1 < len(looks) <= 2 + details.WAIT_SECONDS / details.LOOK_SECONDS


# --- the server's side ---------------------------------------------------------------------------------------------


class Served:
    """A connection as a hub has it."""

    def __init__(self, queue: str) -> None:
        self.queue, self.presence = queue, make_presence(queue)
        self.connection = live(window=9)


async def called(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work)


def make_describing(store: Store, links: Links, call: Any = called) -> Describing:
    return Describing(store, call, lambda: NOON, asyncio.ensure_future, links)  # type: ignore[arg-type]


def transmitted(served: Served, count: int) -> None:
    served.connection.ring()
    served.connection.begin_read()
    served.connection.take(stored(*range(1, count + 1)), more=False, now=asyncio.get_running_loop().time())


@pytest.mark.asyncio
async def test_a_hub_says_how_its_connections_stand(store: Store) -> None:
    links, served, other = Links(), Served("user.1"), Served("user.2")
    for each in (served, other):
        links.add(each)  # type: ignore[arg-type]
        store.attach(each.presence, make_policy())
    describing = make_describing(store, links)
    transmitted(served, 5)
    describing.asked(["user.1", "user.3"])
    await await_until(lambda: bool(store.details([served.presence.id])))
    detail = store.details([served.presence.id])[served.presence.id]
    assert (detail.window, detail.unacked, detail.acked_at) == (9, 5, None)
    assert store.details([other.presence.id]) == {}, "nobody asked about it"
    served.connection.receive(Ack(3), asyncio.get_running_loop().time() - 60)
    describing.asked(["user.1"])
    await await_until(lambda: store.details([served.presence.id])[served.presence.id].unacked == 2)
    acked_at = store.details([served.presence.id])[served.presence.id].acked_at
    assert_about(acked_at, NOON - timedelta(seconds=60))
    describing.remember(served)  # type: ignore[arg-type]
    assert_about(served.presence.acked_at, NOON - timedelta(seconds=60))


def assert_about(found: datetime | None, expected: datetime) -> None:
    assert found is not None
    assert abs(found - expected) < timedelta(seconds=5)


@pytest.mark.asyncio
async def test_questions_that_come_meanwhile_are_answered_together(store: Store) -> None:
    links, calls, gate = Links(), list[int](), asyncio.Event()
    for number in range(3):
        links.add(Served(f"user.{number}"))  # type: ignore[arg-type]

    async def call(work: Callable[[], None]) -> None:
        calls.append(len(calls))
        await gate.wait()
        work()

    describing = make_describing(store, links, call)
    for number in range(3):
        describing.asked([f"user.{number}"])
        await asyncio.sleep(0)
    for _ in range(100):
        describing.asked(["user.2"])
    assert calls == [0]
    gate.set()
    await await_until(lambda: len(calls) == 2)


@pytest.mark.asyncio
async def test_what_the_store_does_not_take_is_let_go(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    links = Links()
    links.add(Served("user.1"))  # type: ignore[arg-type]
    calls: list[str] = []

    async def call(work: Callable[[], None]) -> None:
        calls.append("called")
        raise ConnectionError("away")

    describing = make_describing(store, links, call)
    describing.asked(["user.1"])
    await await_until(lambda: "connections not described" in caplog.text)
    describing.asked(["user.1"])
    await await_until(lambda: len(calls) == 2)


@pytest.mark.asyncio
async def test_of_too_many_queues_none_is_described(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    links = Links()
    names = [f"user.{number}" for number in range(MOST_QUEUES + 1)]
    for name in names:
        links.add(Served(name))  # type: ignore[arg-type]
    make_describing(store, links).asked(names)
    assert "too many queues" in caplog.text


def test_a_question_waits_for_no_layer(settings: Any, store: Store) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "tests.test_wakeup.Layer"}}
    layer: Any = get_channel_layer()
    layer.is_hanging = True
    store.heartbeat(HERE)
    store.attach(make_presence(), make_policy())
    began = time.monotonic()
    details.described(store, ["user.1"], 10)
    assert time.monotonic() - began < wakeup.SEND_TIMEOUT_SECONDS / 2
