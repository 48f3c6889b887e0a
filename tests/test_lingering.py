"""Lingering in one process, with the tests as the ASGI server: when it begins, what ends it, who is told what."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from typing import Any

import pytest
from channels.generic.websocket import AsyncJsonWebsocketConsumer, JsonWebsocketConsumer
from channels.layers import get_channel_layer

from netra_queue import lingering, testing
from netra_queue.consumers import AsyncQueueMixin, QueueMixin
from netra_queue.core.states import State
from netra_queue.core.wire import SUBPROTOCOL, CloseCode
from netra_queue.exceptions import StoreUnavailable
from netra_queue.hub import Hub
from netra_queue.process import current_hub
from netra_queue.stores import current_store
from netra_queue.stores.base import Presence
from netra_queue.stores.memory import MemoryStore
from tests.making import THERE, get, make_policy, make_presence
from tests.waiting import await_until

GROUP = "room"
SOON_SECONDS = 0.3
told: list[tuple[str, Any]] = []  # what consumers were told, in order: (queue, what)
gates: dict[str, asyncio.Event] = {}


class Chat(AsyncQueueMixin, AsyncJsonWebsocketConsumer):
    """In a group from the start. What it hears it sends on."""

    async def get_queue(self) -> str:
        return str(self.scope["queue"])

    async def connect(self) -> None:
        await self.channel_layer.group_add(GROUP, self.channel_name)
        await self.accept()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if content == "hang":
            await self.hang()
        if "say" in content:
            await self.send_json(content["say"])
        told.append((self.scope["queue"], "closing"))
        await self.close(content["close"])

    async def hang(self) -> None:
        told.append((self.scope["queue"], "hanging"))
        try:
            await asyncio.Event().wait()
        finally:
            told.append((self.scope["queue"], "cancelled"))
            await gates["hang"].wait()

    async def say(self, event: dict[str, Any]) -> None:
        await self.send_json(event["what"])

    async def slow(self, event: dict[str, Any]) -> None:
        await gates["slow"].wait()
        await self.send_json(event["what"])

    async def fail(self, event: dict[str, Any]) -> None:
        raise RuntimeError("a handler's own mistake")

    async def shut(self, event: dict[str, Any]) -> None:
        await self.close(4321)

    async def queue_disconnected(self, close_code: int | None) -> None:
        told.append((self.scope["queue"], f"disconnected {close_code}"))

    async def disconnect(self, code: int) -> None:
        told.append((self.scope["queue"], f"disconnect {code}"))


class Brief(Chat):
    queue_linger_seconds = SOON_SECONDS


class Never(Chat):
    queue_linger_seconds = 0


class Alone(Chat):
    """In no group."""

    async def connect(self) -> None:
        await self.accept()


class Late(Chat):
    """Accepts first, and joins its group when it is let."""

    async def connect(self) -> None:
        await self.accept()
        if "late" in gates:
            await gates["late"].wait()
        await self.channel_layer.group_add(GROUP, self.channel_name)


class Thorough(Chat):
    """Joins its group and accepts, and has more to do in ``connect()``."""

    async def connect(self) -> None:
        await super().connect()
        if "thorough" in gates:
            await gates["thorough"].wait()


class Hookless(Never):
    queue_disconnected = AsyncQueueMixin.queue_disconnected  # type: ignore[assignment]


class Clumsy(Brief):
    async def queue_disconnected(self, close_code: int | None) -> None:
        raise RuntimeError("a hook's own mistake")


class SyncChat(QueueMixin, JsonWebsocketConsumer):
    groups = [GROUP]

    def get_queue(self) -> str:
        return str(self.scope["queue"])

    def connect(self) -> None:
        self.accept()
        told.append((self.scope["queue"], threading.get_ident()))

    def say(self, event: dict[str, Any]) -> None:
        self.send_json(event["what"])

    def queue_disconnected(self, close_code: int | None) -> None:
        told.append((self.scope["queue"], threading.get_ident()))
        told.append((self.scope["queue"], f"disconnected {close_code}"))

    def disconnect(self, code: int) -> None:
        told.append((self.scope["queue"], f"disconnect {code}"))


class Socket:
    """What an ASGI server is to one consumer."""

    def __init__(self, consumer: Any, queue: str, *, protocol: bool = False) -> None:
        self.queue = queue
        self.sent: list[dict[str, Any]] = []
        self.is_stalled = False  # nothing goes out to the client
        self.closes_slowly = False
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        subprotocols = [SUBPROTOCOL] if protocol else []
        scope = {"type": "websocket", "queue": queue, "subprotocols": subprotocols, "query_string": b""}
        call = consumer.as_asgi()(scope, self._incoming.get, self._take)
        self.call: asyncio.Task[None] = asyncio.create_task(call)

    async def _take(self, event: dict[str, Any]) -> None:
        if self.is_stalled:
            await asyncio.Event().wait()
        if self.closes_slowly and event["type"] == "websocket.close":
            await asyncio.sleep(0.1)
        self.sent.append(event)

    def put(self, kind: str, **values: Any) -> None:
        self._incoming.put_nowait({"type": f"websocket.{kind}", **values})

    async def connect(self) -> Socket:
        """Return when the store knows of the connection."""
        before = attached(self.queue)
        self.put("connect")
        await await_until(lambda: attached(self.queue) > before)
        return self

    async def leave(self, code: int = 1006) -> None:
        """The client goes; return when the server need not wait for the consumer any longer."""
        self.put("disconnect", code=code)
        async with asyncio.timeout(5):
            await self.call

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.sent]


def attached(queue: str) -> int:
    """How many connections of this queue the hub holds that the store knows of."""
    states = (State.REPLAYING, State.LIVE)
    return sum(link.queue == queue and link.connection.state in states for link in current_hub().links())


async def recorded() -> None:
    """The store knows of those who linger."""
    await await_until(lambda: all(stay.is_recorded for stay in current_hub().lingering._stays.values()))


def heard(queue: str) -> list[str]:
    """What waits in the store for this queue, in order."""
    return [message.payload.text.strip('"') for message in get(current_store(), queue).messages]


def calls(queue: str) -> list[Any]:
    return [what for of, what in told if of == queue and isinstance(what, str)]


async def say(what: str, kind: str = "say") -> None:
    layer: Any = get_channel_layer()
    await layer.group_send(GROUP, {"type": kind, "what": what})


@pytest.fixture(autouse=True)
def _memory(settings: Any) -> Iterator[None]:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    settings.NETRA_QUEUE = {
        "STORE": "netra_queue.stores.memory.MemoryStore",
        "POLL_SECONDS": 3600,
        "POLICIES": {"default": {"HEARTBEAT_SECONDS": 0.2}},
    }
    told.clear()
    gates.clear()
    yield
    testing.shutdown()


def play(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def played() -> None:
        try:
            await work()
        finally:
            await testing.ashutdown()

    asyncio.run(played())


# --- it begins -----------------------------------------------------------------------------------------------------


def test_the_consumer_stays_and_what_it_hears_is_kept() -> None:
    async def stays() -> None:
        socket = await Socket(Chat, "q").connect()
        await socket.leave(1001)
        gc.collect()
        assert calls("q") == ["disconnected 1001"]
        await say("one")
        await say("two")
        await await_until(lambda: heard("q") == ["one", "two"])
        assert calls("q") == ["disconnected 1001"]
        assert current_store().stat("q").connections == 0, "it does not count as connected"

    play(stays)


def test_a_synchronous_consumer_stays_and_is_told_in_its_thread() -> None:
    async def stays() -> None:
        socket = await Socket(SyncChat, "q").connect()
        await socket.leave(1001)
        await await_until(lambda: calls("q") == ["disconnected 1001"])
        await say("one")
        await await_until(lambda: heard("q") == ["one"])
        threads = {what for _, what in told if isinstance(what, int)}
        assert len(threads) == 1
        assert threads != {threading.get_ident()}

    play(stays)


def test_a_client_that_does_not_respond_is_one_that_is_gone() -> None:
    async def stays() -> None:
        socket = await Socket(Chat, "q", protocol=True).connect()
        socket.closes_slowly = True
        async with asyncio.timeout(5):
            await socket.call
        assert socket.sent[-1]["code"] == CloseCode.NOT_RESPONDING, "closed before the server lets the socket go"
        await say("one")
        await await_until(lambda: heard("q") == ["one"])

    play(stays)


async def with_another_tab(socket: Socket) -> None:
    await Socket(Chat, "q").connect()
    socket.put("disconnect", code=1006)


def leaving(code: int) -> Callable[[Socket], Awaitable[None]]:
    async def leave(socket: Socket) -> None:
        socket.put("disconnect", code=code)

    return leave


async def by_the_consumer(socket: Socket) -> None:
    socket.put("receive", text='{"close": 4321}')
    await await_until(lambda: "websocket.close" in socket.kinds)
    told.clear()
    socket.put("disconnect", code=4321)


async def while_the_consumer_closes(socket: Socket) -> None:
    socket.is_stalled = True
    socket.put("receive", text='{"say": "goodbye", "close": 4321}')
    await await_until(lambda: "closing" in calls("q"))
    told.clear()
    socket.put("disconnect", code=1006)


async def malformed(socket: Socket) -> None:
    socket.put("receive", text='{"type": "netra.ack", "seq": 99}')


@pytest.mark.parametrize(
    ("consumer", "end", "code"),
    [
        (Never, leaving(1006), 1006),
        (Alone, leaving(1006), 1006),
        (Chat, leaving(1012), 1012),
        (Chat, by_the_consumer, 4321),
        (Chat, while_the_consumer_closes, 1006),
        (Chat, malformed, 4400),
        (Chat, with_another_tab, 1006),
    ],
    ids=[
        "0 seconds",
        "no groups",
        "the server stops",
        "consumer closed",
        "consumer closes",
        "malformed",
        "another tab",
    ],
)
def test_otherwise_it_is_told_at_once(consumer: Any, end: Callable[[Socket], Awaitable[None]], code: int) -> None:
    async def ends() -> None:
        socket = await Socket(consumer, "q", protocol=True).connect()
        await end(socket)
        async with asyncio.timeout(5):
            await socket.call
        assert calls("q") == [f"disconnected {code}", f"disconnect {code}"]
        assert len(current_hub().lingering) == 0

    play(ends)


def test_without_a_hook_it_is_told_at_once_too() -> None:
    async def ends() -> None:
        await (await Socket(Hookless, "q").connect()).leave()
        assert calls("q") == ["disconnect 1006"]

    play(ends)


def test_not_while_the_queue_is_connected_on_another_server() -> None:
    async def ends() -> None:
        current_store().heartbeat(THERE)
        socket = await Socket(Chat, "q").connect()
        current_store().attach(make_presence("q", server=THERE), make_policy())
        await socket.leave()
        await await_until(lambda: "disconnect 1006" in calls("q"))

    play(ends)


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), 10**6, True, "30", None])
def test_an_impossible_time_is_refused(seconds: Any) -> None:
    with pytest.raises(ValueError, match="queue_linger_seconds: expected a number from 0 to 86400"):
        type("Wrong", (Chat,), {"queue_linger_seconds": seconds})

    async def refused() -> None:
        consumer = type("Later", (Chat,), {"queue_linger_seconds": property(lambda self: seconds)})
        socket = Socket(consumer, "q")
        socket.put("connect")
        with pytest.raises(ValueError, match="queue_linger_seconds"):
            await socket.call

    play(refused)


def test_an_asynchronous_hook_is_not_for_a_synchronous_consumer() -> None:
    async def hook(self: Any, close_code: int | None) -> None: ...

    with pytest.raises(TypeError, match="expected def queue_disconnected, without async"):
        type("Wrong", (SyncChat,), {"queue_disconnected": hook})


# --- it ends -------------------------------------------------------------------------------------------------------


def test_its_time_is_over() -> None:
    async def ends() -> None:
        socket = await Socket(Brief, "q").connect()
        began = asyncio.get_running_loop().time()
        await socket.leave(1001)
        await await_until(lambda: "disconnect 1001" in calls("q"))
        assert asyncio.get_running_loop().time() - began >= SOON_SECONDS
        await say("nobody hears this")
        assert heard("q") == []
        layer: Any = get_channel_layer()
        assert layer.groups.get(GROUP, {}) == {}
        await await_until(lambda: not current_store().lingering(current_store()._lingers))  # type: ignore[attr-defined]

    play(ends)


def test_its_queue_is_back() -> None:
    async def ends() -> None:
        await (await Socket(Chat, "q").connect()).leave()
        await (await Socket(Chat, "other").connect()).leave()
        await Socket(Chat, "q").connect()
        await await_until(lambda: "disconnect 1006" in calls("q"))
        assert calls("other") == ["disconnected 1006"]

    play(ends)


def test_what_the_layer_has_for_it_is_dealt_with_first() -> None:
    async def kept() -> None:
        gates["slow"] = asyncio.Event()
        await (await Socket(Chat, "q").connect()).leave()
        sent = [f"message {number}" for number in range(30)]
        for what in sent:
            await say(what, "slow")
        back = await Socket(Alone, "q").connect()
        await say("too late")
        gates["slow"].set()
        await await_until(lambda: "disconnect 1006" in calls("q"))
        texts = [event["text"].strip('"') for event in back.sent if event["type"] == "websocket.send"]
        assert texts == sent

    play(kept)


def test_a_consumer_that_joins_after_it_accepts_misses_nothing() -> None:
    async def kept() -> None:
        await (await Socket(Late, "q").connect()).leave()
        await recorded()
        gates["late"] = asyncio.Event()
        back = await Socket(Late, "q").connect()
        await say("between")
        gates["late"].set()
        await await_until(lambda: "disconnect 1006" in calls("q"))
        await await_until(lambda: '"between"' in [event.get("text") for event in back.sent])

    play(kept)


def test_a_client_that_came_back_elsewhere_is_noticed_by_the_poll() -> None:
    async def noticed() -> None:
        await (await Socket(Chat, "q").connect()).leave()
        hub = current_hub()
        await recorded()
        await hub.lingering.look()
        assert len(hub.lingering) == 1
        opened = current_store().attach(make_presence("q", server=THERE), make_policy())
        assert opened.lingering == (hub.server.id,)
        await hub.lingering.look()
        await await_until(lambda: "disconnect 1006" in calls("q"))

    play(noticed)


def test_a_consumer_that_closes_ends_its_linger() -> None:
    async def ends() -> None:
        await (await Socket(Chat, "q").connect()).leave()
        await say("", "shut")
        await await_until(lambda: "disconnect 1006" in calls("q"))

    play(ends)


def test_the_oldest_goes_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(lingering, "MAX_LINGERING", 2)

    async def bounded() -> None:
        for number in range(3):
            await (await Socket(Chat, f"q{number}").connect()).leave()
        await await_until(lambda: "disconnect 1006" in calls("q0"))
        assert len(current_hub().lingering) == 2
        assert calls("q1") == calls("q2") == ["disconnected 1006"]

    play(bounded)
    assert "a consumer lingers no longer: there are too many" in caplog.text


def test_the_process_ends() -> None:
    async def ends() -> None:
        await (await Socket(Chat, "q").connect()).leave()
        await say("one")
        await await_until(lambda: heard("q") == ["one"])
        began = asyncio.get_running_loop().time()
        await testing.ashutdown()
        assert asyncio.get_running_loop().time() - began < lingering.FINISH_SECONDS
        assert calls("q") == ["disconnected 1006", "disconnect 1006"]

    play(ends)


# --- it fails ------------------------------------------------------------------------------------------------------


def test_a_handlers_error_is_logged_and_ends_it(caplog: Any) -> None:
    async def ends() -> None:
        await (await Socket(Chat, "q").connect()).leave()
        await say("", "fail")
        await await_until(lambda: len(current_hub().lingering) == 0)

    play(ends)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (record.getMessage(), str(record.exc_info[1])) == (
        "a lingering consumer failed",
        "a handler's own mistake",
    )


def test_a_hooks_error_is_logged_and_ends_nothing(caplog: Any) -> None:
    async def stays() -> None:
        await (await Socket(Clumsy, "q").connect()).leave()
        await say("one")
        await await_until(lambda: heard("q") == ["one"])
        await await_until(lambda: calls("q") == ["disconnect 1006"])

    play(stays)
    assert "queue_disconnected() failed" in caplog.text
    assert "a hook's own mistake" in caplog.text


class Stumbling(MemoryStore):
    """Cannot be told of lingering consumers at first."""

    failures = 2

    def linger(self, stays: Sequence[tuple[Presence, float]]) -> set[str]:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("the database is away")
        return super().linger(stays)


class Watched(MemoryStore):
    """Keeps who was detached."""

    def __init__(self) -> None:
        super().__init__()
        self.detached: list[str] = []

    def detach(self, presences: Collection[Presence]) -> None:
        self.detached += [presence.queue for presence in presences]
        super().detach(presences)


def test_the_store_is_told_of_the_beginning_and_of_the_end(settings: Any) -> None:
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "STORE": f"{__name__}.Watched"}

    async def told_twice() -> None:
        store: Any = current_store()
        await (await Socket(Alone, "plain").connect()).leave()
        await (await Socket(Brief, "q").connect()).leave()
        await await_until(lambda: "plain" in store.detached)
        await recorded()
        assert store.detached == ["plain"]
        await await_until(lambda: store.detached == ["plain", "q"])

    play(told_twice)


class Forgetful(MemoryStore):
    """Cannot be asked who lingers."""

    def lingering(self, ids: Collection[str]) -> set[str]:
        raise StoreUnavailable("the database is away")


def test_a_store_that_is_away_is_told_later(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "STORE": f"{__name__}.Stumbling"}
    monkeypatch.setattr(lingering, "TRY_AGAIN_SECONDS", 0.05)

    async def told_later() -> None:
        await (await Socket(Chat, "q").connect()).leave()
        await current_hub().lingering.look()
        await say("one")
        await await_until(lambda: heard("q") == ["one"])
        await await_until(lambda: bool(current_store()._lingers))  # type: ignore[attr-defined]
        assert calls("q") == ["disconnected 1006"]

    play(told_later)


def test_a_poll_that_fails_ends_nothing(settings: Any) -> None:
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "STORE": f"{__name__}.Forgetful"}

    async def stays() -> None:
        await (await Socket(Chat, "q").connect()).leave()
        await recorded()
        await current_hub().lingering.look()
        assert len(current_hub().lingering) == 1

    play(stays)


# --- the server's call ---------------------------------------------------------------------------------------------


def test_cancelling_the_call_cancels_the_consumer() -> None:
    async def cancelled() -> None:
        socket = await Socket(Chat, "q").connect()
        socket.call.cancel()
        await asyncio.wait([socket.call])
        assert socket.call.cancelled()
        assert calls("q") == [], "as with plain Channels"
        assert len(current_hub().lingering) == 0
        await await_until(lambda: current_store().stat("q").connections == 0)

    play(cancelled)


def test_cancelling_the_call_of_a_lingering_consumer_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stays() -> None:
        hub: Hub = current_hub()
        begin = hub.lingering.begin

        def begin_and_cancel(*arguments: Any) -> None:
            begin(*arguments)
            socket.call.cancel()

        monkeypatch.setattr(hub.lingering, "begin", begin_and_cancel)
        socket = await Socket(Chat, "q").connect()
        socket.put("disconnect", code=1006)
        await asyncio.wait([socket.call])
        assert socket.call.cancelled()
        await say("one")
        await await_until(lambda: heard("q") == ["one"])

    play(stays)


def test_a_consumer_that_is_being_cancelled_does_not_linger() -> None:
    async def cancelled() -> None:
        gates["hang"] = asyncio.Event()
        socket = await Socket(Chat, "q").connect()
        socket.put("receive", text='"hang"')
        await await_until(lambda: "hanging" in calls("q"))
        socket.call.cancel()
        await await_until(lambda: "cancelled" in calls("q"))
        socket.put("disconnect", code=1006)
        await await_until(lambda: "disconnected 1006" in calls("q"))
        assert len(current_hub().lingering) == 0
        gates["hang"].set()
        await asyncio.wait([socket.call])
        assert socket.call.cancelled()

    play(cancelled)


def test_the_consumers_error_is_the_calls() -> None:
    async def raised() -> None:
        socket = await Socket(Chat, "q").connect()
        await say("", "fail")
        with pytest.raises(RuntimeError, match="a handler's own mistake"):
            await socket.call

    play(raised)


def test_a_client_that_is_gone_before_its_consumer_has_connected_ends_only_the_linger_before() -> None:
    async def lingers_on() -> None:
        first = await Socket(Thorough, "q").connect()
        await first.leave()
        await recorded()
        gates["thorough"] = asyncio.Event()
        second = await Socket(Thorough, "q").connect()
        await second.leave()
        gates["thorough"].set()
        await await_until(lambda: calls("q").count("disconnect 1006") == 1)
        await say("one")
        await await_until(lambda: heard("q") == ["one"])
        assert len(current_hub().lingering) == 1

    play(lingers_on)
