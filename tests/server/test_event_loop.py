"""Invariant 9: the store blocks no event loop, and none of its calls goes through the thread-sensitive thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import netra_queue
from netra_queue import testing
from netra_queue.stores.base import Store
from netra_queue.stores.database import DatabaseStore
from netra_queue.stores.memory import MemoryStore
from tests.server.conftest import World, holds, live, new_queue, play
from tests.waiting import await_until

CALLS = "NETRA_TEST_CALLS"  # names the file to which a server process adds the calls
OWN_THREADS = ("netra-store", "netra-writer", "netra-bells")


def recording(base: type[Store], note: Callable[[str], None]) -> dict[str, Any]:
    """Overrides of all methods of the contract; each notes "method thread" and does what it did."""

    def override(name: str) -> Callable[..., Any]:
        def method(self: Store, *args: Any, **options: Any) -> Any:
            note(f"{name} {whose_thread()}")
            return getattr(base, name)(self, *args, **options)

        return method

    return {name: override(name) for name in Store.__abstractmethods__ | {"attach_all"}}


def whose_thread() -> str:
    """The thread's name; that of a thread with a running event loop, whatever it is called, is not one of ours."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return threading.current_thread().name
    return "event loop"


def add_to_file(call: str) -> None:
    with open(os.environ[CALLS], "a") as calls:
        calls.write(f"{call}\n")


noted: list[str] = []
RecordingDatabaseStore = type("RecordingDatabaseStore", (DatabaseStore,), recording(DatabaseStore, add_to_file))
RecordingMemoryStore = type("RecordingMemoryStore", (MemoryStore,), recording(MemoryStore, noted.append))


def elsewhere(calls: list[str]) -> set[str]:
    return {call for call in calls if not call.split(" ", 1)[1].startswith(OWN_THREADS)}


def methods(calls: list[str]) -> set[str]:
    return {call.split(" ", 1)[0] for call in calls}


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("consumer", ["async", "sync", "always"])
def test_a_server_calls_the_store_in_threads_of_its_own(
    sqlite_world: World, tmp_path: Path, kind: str, consumer: str
) -> None:
    file = tmp_path / "calls"
    sqlite_world.environment[CALLS] = str(file)
    server = sqlite_world.start(
        kind,
        STORE=f"{__name__}.RecordingDatabaseStore",
        POLL_SECONDS=0.1,
        SERVER_HEARTBEAT_SECONDS=0.5,
        POLICIES={"scenario-drop_oldest-3": {"MAX_MESSAGES": 3, "WINDOW": 4}},
    )

    def calls() -> list[str]:
        return file.read_text().splitlines() if file.exists() else []

    async def a_life() -> None:
        queue, options = new_queue(), {"policy": "scenario-drop_oldest-3", "consumer": consumer}
        client = sqlite_world.client(server, queue, acks=False, **options)
        await client.connect()
        await live(client)
        for number in range(6):
            await netra_queue.asend(queue, number)
        await client.until(lambda: sum(frame["dropped"] for frame in client.frames("netra.lost")) == 3)
        await client.send({"send": 12})  # beyond the window, and unacked for more than a second
        await await_until(lambda: "append" in methods(calls()))
        await client.cut()
        client.acks = True
        async with client:
            await live(client)
            await holds(queue, 0)
        await await_until(lambda: {"detach", "heartbeat", "settle", "ack"} <= methods(calls()))

    async def watched() -> list[str]:
        await a_life()
        return calls()  # those of the end of the process, when no loop runs any more, are not of interest

    found = play(watched())
    assert {"attach_all", "read", "waiting", "losses", "append"} <= methods(found)
    assert elsewhere(found) == set()


@pytest.fixture
def memory(settings: Any) -> Iterator[None]:
    noted.clear()
    settings.NETRA_QUEUE = {"STORE": f"{__name__}.RecordingMemoryStore"}
    yield
    testing.shutdown()


@pytest.mark.parametrize("key", [None, "k"])
def test_the_asynchronous_verbs_call_the_store_in_threads_of_their_own(memory: None, key: str | None) -> None:
    user = type("User", (), {"pk": 1})()

    async def send() -> None:
        await netra_queue.asend("user.1", 1, key=key)
        await netra_queue.asend_many([("user.1", 1), ("user.2", 2)], key=key)
        await netra_queue.asend_to_user(user, 1, key=key)
        await await_until(lambda: "holders" in methods(noted))

    asyncio.run(send())
    assert {"describe", "ensure", "append"} <= methods(noted)
    assert elsewhere(noted) == set()
