"""POLICY_RESOLVER: who is asked, when, and what becomes of a resolver that fails."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.testing import WebsocketCommunicator

from netra_queue import operating, process, testing
from netra_queue.consumers import AsyncQueueMixin, QueueMixin
from netra_queue.core.wire import SUBPROTOCOL, CloseCode
from netra_queue.exceptions import StoreUnavailable
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from tests.making import make_policy, make_presence

asked: list[tuple[Any, int]] = []  # users, and in which thread
answer: Any = "tier"


@dataclass
class Customer:
    pk: int = 1
    is_authenticated: bool = True


def resolve(user: Any) -> Any:
    asked.append((user, threading.get_ident()))
    if isinstance(answer, Exception):
        raise answer
    return answer


async def aresolve(user: Any) -> Any:
    return resolve(user)


async def never(user: Any) -> Any:
    await asyncio.sleep(60)


class Consumer(AsyncQueueMixin, AsyncJsonWebsocketConsumer):
    queue_policy = "narrow"

    async def get_queue(self) -> str:
        return "user.1"


class SyncConsumer(QueueMixin, JsonWebsocketConsumer):
    queue_policy = "narrow"

    def get_queue(self) -> str:
        return "user.1"


@pytest.fixture
def store(settings: Any) -> Iterator[Store]:
    global answer
    answer = "tier"
    asked.clear()
    configure(settings, f"{__name__}.resolve")
    yield current_store()
    process.close()


def configure(settings: Any, path: str | None) -> None:
    settings.NETRA_QUEUE = {
        "STORE": "netra_queue.stores.memory.MemoryStore",
        "STORE_TIMEOUT_SECONDS": 0.5,
        "POLICIES": {"narrow": {"WINDOW": 2}, "tier": {"WINDOW": 7}},
        "POLICY_RESOLVER": path,
    }


def connect(user: Any = None, consumer: Any = Consumer) -> dict[str, Any]:
    """Connect once. Returns the first frame, or the event that ends the connection."""

    async def connected() -> dict[str, Any]:
        socket = WebsocketCommunicator(consumer.as_asgi(), "/", subprotocols=[SUBPROTOCOL])
        socket.scope["user"] = user or Customer()
        assert (await socket.connect())[0]
        event = await socket.receive_output(5)
        await socket.disconnect()
        await testing.ashutdown()
        frame: dict[str, Any] = json.loads(event["text"]) if "text" in event else event
        return frame

    return asyncio.run(connected())


def chosen(store: Store) -> tuple[str, bool]:
    stat = store.stat("user.1")
    return stat.policy, stat.is_resolved


@pytest.mark.parametrize("name", ["resolve", "aresolve"])
@pytest.mark.parametrize("consumer", [Consumer, SyncConsumer])
def test_the_users_policy_goes_before_the_consumers(store: Store, settings: Any, name: str, consumer: Any) -> None:
    configure(settings, f"{__name__}.{name}")
    store = current_store()
    assert connect(consumer=consumer)["window"] == 7
    assert chosen(store) == ("tier", True)
    ((user, thread),) = asked
    assert isinstance(user, Customer)
    assert (thread == threading.get_ident()) is (name == "aresolve"), "what may block does so in a thread"


def test_none_leaves_it_to_the_consumer(store: Store, settings: Any) -> None:
    global answer
    answer = None
    assert connect()["window"] == 2
    assert chosen(store) == ("narrow", False)
    configure(settings, None)
    assert connect()["window"] == 2
    assert len(asked) == 1


def test_an_operators_pattern_goes_before_it(store: Store) -> None:
    operating.carry_out(operating.policy_changed("vip", {"WINDOW": 9}))
    operating.carry_out(operating.pattern_set("user.*", "vip", 1))
    assert connect()["window"] == 9
    assert chosen(store) == ("tier", True), "which is what it has again without the pattern"


def test_who_is_not_logged_in_is_not_asked_about(store: Store) -> None:
    assert connect(Customer(is_authenticated=False))["window"] == 2
    assert asked == []


@pytest.mark.parametrize("wrong", [ValueError("no tier"), 5, "", "x" * 101])
def test_when_it_fails_the_queue_keeps_the_policy_it_is_known_with(store: Store, wrong: Any, caplog: Any) -> None:
    """With the consumer's narrower limits, it could lose what it holds."""
    global answer
    answer = wrong
    assert connect()["window"] == 2, "nothing is known of it"
    store.attach(make_presence("user.1", policy="tier"), make_policy())
    assert connect()["window"] == 7
    assert chosen(store) == ("tier", True)
    assert "no policy resolved" in caplog.text


def test_one_that_takes_too_long_has_failed(store: Store, settings: Any) -> None:
    configure(settings, f"{__name__}.never")
    current_store().attach(make_presence("user.1", policy="tier"), make_policy())
    assert connect()["window"] == 7


def test_one_that_cannot_be_imported_has_failed(store: Store, settings: Any) -> None:
    configure(settings, f"{__name__}.nowhere")
    assert connect()["window"] == 2


def test_a_name_that_nobody_knows_is_the_default(store: Store, caplog: Any) -> None:
    global answer
    answer = "gone"
    assert connect()["window"] == 256
    assert "there is no policy 'gone'" in caplog.text


def test_without_a_store_the_client_is_asked_to_come_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    global answer
    answer = ValueError("no tier")

    def away(*arguments: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(store, "describe", away)
    assert connect()["code"] == CloseCode.STORE_UNAVAILABLE
