"""Probes of each part: of those that work, of those that fail, and of those that do not answer."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer

from netra_queue import health, process, readiness, testing, trials
from netra_queue.core.breaker import BreakerState
from netra_queue.exceptions import StoreUnavailable
from netra_queue.health import PROBES, STILL_BUSY, Finding, Health, Report, examine
from netra_queue.hub import Hub
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from netra_queue.stores.guarded import current_guard
from tests.making import AdvancingMemoryStore, force_breaker, make_draft, put
from tests.server.conftest import STORES
from tests.test_architecture import ROOT
from tests.waiting import await_until, wait_until

SHORT = 0.2  # a limit for what is not going to answer
OK, WARN, FAILED = Health
LAYER = f"{__name__}.Layer"


class Layer(InMemoryChannelLayer):  # type: ignore[misc]
    """Loses what it is sent, fails, or hangs whatever is done about it, as it is told to."""

    loses = fails = hangs = False
    may_go_on = threading.Event()

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        if self.fails:
            raise ConnectionError("the layer is away")
        if not self.loses:
            await super().send(channel, message)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if not self.loses:
            await super().group_send(group, message)

    async def receive(self, channel: str) -> Any:
        while self.hangs and not self.may_go_on.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return await super().receive(channel)


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(readiness, "CACHE_SECONDS", 0)
    readiness.forget()
    Layer.may_go_on.clear()
    yield
    Layer.may_go_on.set()
    testing.shutdown()
    readiness.forget()


@pytest.fixture
def store(settings: Any) -> AdvancingMemoryStore:
    settings.NETRA_QUEUE = {"STORE": "tests.making.AdvancingMemoryStore"}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": LAYER}}
    return current_store()  # type: ignore[return-value]


def examined(limit_seconds: float = 5) -> dict[str, Finding]:
    return {one.name: one for one in asyncio.run(examine(limit_seconds)).findings}


def healths(limit_seconds: float = 5) -> dict[str, Health]:
    return {name: one.health for name, one in examined(limit_seconds).items()}


def away(*arguments: Any, **options: Any) -> Any:
    raise StoreUnavailable("away")


def test_everything_works(settings: Any, database: str) -> None:
    settings.NETRA_QUEUE = {"STORE": STORES[database]}
    report = asyncio.run(examine(10))
    assert {one.name: one.health for one in report.findings} == {probe.name: OK for probe in PROBES}, report
    assert report.is_ready
    assert report.health is OK
    assert all(0 < one.seconds < 10 for one in report.findings)


@pytest.mark.parametrize("probe", [*PROBES, *trials.TRIALS], ids=lambda probe: probe.name)
def test_the_page_that_helps_is_there(probe: health.Probe) -> None:
    for page in (probe.page, health.BREAKER_PAGE, trials.CHECKS_PAGE):
        path, _, anchor = page.partition("#")
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(), re.MULTILINE)
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings]


def test_ready_means_what_it_needs() -> None:
    def report(**changed: Health) -> Report:
        found = {"store": OK, "channel layer": OK, "hub": OK, "sweep": OK, **changed}
        return Report(findings=tuple(Finding(name=n, health=h, seconds=0, text="", page="") for n, h in found.items()))

    assert report().health is OK
    for name in ("store", "hub"):
        assert (report(**{name: WARN}).is_ready, report(**{name: WARN}).health) == (True, WARN)
        assert (report(**{name: FAILED}).is_ready, report(**{name: FAILED}).health) == (False, FAILED)
    for name in ("channel layer", "sweep"):
        for given in (WARN, FAILED):
            assert (report(**{name: given}).is_ready, report(**{name: given}).health) == (True, WARN)


# --- the store -----------------------------------------------------------------------------------------------------


def test_a_store_that_fails(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "waiting", away)
    found = examined()
    assert (found["store"].health, found["store"].page) == (FAILED, health.DATABASE_PAGE)
    assert "away" in found["store"].text
    assert found["channel layer"].health is OK


def test_a_store_that_hangs_takes_one_thread(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    may_answer = threading.Event()
    monkeypatch.setattr(store, "waiting", lambda queues: may_answer.wait(20))

    def asking() -> int:
        return sum(thread.name == "netra-store" for thread in threading.enumerate())

    began = time.monotonic()
    assert examined(SHORT)["store"].text == f"no answer within {SHORT:g} seconds"
    for _ in range(3):
        assert (examined(5)["store"].health, examined(5)["store"].text) == (FAILED, STILL_BUSY)
    assert time.monotonic() - began < 4
    assert asking() == 1
    may_answer.set()
    wait_until(lambda: asking() == 0)
    assert examined()["store"].health is OK


def test_an_open_breaker_is_respected(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    force_breaker(store, is_open=True)
    monkeypatch.setattr(AdvancingMemoryStore, "waiting", lambda *given: asked.append(given))
    found = examined()["store"]
    assert (found.health, found.page, asked) == (FAILED, health.BREAKER_PAGE, [])
    assert "breaker is open" in found.text


def test_the_probe_closes_a_breaker_that_is_half_open(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(AdvancingMemoryStore, "waiting", away)
        for _ in range(5):
            examined()
        assert current_guard().state is BreakerState.OPEN
    wait_until(lambda: examined()["store"].health is OK)
    assert current_guard().state is BreakerState.CLOSED


def test_settings_that_cannot_be_used(settings: Any) -> None:
    settings.NETRA_QUEUE = {"STORE": "nowhere.Store"}
    found = examined()["store"]
    assert found.health is FAILED
    assert "nowhere" in found.text


# --- the channel layer ---------------------------------------------------------------------------------------------


def test_a_layer_that_loses_messages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layer, "loses", True)
    report = asyncio.run(examine(SHORT))
    (found,) = [one for one in report.findings if one.name == "channel layer"]
    assert (found.health, found.page) == (FAILED, health.LAYER_PAGE)
    assert found.text.startswith("a message to itself did not come back")
    assert report.is_ready, "polls find the messages"


def test_a_layer_that_fails(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layer, "fails", True)
    found = examined()["channel layer"]
    assert (found.health, found.text) == (FAILED, "the layer is away")


def test_a_layer_that_gives_what_nobody_sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(self: Any, channel: str) -> Any:
        return {"type": health.ECHO, "id": "another"}

    monkeypatch.setattr(Layer, "receive", other)
    assert examined()["channel layer"].health is FAILED


def test_without_a_layer(store: Store, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}
    assert examined()["channel layer"].health is WARN


def test_a_layer_that_cannot_be_cancelled_holds_nobody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layer, "hangs", True)

    async def twice() -> list[Report]:
        try:
            return [await examine(SHORT), await examine(SHORT)]
        finally:
            Layer.may_go_on.set()  # or the end of the loop would wait for it

    texts = [one.text for report in asyncio.run(twice()) for one in report.findings if one.name == "channel layer"]
    assert texts == [f"a message to itself did not come back within {SHORT:g} seconds", STILL_BUSY]


# --- the hub -------------------------------------------------------------------------------------------------------


async def probed(limit_seconds: float = 5) -> Finding:
    """The hub's probe as it is run: on another event loop."""
    return (await asyncio.to_thread(examined, limit_seconds))["hub"]


def test_a_hub_answers_with_its_heartbeat(store: Store) -> None:
    async def played() -> None:
        assert (await probed()).text.startswith("this process has none")
        hub = process.current_hub()
        assert (await probed()).health is OK, "it has had no connections, and so no heartbeat"
        await hub._register()
        for age, expected in ((0, OK), (21, WARN), (31, FAILED)):
            hub.heard_at = hub.loop.time() - age
            assert (await probed()).health is expected
        await process.stop_hub()

    asyncio.run(played())


def test_a_heartbeat_is_noted_when_the_store_has_it(
    store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "SERVER_HEARTBEAT_SECONDS": 0.05}
    store = current_store()

    async def played() -> None:
        hub: Hub = process.current_hub()
        await hub._register()
        before = hub.heard_at
        await await_until(lambda: hub.heard_at > before)
        monkeypatch.setattr(store, "heartbeat", away)
        await asyncio.sleep(0.1)
        before = hub.heard_at
        await asyncio.sleep(0.2)
        assert hub.heard_at == before
        assert (await probed()).health is FAILED
        await process.stop_hub()

    asyncio.run(played())


def test_a_hub_whose_loop_is_blocked(store: Store) -> None:
    found: list[Finding] = []

    async def played() -> None:
        process.current_hub()
        asking = threading.Thread(target=lambda: found.append(examined(SHORT)["hub"]))
        asking.start()
        asking.join()  # on the event loop: that is the fault
        await process.stop_hub()

    asyncio.run(played())
    assert (found[0].health, found[0].text) == (FAILED, f"its event loop did not answer within {SHORT:g} seconds")


# --- the sweep -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "expected"), [(500, OK), (700, WARN), (4000, FAILED)])
def test_messages_that_expired_long_ago(settings: Any, database: str, seconds: float, expected: Health) -> None:
    settings.NETRA_QUEUE = {"STORE": STORES[database]}
    store = current_store()
    put(store, make_draft(ttl=1), make_draft(ttl=10_000))
    now = store.now
    store.now = lambda: now() + timedelta(seconds=1 + seconds)  # type: ignore[method-assign]
    found = examined()["sweep"]
    assert (found.health, found.page) == (expected, health.SWEEP_PAGE)
    assert found.text.startswith("1 expired messages")


def test_the_sweep_is_looked_at_now_and_then(store: AdvancingMemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, make_draft(ttl=1))
    assert healths()["sweep"] is OK
    store.advance(5000)
    assert healths()["sweep"] is OK, "what was found is kept"
    monkeypatch.setattr(health, "SWEEP_CACHE_SECONDS", 0)
    assert healths()["sweep"] is FAILED
    store.sweep(10)
    assert healths()["sweep"] is OK


def test_a_store_that_cannot_be_asked_is_not_the_sweeps_fault(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "due", away)
    found = examined()["sweep"]
    assert found.health is WARN
    assert "not known" in found.text


# --- what is kept of it --------------------------------------------------------------------------------------------


def test_many_ask_and_one_examines(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CACHE_SECONDS", 60)
    asked: list[object] = []
    monkeypatch.setattr(store, "waiting", lambda queues: asked.append(queues) or set())

    async def ask() -> None:
        reports = await asyncio.gather(*(readiness.report() for _ in range(50)))
        assert all(report is not None and report.is_ready for report in reports)

    asyncio.run(ask())
    asyncio.run(ask())
    assert len(asked) == 1


def test_who_stops_waiting_stops_nobody_else(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    may_answer = threading.Event()
    monkeypatch.setattr(store, "waiting", lambda queues: may_answer.wait(10) and set())

    async def ask() -> None:
        first, second = (asyncio.create_task(readiness.report()) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0.05)
        may_answer.set()
        report = await second
        assert report is not None
        assert report.is_ready

    asyncio.run(ask())


def test_the_log_says_why_once(store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "netra_queue.readiness")

    def ask(count: int) -> None:
        for _ in range(count):
            assert asyncio.run(readiness.report()) is not None

    ask(2)
    with monkeypatch.context() as patch:
        patch.setattr(store, "waiting", away)
        ask(3)
    ask(2)
    said = [(record.action, record.getMessage()) for record in caplog.records]  # type: ignore[attr-defined]
    assert said == [
        ("not_ready", "not ready: store: the message store is unavailable: away"),
        ("ready_again", "ready again"),
    ]
