"""Replays beside live messages: who is read for when, and how much at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from netra_queue import conf, process, replay_reads
from netra_queue.core.actions import ReadRequest
from netra_queue.core.connection import Connection
from netra_queue.core.policy import Policy
from netra_queue.core.states import State
from netra_queue.core.wire import Mode
from netra_queue.exceptions import NotConfigured
from netra_queue.hub import Hub
from netra_queue.ids import new_id
from netra_queue.link import Link
from netra_queue.stores import current_store
from netra_queue.stores.base import Batch, Presence
from netra_queue.stores.memory import MemoryStore
from tests.making import make_draft, put
from tests.waiting import await_until


class Gated(MemoryStore):
    """Notes what each read is asked for. Those for queues whose names begin with "slow" wait until they may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[tuple[str, int, int]]] = []
        self.is_held, self.may_go_on = threading.Event(), threading.Event()

    def read(self, requests: Sequence[tuple[str, ReadRequest]]) -> list[Batch]:
        self.calls.append([(name, request.limit, request.max_bytes) for name, request in requests])
        if any(name.startswith("slow") for name, _ in requests):
            self.is_held.set()
            assert self.may_go_on.wait(10)
        return super().read(requests)


@pytest.fixture
def use(settings: Any) -> Iterator[Callable[..., Gated]]:
    """Makes the store, with these settings."""

    def make(**values: Any) -> Gated:
        settings.NETRA_QUEUE = {"STORE": f"{__name__}.Gated", "POLL_SECONDS": 600, **values}
        store = current_store()
        assert isinstance(store, Gated)
        return store

    yield make
    process.close()


@asynccontextmanager
async def running() -> AsyncIterator[Hub]:
    hub = Hub()
    hub.start()
    try:
        yield hub
    finally:
        await hub.stop()
        hub.leave()


async def connect(hub: Hub, queue: str, policy: str = "default") -> Link:
    """A connection whose client acks everything at once."""

    async def write(frame: str | bytes) -> None:
        pass

    chosen: Policy = conf.policy(policy)
    link = Link(
        Connection(queue, chosen, Mode.RAW, hub.loop.time()),
        Presence(id=new_id(), queue=queue, server=hub.server, policy=policy),
        write=write,
        timeout_seconds=10,
        on_end=lambda code, reason: None,
        on_broken=lambda: None,
    )
    await hub.attach(link)
    return link


def got(link: Link) -> int:
    """How many messages have been transmitted to it."""
    return link.connection._out.next_seq - 1


def is_live(*links: Link) -> Callable[[], bool]:
    return lambda: all(link.connection.state is State.LIVE for link in links)


def fill(store: Gated, queue: str, count: int, text: str = "1") -> None:
    for _ in range(count):
        put(store, make_draft(queue, text))


def test_a_live_message_waits_for_no_replay(use: Callable[..., Gated]) -> None:
    """Not even for a read of the store that does not return."""
    store = use()
    fill(store, "slow.1", 3)

    async def play() -> None:
        async with running() as hub:
            live = await connect(hub, "user.1")
            await await_until(is_live(live))
            slow = [await connect(hub, f"slow.{number}") for number in range(20)]
            assert await asyncio.to_thread(store.is_held.wait, 5)
            fill(store, "user.1", 2)
            hub.ring(["user.1"])
            await await_until(lambda: got(live) == 2)
            assert not any(got(link) for link in slow)
            store.may_go_on.set()
            await await_until(is_live(*slow))
            assert got(slow[1]) == 3

    asyncio.run(play())


def test_one_replay_is_read_at_a_time_and_bounded(use: Callable[..., Gated], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_reads, "LINKS_PER_CALL", 4)
    monkeypatch.setattr(replay_reads, "MESSAGES_PER_CALL", 40)
    store = use()
    for number in range(10):
        fill(store, f"user.{number}", 25)
    store.calls.clear()

    async def play() -> None:
        async with running() as hub:
            links = await asyncio.gather(*(connect(hub, f"user.{number}") for number in range(10)))
            await await_until(is_live(*links))
            assert [got(link) for link in links] == [25] * 10

    asyncio.run(play())
    assert all(len(call) <= 4 for call in store.calls)
    assert all(sum(limit for _, limit, _ in call) <= 40 for call in store.calls)
    assert all(sum(size for *_, size in call) <= replay_reads.BYTES_PER_CALL for call in store.calls)
    assert len({name for call in store.calls[:3] for name, *_ in call}) == 10, "who has waited longest is next"


def test_a_single_replay_gets_a_whole_window(use: Callable[..., Gated]) -> None:
    store = use()
    fill(store, "user.1", 300)

    async def play() -> None:
        async with running() as hub:
            link = await connect(hub, "user.1")
            await await_until(lambda: got(link) == 256)

    asyncio.run(play())
    assert store.calls[0] == [("user.1", 256, 1_048_576)]


def test_a_connection_keeps_to_its_rate_and_others_do_not_wait(use: Callable[..., Gated]) -> None:
    store = use(POLICIES={"paced": {"REPLAY_RATE": "1/h burst 10"}})
    for queue in ("user.1", "user.2", "user.3"):
        fill(store, queue, 30)

    async def play() -> None:
        async with running() as hub:
            paced = await connect(hub, "user.1", "paced")
            await await_until(lambda: got(paced) == 10)
            others = [await connect(hub, queue) for queue in ("user.2", "user.3")]
            await await_until(is_live(*others))
            assert got(paced) == 10
            assert paced.connection.state is State.REPLAYING

    asyncio.run(play())


def test_the_process_keeps_to_its_rate_and_all_get_their_share(use: Callable[..., Gated]) -> None:
    store = use(PROCESS_REPLAY_RATE="1/h burst 30")
    for number in range(3):
        fill(store, f"user.{number}", 30)

    async def play() -> None:
        async with running() as hub:
            live = await connect(hub, "user.live")
            await await_until(is_live(live))
            links = await asyncio.gather(*(connect(hub, f"user.{number}") for number in range(3)))
            await await_until(lambda: sum(map(got, links)) == 30)
            await asyncio.sleep(3 * replay_reads.PAUSE_SECONDS)
            assert sum(map(got, links)) == 30
            fill(store, "user.live", 100)
            hub.ring(["user.live"])
            await await_until(lambda: got(live) == 100)

    asyncio.run(play())


def test_a_rate_of_the_process_that_is_none_is_said_at_once(use: Callable[..., Gated]) -> None:
    use(PROCESS_REPLAY_RATE="fast")

    async def begin() -> None:
        Hub()

    with pytest.raises(NotConfigured, match="PROCESS_REPLAY_RATE"):
        asyncio.run(begin())
