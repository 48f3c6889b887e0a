"""Bells: who is rung, who is not, and what a channel layer that fails does to senders and listeners."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer, get_channel_layer

import netra_queue
from netra_queue import joined, testing, wakeup
from netra_queue.group_memory import GroupMemory
from netra_queue.hearing import Ear, patient
from netra_queue.stores import current_store
from netra_queue.wakeup import BELL, CONTROLS, group_of, listen, ring, tell_arrived
from tests.making import HERE, THERE, make_policy, make_presence
from tests.waiting import await_until, wait_until

Names = list[str]


class Layer(InMemoryChannelLayer):  # type: ignore[misc]
    """Keeps what is sent to groups, and fails as it is told to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sent: list[tuple[str, Names]] = []
        self.tries = 0
        self.is_broken = self.is_hanging = False

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self.tries += 1
        self._fail()
        if self.is_hanging:
            await asyncio.Event().wait()
        self.sent.append((group, [CONTROLS] if message["type"] == CONTROLS else message.get("queues", [])))
        await super().group_send(group, message)

    async def group_add(self, group: str, channel: str) -> None:
        self._fail()
        await super().group_add(group, channel)

    async def receive(self, channel: str) -> dict[str, Any]:
        received = asyncio.ensure_future(super().receive(channel))
        try:
            while not received.done():
                self._fail()
                await asyncio.wait([received], timeout=0.01)
            return dict(received.result())
        finally:
            received.cancel()

    def _fail(self) -> None:
        if self.is_broken:
            raise ConnectionError("the layer is away")


@pytest.fixture
def layer(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layer]:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.Layer"}}
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore"}
    monkeypatch.setattr(wakeup, "FIRST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(wakeup, "LONGEST_BACKOFF_SECONDS", 0.02)
    found = get_channel_layer()
    assert isinstance(found, Layer)
    yield found
    testing.shutdown()


def held(**servers: Names) -> Callable[[Collection[str]], Mapping[str, Collection[str]]]:
    """A lookup with this answer."""
    return lambda queues: servers


# --- the sender's side ---------------------------------------------------------------------------------------------


def test_only_servers_that_hold_the_queue_are_rung(layer: Layer) -> None:
    store = current_store()
    for server, queue in ((HERE, "user.1"), (THERE, "user.2"), (THERE, "user.3"), (HERE, "user.5")):
        store.heartbeat(server)
        store.attach(make_presence(queue, server=server), make_policy())
    expected = [(group_of("server-1"), ["user.1"]), (group_of("server-2"), ["user.2", "user.3"])]
    netra_queue.send("user.4", "nobody holds it")
    netra_queue.send("user.1", 1)
    wait_until(lambda: expected[0] in layer.sent)
    netra_queue.send_many([("user.3", 3), ("user.4", 4), ("user.2", 2)])
    wait_until(lambda: expected[1] in layer.sent)
    netra_queue.send("user.5", "the last one")
    expected.append((group_of("server-1"), ["user.5"]))
    wait_until(lambda: len(layer.sent) > 2)
    assert layer.sent == expected


def test_nobody_holds_it_and_nothing_is_sent(layer: Layer) -> None:
    looked_up: list[set[str]] = []

    def lookup(queues: Collection[str]) -> Mapping[str, Collection[str]]:
        looked_up.append(set(queues))
        return {"server-1": ["user.2"]} if "user.2" in queues else {}

    ring(["user.1"], lookup)
    wait_until(lambda: looked_up == [{"user.1"}])
    ring(["user.2"], lookup)
    wait_until(lambda: layer.sent)
    assert layer.sent == [(group_of("server-1"), ["user.2"])]


def test_a_hub_of_this_process_is_called_without_the_layer(layer: Layer) -> None:
    called: list[Names] = []
    wakeup.register_local("server-1", lambda queues: called.append(sorted(queues)))
    try:
        ring({"user.2", "user.1"}, held(**{"server-1": ["user.1", "user.2"], "server-2": ["user.2"]}))
        assert called == [["user.1", "user.2"]], "before ring returns"
        wait_until(lambda: layer.sent)
        assert layer.sent == [(group_of("server-2"), ["user.2"])]
    finally:
        wakeup.unregister_local("server-1")
    ring(["user.1"], held(**{"server-1": ["user.1"]}))
    wait_until(lambda: len(layer.sent) == 2)
    assert (len(called), layer.sent[1]) == (1, (group_of("server-1"), ["user.1"]))


def test_the_hubs_of_this_process_hear_of_operators_without_the_layer(layer: Layer) -> None:
    called: list[str] = []
    wakeup.register_local("server-1", lambda queues: None, lambda: called.append("server-1"))
    try:
        wakeup.ring_controls(lambda: ["server-1", "server-2"])
        assert called == ["server-1"], "before it returns"
        wait_until(lambda: layer.sent)
        assert layer.sent == [(group_of("server-2"), [CONTROLS])]
    finally:
        wakeup.unregister_local("server-1")
    wakeup.ring_controls(list)
    assert called == ["server-1"]


def test_many_rings_share_a_lookup_and_a_bell(layer: Layer) -> None:
    is_looking, may_go = threading.Event(), threading.Event()
    lookups: list[set[str]] = []

    def lookup(queues: Collection[str]) -> Mapping[str, Collection[str]]:
        lookups.append(set(queues))
        is_looking.set()
        assert may_go.wait(20)
        return {"server-1": sorted(queues)}

    ring(["first"], lookup)
    assert is_looking.wait(20)
    names = {f"user.{number}" for number in range(100)}
    for name in sorted(names) * 3:
        ring([name], lookup)
    may_go.set()
    wait_until(lambda: len(layer.sent) == 2)
    assert lookups == [{"first"}, names]
    assert layer.sent == [(group_of("server-1"), ["first"]), (group_of("server-1"), sorted(names))]


def test_a_bell_for_very_many_queues_is_cut(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "QUEUES_PER_BELL", 4)
    names = [f"user.{number}" for number in range(9)]
    ring(names, held(**{"server-1": names}))
    wait_until(lambda: len(layer.sent) == 3)
    assert [queues for _, queues in layer.sent] == [names[:4], names[4:8], names[8:]]


def test_a_broken_layer_is_no_concern_of_a_senders_and_is_left_alone(
    layer: Layer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wakeup, "LEAVE_ALONE_SECONDS", 3600)
    layer.is_broken = True
    lookups: list[set[str]] = []

    def lookup(queues: Collection[str]) -> Mapping[str, Collection[str]]:
        lookups.append(set(queues))
        return {"server-1": sorted(queues)}

    with caplog.at_level(logging.WARNING, "netra_queue"):
        ring(["user.1"], lookup)
        wait_until(lambda: "the layer is away" in caplog.text)
    layer.is_broken = False
    for number in (2, 3):
        ring([f"user.{number}"], lookup)
        wait_until(lambda number=number: len(lookups) == number)  # type: ignore[misc]
    wakeup.close(5)
    assert (layer.tries, layer.sent) == (1, [])
    ring(["user.4"], lookup)  # with a thread that does not remember
    wait_until(lambda: layer.sent)


def test_a_broken_layer_is_tried_again_later(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "LEAVE_ALONE_SECONDS", 0.1)
    layer.is_broken = True
    ring(["user.1"], held(**{"server-1": ["user.1"]}))
    wait_until(lambda: layer.tries == 1)
    layer.is_broken = False

    def is_rung() -> bool:
        ring(["user.2"], held(**{"server-1": ["user.2"]}))
        return bool(layer.sent)

    wait_until(is_rung)


def test_a_layer_that_hangs_holds_up_no_sender(
    layer: Layer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wakeup, "SEND_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(wakeup, "LEAVE_ALONE_SECONDS", 0.0)
    layer.is_hanging = True
    began = time.monotonic()
    ring(["user.1"], held(**{"server-1": ["user.1"]}))
    assert time.monotonic() - began < 0.4
    wait_until(lambda: layer.tries == 1)
    ring(["user.2"], held(**{"server-1": ["user.2"]}))
    wait_until(lambda: "TimeoutError" in caplog.text)
    layer.is_hanging = False
    ring(["user.3"], held(**{"server-1": ["user.3"]}))
    wait_until(lambda: (group_of("server-1"), ["user.3"]) in layer.sent)


def test_a_lookup_that_fails_is_no_concern_of_a_senders(layer: Layer, caplog: pytest.LogCaptureFixture) -> None:
    def lookup(queues: Collection[str]) -> Mapping[str, Collection[str]]:
        raise RuntimeError("no such table")

    ring(["user.1"], lookup)
    wait_until(lambda: "no such table" in caplog.text)
    ring(["user.2"], held(**{"server-1": ["user.2"]}))
    wait_until(lambda: layer.sent)


@pytest.mark.parametrize("backend", [None, "no.such.Layer"], ids=["none", "not installed"])
def test_without_a_layer_senders_and_hubs_go_on(
    layer: Layer, settings: Any, caplog: pytest.LogCaptureFixture, backend: str | None
) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}} if backend else {}
    called: list[Names] = []
    looked_up: list[set[str]] = []

    def lookup(queues: Collection[str]) -> Mapping[str, Collection[str]]:
        looked_up.append(set(queues))
        return {"server-2": sorted(queues)}

    wakeup.register_local("server-1", lambda queues: called.append(sorted(queues)))
    try:
        for number in (1, 2):
            ring([f"user.{number}"], lookup)
            wait_until(lambda number=number: len(looked_up) == number)  # type: ignore[misc]
    finally:
        wakeup.unregister_local("server-1")
    assert called == [["user.1"], ["user.2"]]
    wakeup.close(5)
    assert "bells not rung" not in caplog.text, "none were to be rung"
    asyncio.run(asyncio.wait_for(listen("server-1", lambda queues: None, lambda: None), 5))  # returns


# --- the server's side ---------------------------------------------------------------------------------------------


class Heard:
    """What a listener was told."""

    def __init__(self) -> None:
        self.bells: list[Names] = []
        self.arrivals: list[Names] = []
        self.joined = self.controls = 0

    def on_controls(self) -> None:
        self.controls += 1

    def on_bell(self, queues: Collection[str]) -> None:
        self.bells.append(list(queues))

    def on_arrived(self, queues: Collection[str]) -> None:
        self.arrivals.append(list(queues))

    def on_joined(self) -> None:
        self.joined += 1


@asynccontextmanager
async def listening(layer: Layer) -> Any:
    """A listener that has joined; at the end it is cancelled, and has left."""
    heard = Heard()
    task = asyncio.create_task(listen("server-1", heard.on_bell, heard.on_joined, heard.on_arrived, heard.on_controls))
    try:
        if not layer.is_broken:
            await await_until(lambda: heard.joined)
        yield heard
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert not layer.groups.get(group_of("server-1"))


async def bell(layer: Layer, *queues: object) -> None:
    await layer.group_send(group_of("server-1"), {"type": BELL, "queues": list(queues)})


@pytest.mark.asyncio
async def test_a_listener_hears_its_bells(layer: Layer) -> None:
    async with listening(layer) as heard:
        await bell(layer, "user.1", "user.2")
        await layer.group_send(group_of("server-1"), {"type": "something.else", "queues": ["user.3"]})
        await layer.group_send(group_of("server-1"), {"type": BELL})
        await bell(layer, "user.4", 5, None)
        await await_until(lambda: len(heard.bells) == 3)
        assert heard.bells == [["user.1", "user.2"], [], ["user.4"]]


@pytest.mark.asyncio
async def test_a_listener_hears_whose_clients_have_come_to_another_server(layer: Layer) -> None:
    async with listening(layer) as heard:
        await tell_arrived("user.1", ["server-2", "server-1"])
        await bell(layer, "user.2")
        await await_until(lambda: heard.bells)
        assert (heard.arrivals, heard.bells) == ([["user.1"]], [["user.2"]])
    assert layer.sent[:2] == [(group_of("server-2"), ["user.1"]), (group_of("server-1"), ["user.1"])]


@pytest.mark.asyncio
async def test_a_listener_hears_that_an_operator_has_changed_something(layer: Layer) -> None:
    async with listening(layer) as heard:
        wakeup.ring_controls(lambda: ["server-1", "server-2"])
        await await_until(lambda: heard.controls == 1)
        await await_until(lambda: len(layer.sent) == 2)
        assert heard.bells == []
    assert layer.sent == [(group_of("server-1"), [CONTROLS]), (group_of("server-2"), [CONTROLS])]


@pytest.mark.asyncio
async def test_a_listener_hears_that_an_operator_looks(layer: Layer) -> None:
    asked: list[Names] = []
    joined = asyncio.Event()
    listener = asyncio.create_task(
        wakeup.listen("server-1", lambda look: None, joined.set, on_describe=lambda queues: asked.append(queues))
    )
    local: list[Names] = []
    wakeup.register_local("server-2", lambda queues: None, on_describe=lambda queues: local.append(sorted(queues)))
    try:
        await joined.wait()
        wakeup.ask_details({"server-1": ["user.1", "user.2"], "server-2": ["user.3"]})
        assert local == [["user.3"]], "at once"
        await await_until(lambda: bool(asked))
    finally:
        wakeup.unregister_local("server-2")
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener
    assert asked == [["user.1", "user.2"]]
    assert layer.sent == [(group_of("server-1"), ["user.1", "user.2"])], "who is here needs no layer"


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["broken", "hanging", "absent"])
async def test_an_arrival_that_cannot_be_told_is_let_go(
    layer: Layer, settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    monkeypatch.setattr(wakeup, "SEND_TIMEOUT_SECONDS", 0.1)
    layer.is_broken, layer.is_hanging = how == "broken", how == "hanging"
    if how == "absent":
        settings.CHANNEL_LAYERS = {}
    await asyncio.wait_for(tell_arrived("user.1", ["server-1"]), 5)
    assert ("arrival not told" in caplog.text) is (how != "absent")


@pytest.mark.asyncio
async def test_a_listener_joins_again_when_the_layer_is_back(layer: Layer, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(layer) as heard:
        layer.is_broken = True
        await await_until(lambda: caplog.text.count("no bells from the channel layer") >= 3)
        assert heard.joined == 1
        layer.is_broken = False
        await await_until(lambda: heard.joined == 2)
        await bell(layer, "user.1")
        await await_until(lambda: heard.bells == [["user.1"]])


@pytest.mark.asyncio
async def test_a_listener_that_finds_the_layer_broken(layer: Layer, caplog: pytest.LogCaptureFixture) -> None:
    layer.is_broken = True
    async with listening(layer) as heard:
        await await_until(lambda: "no bells from the channel layer" in caplog.text)
        assert heard.joined == 0
        layer.is_broken = False
        await await_until(lambda: heard.joined == 1)
        await bell(layer, "user.1")
        await await_until(lambda: heard.bells == [["user.1"]])


@pytest.mark.asyncio
async def test_a_listener_stays_in_a_group_that_the_layer_forgets(
    layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined, "JOIN_AGAIN_SECONDS", 0.02)
    async with listening(layer) as heard:
        layer.groups.clear()
        await await_until(lambda: layer.groups.get(group_of("server-1")))
        await bell(layer, "user.1")
        await await_until(lambda: heard.bells == [["user.1"]])


# --- a consumer's own groups ---------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_consumers_groups_are_joined_again(layer: Layer) -> None:
    memory = GroupMemory(layer)
    await memory.group_add("room", "channel")
    await memory.group_add("left", "channel")
    await memory.group_discard("left", "channel")
    layer.is_broken = True
    with pytest.raises(ConnectionError):
        await memory.group_add("refused", "channel")
    layer.is_broken = False
    layer.groups.clear()
    await memory.rejoin()
    assert {group: set(members) for group, members in layer.groups.items()} == {"room": {"channel"}}
    assert memory.capacity == layer.capacity, "everything else is the layer's own"


@pytest.mark.asyncio
async def test_a_consumer_outlives_its_layer(layer: Layer) -> None:
    events: list[str] = []

    async def receive() -> str:
        events.append("receive")
        if events.count("receive") < 3:
            raise ConnectionError("the layer is away")
        return "received"

    async def rejoin() -> None:
        events.append("rejoin")
        if events.count("rejoin") == 1:
            raise ConnectionError("still away")

    assert await asyncio.wait_for(patient(receive, rejoin)(), 10) == "received"
    assert events == ["receive", "rejoin", "rejoin", "receive", "rejoin", "receive"]


@pytest.mark.asyncio
async def test_a_consumer_leaves_the_groups_that_it_is_in_itself(layer: Layer) -> None:
    memory = GroupMemory(layer)
    await memory.group_add("room", "mine")
    await memory.group_add("hall", "mine")
    await memory.group_add("room", "another")
    assert memory.has_joined("mine")
    await memory.leave("mine")
    assert not memory.has_joined("mine")
    assert {group: set(members) for group, members in layer.groups.items() if members} == {"room": {"another"}}
    assert memory.has_joined("another")


@pytest.mark.asyncio
async def test_silence_is_when_everything_is_dealt_with_and_nothing_comes() -> None:
    messages: asyncio.Queue[int] = asyncio.Queue()
    ear = Ear(messages.get)
    silence = asyncio.create_task(ear.silence(0.1))
    for number in range(3):
        messages.put_nowait(number)
        assert await ear() == number
        await asyncio.sleep(0.15)
        assert not silence.done(), "the consumer is dealing with it"
    waiting = asyncio.create_task(ear())
    await asyncio.sleep(0.05)
    messages.put_nowait(3)
    assert await waiting == 3
    waiting = asyncio.create_task(ear())
    began = time.monotonic()
    await asyncio.wait_for(silence, 5)
    assert time.monotonic() - began >= 0.09, "it began anew with what came"
    waiting.cancel()
