"""What a hub counts of its connections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from netra_queue import conf, process, statistics
from netra_queue.core.connection import Connection
from netra_queue.core.message import Priority
from netra_queue.core.statistics import Event, Figures, Gauge, Timing
from netra_queue.core.wire import Ack, Mode
from netra_queue.hub import Hub
from netra_queue.link import Link
from netra_queue.statistics import Ledger
from netra_queue.stores import current_store
from tests import counts
from tests.making import AdvancingMemoryStore, make_draft, make_message, put
from tests.test_hub import connect, play
from tests.waiting import await_until

NORMAL = Priority.NORMAL
NEVER = 3600


@pytest.fixture
def store(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdvancingMemoryStore]:
    settings.NETRA_QUEUE = {"STORE": "tests.making.AdvancingMemoryStore", "POLL_SECONDS": NEVER}
    monkeypatch.setattr(statistics, "ledger", Ledger())
    monkeypatch.setattr(statistics, "seconds_to_next", lambda now: NEVER)
    counts.take()
    yield current_store()  # type: ignore[misc]
    process.close()
    counts.take()


async def frames_with(frames: list[str], text: str, count: int) -> None:
    await await_until(lambda: sum(frame.count(text) for frame in frames) == count)


def ack(hub: Hub, link: Link, seq: int) -> None:
    hub.carry_out(link, link.connection.receive(Ack(seq), hub.loop.time()))


async def after_a_tick(total: Figures, event: Event, count: int) -> None:
    """Wait until so many of these are counted; all that is counted until then is added to ``total``."""

    def is_there() -> bool:
        total.add(counts.take())
        return total.count(event) >= count

    await await_until(is_there)


def test_replayed_and_live_messages_are_timed_apart(store: AdvancingMemoryStore) -> None:
    put(store, *(make_draft(text='"old"', priority=Priority.HIGH) for _ in range(3)))
    store.advance(60)
    total = Figures()

    async def played(hub: Hub) -> None:
        link, frames = await connect(hub)
        await frames_with(frames, '"old"', 3)
        put(store, make_draft(text='"new"'), make_draft(text='"new"'))
        hub.ring(["user.1"])
        await frames_with(frames, '"new"', 2)
        await after_a_tick(total, Event.TRANSMITTED, 5)
        ack(hub, link, 4)
        ack(hub, link, 5)
        ack(hub, link, 5)
        await after_a_tick(total, Event.ACKED, 5)
        await asyncio.sleep(0.3)

    play(played)
    total.add(counts.take())
    assert counts.counted(total) == {"accepted": 5, "transmitted": 5, "acked": 5, "connected": 1}
    assert counts.of_priority(total, Event.TRANSMITTED) == {Priority.HIGH: 3, NORMAL: 2}
    replayed, live = total.timings[Timing.REPLAY_ACK], total.timings[Timing.ACK]
    assert (replayed.count, live.count) == (3, 2)
    assert 180 < replayed.total < 190, "each of them has waited for a minute, by the store's clock"
    assert live.total < 10
    assert total.timings[Timing.LIVE].count == 1
    assert total.timings[Timing.LIVE].total < 5


def test_what_is_transmitted_again_is_counted_again(store: AdvancingMemoryStore) -> None:
    put(store, make_draft(text='"it"'))

    async def played(hub: Hub) -> None:
        for _ in range(2):
            link, frames = await connect(hub)
            await frames_with(frames, '"it"', 1)
            hub.release(link, None)

    play(played)
    assert counts.counted() == {"accepted": 1, "transmitted": 2, "connected": 2}


def test_own_sends_that_never_reach_the_store(store: AdvancingMemoryStore) -> None:
    total = Figures()

    async def played(hub: Hub) -> None:
        link, frames = await connect(hub)
        await frames_with(frames, "netra.live", 1)
        for _ in range(3):
            message = make_message(text='"own"')
            hub.carry_out(link, link.connection.send_own(message, hub.loop.time()))
        await frames_with(frames, '"own"', 3)
        ack(hub, link, 2)
        await after_a_tick(total, Event.ACKED, 2)
        hub.release(link, None)
        await asyncio.sleep(0.1)

    play(played)
    process.close()
    total.add(counts.take())
    total.add(statistics.current_store().statistics_total())
    assert counts.counted(total) == {"accepted": 3, "transmitted": 3, "acked": 2, "connected": 1}, "the third one waits"
    assert store.overview(1, 10).messages == 1


def test_raw_clients_are_not_timed(store: AdvancingMemoryStore) -> None:
    put(store, make_draft(text='"it"'))

    async def played(hub: Hub) -> None:
        link, _ = await connect(hub)
        raw = Connection("user.2", conf.policy("default"), Mode.RAW, hub.loop.time())
        raw.send_own(make_message(), hub.loop.time())
        link.connection = raw
        raw.opened(waiting=0, losses=store.losses(["x"]).get("x") or _no_losses(), at=store.now())
        raw.begin_read()
        raw.take([], more=False, now=hub.loop.time())
        raw.written(1, hub.loop.time())
        raw.close(1000, hub.loop.time())
        hub.meter.read(link)

    play(played)
    found = counts.take()
    assert found.count(Event.ACKED) == 1
    assert found.timings[Timing.ACK].count == found.timings[Timing.REPLAY_ACK].count == 0


def _no_losses() -> Any:
    from netra_queue.core.message import Losses

    return Losses()


async def settled(hub: Hub) -> None:
    """Beyond the second look of a new connection, and a tick."""
    await asyncio.sleep(0.6)


def test_a_bell_that_was_missed(store: AdvancingMemoryStore) -> None:
    async def played(hub: Hub) -> None:
        link, frames = await connect(hub)
        await frames_with(frames, "netra.live", 1)
        await settled(hub)
        await hub.poll()
        put(store, make_draft(text='"missed"', sent_at=store.now() - timedelta(seconds=2)))
        await hub.poll()
        await frames_with(frames, '"missed"', 1)
        await settled(hub)
        assert counts.take().count(Event.BELL_MISSED) == 1
        put(store, make_draft(text='"young"'))
        await hub.poll()
        await frames_with(frames, '"young"', 1)
        await settled(hub)
        assert counts.take().count(Event.BELL_MISSED) == 0, "its bell may be on its way"
        await hub.poll()
        put(store, make_draft(text='"rung"', sent_at=store.now() - timedelta(seconds=2)))
        hub.ring(["user.1"])
        await frames_with(frames, '"rung"', 1)
        await hub.poll()
        await settled(hub)
        assert counts.take().count(Event.BELL_MISSED) == 0, "what waits for its ack is not found, and a bell is no poll"
        ack(hub, link, 3)

    play(played)


def test_gauges_are_sums_over_time(store: AdvancingMemoryStore) -> None:
    put(store, make_draft(text='"it"'))

    async def played(hub: Hub) -> None:
        link, frames = await connect(hub)
        await frames_with(frames, '"it"', 1)
        hub.carry_out(link, link.connection.send_own(make_message(text='"own"'), hub.loop.time()))
        hub.meter.sample()
        counts.take()
        await asyncio.sleep(0.2)
        hub.meter.sample()
        gauges = counts.take().gauges
        assert 0.19 < gauges[Gauge.CONNECTIONS] < 2
        assert gauges[Gauge.IN_FLIGHT] == pytest.approx(2 * gauges[Gauge.CONNECTIONS])
        assert gauges[Gauge.OWN_SENDS] == pytest.approx(gauges[Gauge.CONNECTIONS])
        assert statistics.ledger.gauge(Gauge.IN_FLIGHT) == 2

    play(played)


def test_the_hub_writes_and_starts_no_thread_for_it(
    store: AdvancingMemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(statistics, "seconds_to_next", lambda now: 0.05)

    async def played(hub: Hub) -> None:
        put(store, make_draft())
        await connect(hub)
        await await_until(lambda: store.statistics_total().count(Event.TRANSMITTED) == 1)
        assert [thread.name for thread in threading.enumerate() if "statistics" in thread.name] == []

    play(played)
    process.close()
    assert statistics._thread.hubs == 0


def test_what_a_connection_did_last_is_written_at_the_end(store: AdvancingMemoryStore) -> None:
    async def played() -> None:
        hub = process.current_hub()
        put(store, make_draft(text='"it"'))
        link, frames = await connect(hub)
        await frames_with(frames, '"it"', 1)
        ack(hub, link, 1)

    asyncio.run(played())
    process.close()
    total = store.statistics_total()
    assert counts.counted(total) == {"accepted": 1, "transmitted": 1, "acked": 1, "connected": 1}
    assert total.timings[Timing.REPLAY_ACK].count == 1
    start = store.now() - timedelta(minutes=1)
    assert len(store.statistics(start, store.now() + timedelta(minutes=1), 10)) in (1, 2)
