"""The mixins in front of Channels' four consumers: its own ways keep working, and what a consumer sends is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

import netra_queue
from netra_queue import operating
from netra_queue.core.message import Priority
from netra_queue.core.wire import SUBPROTOCOL, CloseCode
from netra_queue.management.scenarios.server import Server
from tests.server.conftest import World, holds, live, new_queue, nobody_holds, play

pytestmark = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
CONSUMERS = ["async", "sync", "text", "synctext"]


@pytest.fixture
def server(sqlite_world: World, kind: str) -> Server:
    return sqlite_world.start(kind)


@pytest.fixture(params=["within", "outside", "off"])
def anywhere(sqlite_world: World, kind: str, request: Any) -> Server:
    """A server whose queues are within the rollout, outside of it, or with the kill switch pulled: the same class."""
    if request.param == "off":
        operating.carry_out(operating.switched(is_off=True))
    rollout = {"PERCENT": 0} if request.param == "outside" else {}
    return sqlite_world.start(kind, POLICIES={"default": {"ROLLOUT": rollout}})


@pytest.mark.parametrize("raw", [False, True], ids=["v1", "raw"])
@pytest.mark.parametrize("consumer", CONSUMERS)
def test_each_of_the_four(sqlite_world: World, server: Server, consumer: str, raw: bool) -> None:
    async def answers_and_replays() -> None:
        queue = new_queue()
        await netra_queue.asend(queue, "waited")
        async with sqlite_world.client(server, queue, consumer=consumer, raw=raw) as client:
            await client.take(1)
            await client.send({"echo": "ä"})
            await client.take(2)
            await netra_queue.asend(queue, "live")
            assert await client.take(3) == ["waited", {"echo": "ä"}, "live"]
        await holds(queue, 0)

    play(answers_and_replays())


@pytest.mark.parametrize("consumer", ["text", "synctext"])
def test_frames_that_are_no_json(sqlite_world: World, anywhere: Server, consumer: str) -> None:
    frames = {"plain text": "plain text", "": "", b"\x00\xff": "AP8=", "NaN": "NaN", '{"n": 1 }': {"n": 1}}

    async def echoed() -> None:
        async with sqlite_world.client(anywhere, consumer=consumer) as client:
            await live(client)
            for frame in frames:
                await client.send(frame)
            assert await client.take(len(frames)) == list(frames.values())

    play(echoed())


def test_bytes_reach_a_raw_client_as_bytes(sqlite_world: World, anywhere: Server) -> None:
    async def echoed() -> None:
        async with sqlite_world.client(anywhere, consumer="text", raw=True) as client:
            await client.send(b"\x00\xff")
            assert await client.take(1) == [b"\x00\xff"]

    play(echoed())


@pytest.mark.parametrize("consumer", ["async", "sync"])
def test_own_sends_beyond_the_window_arrive_in_order(sqlite_world: World, kind: str, consumer: str) -> None:
    server = sqlite_world.start(kind, POLICIES={"narrow": {"WINDOW": 4}})

    async def all_of_them() -> None:
        queue = new_queue()
        async with sqlite_world.client(server, queue, consumer=consumer, policy="narrow") as client:
            await client.send({"send": 300})
            assert await client.take(300) == [{"own": number} for number in range(300)]
            assert len({message["id"] for message in client.received}) == 300
        await holds(queue, 0)

    play(all_of_them())


def test_own_sends_stay_in_order_while_others_send(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind, POLICIES={"narrow": {"WINDOW": 8}})

    async def in_order() -> None:
        queue = new_queue()
        async with sqlite_world.client(server, queue, policy="narrow") as client:
            await client.send({"send": 100})
            for number in range(100):
                await netra_queue.asend(queue, {"other": number})
            await client.take(200)
        for kind_of_sender in ("own", "other"):
            numbers = [data[kind_of_sender] for data in client.data if kind_of_sender in data]
            assert numbers == list(range(100))

    play(in_order())


@pytest.mark.parametrize("consumer", ["async", "sync"])
def test_many_own_sends_arrive_in_order(sqlite_world: World, anywhere: Server, consumer: str) -> None:
    async def all_of_them() -> None:
        async with sqlite_world.client(anywhere, consumer=consumer) as client:
            await client.send({"send": 600})
            assert await client.take(600) == [{"own": number} for number in range(600)]

    play(all_of_them())


@pytest.mark.parametrize("consumer", ["async", "sync"])
def test_an_own_send_unacked_for_a_second_is_stored(sqlite_world: World, server: Server, consumer: str) -> None:
    async def stored_while_connected() -> None:
        queue = new_queue()
        async with sqlite_world.client(server, queue, consumer=consumer, acks=False) as client:
            await client.send({"send": 3})
            await client.take(3)
            await holds(queue, 3)
            transmitted = [message["id"] for message in client.received]
            await client.ack(3)
            await holds(queue, 0)
            assert [message["id"] for message in client.received] == transmitted

    play(stored_while_connected())


def test_an_acked_own_send_is_never_stored(sqlite_world: World, server: Server) -> None:
    async def acked() -> None:
        queue = new_queue()
        async with sqlite_world.client(server, queue) as client:
            await client.send({"send": 3})
            await client.take(3)
        async with sqlite_world.client(server, queue) as client:
            await live(client)
            assert client.frames("netra.hello")[0]["waiting"] == 0
            assert client.data == []

    play(acked())


@pytest.mark.parametrize("consumer", ["async", "sync"])
def test_unacked_own_sends_survive_a_cut(sqlite_world: World, server: Server, consumer: str) -> None:
    async def replayed() -> None:
        client = sqlite_world.client(server, consumer=consumer, acks=False)
        await client.connect()
        await client.send({"send": 20})
        await client.take(20)
        before = [message["id"] for message in client.received]
        await client.cut()
        client.received.clear()
        client.acks = True
        async with client:
            assert await client.take(20) == [{"own": number} for number in range(20)]
            assert [message["id"] for message in client.received] == before
            assert all(message["replayed"] for message in client.received)

    play(replayed())


def test_a_task_that_outlives_its_client_sends_into_the_queue(sqlite_world: World, server: Server) -> None:
    async def kept() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, consumer="commanded")
        await client.connect()
        await client.send({"do": "outlive", "count": 30})
        await client.take(1)
        await client.cut()
        await holds(queue, 30)
        async with client:
            assert (await client.take(31))[1:] == [{"after": number} for number in range(30)]

    play(kept())


def test_a_busy_handler_delays_neither_messages_nor_acks(sqlite_world: World, server: Server) -> None:
    async def during_the_handler() -> None:
        queue = new_queue()
        async with (
            sqlite_world.client(server, queue, consumer="commanded") as client,
            sqlite_world.client(server, queue, consumer="commanded", acks=False) as other,
        ):
            await client.send({"do": "wait"})
            await client.take(1)
            await netra_queue.asend(queue, "meanwhile")
            assert await client.take(2) == ["waiting", "meanwhile"]
            await holds(queue, 0)
            await other.send({"do": "release"})
            assert (await client.take(3))[2] == "done"

    play(during_the_handler())


def test_a_cut_during_a_busy_handler_is_noticed(sqlite_world: World, server: Server) -> None:
    async def noticed() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, consumer="commanded", acks=False)
        await client.connect()
        await client.send({"do": "wait"})
        await client.take(1)
        await client.cut()
        await nobody_holds(queue)
        await holds(queue, 1)
        async with sqlite_world.client(server, queue, consumer="commanded") as other:
            assert await other.take(1) == ["waiting"]
            await other.send({"do": "release"})
            assert await other.take(2) == ["waiting", "done"]

    play(noticed())


def test_a_flood_meets_a_busy_handler(sqlite_world: World, kind: str) -> None:
    """Its acks and pings are behind frames that nobody reads: it is not taken for dead, as a silent client is."""
    server = sqlite_world.start(kind, POLICIES={"impatient": {"HEARTBEAT_SECONDS": 0.5, "ACK_TIMEOUT_SECONDS": 1}})

    async def all_handled() -> None:
        queue = new_queue()
        options = {"policy": "impatient", "consumer": "commanded"}
        async with sqlite_world.client(server, queue, **options) as client:
            await client.send({"do": "wait"})
            await client.take(1)
            for number in range(200):
                await client.send({"do": "echo", "what": number})
            silent = sqlite_world.client(server, policy="impatient")
            await silent.connect()
            assert await silent.closed() == CloseCode.NOT_RESPONDING
            async with sqlite_world.client(server, queue, consumer="commanded", acks=False) as other:
                await other.send({"do": "release"})
            assert await client.take(202) == ["waiting", "done", *range(200)]

    play(all_handled())


@pytest.mark.parametrize("raw", [False, True], ids=["v1", "raw"])
def test_what_was_sent_before_a_close_arrives_before_it(sqlite_world: World, anywhere: Server, raw: bool) -> None:
    async def all_of_it() -> None:
        client = sqlite_world.client(anywhere, consumer="commanded", raw=raw)
        await client.connect()
        await client.send({"do": "leave", "code": 4321})
        assert await client.closed() == 4321
        assert client.data == list(range(50))

    play(all_of_it())


@pytest.mark.parametrize("raw", [False, True], ids=["v1", "raw"])
def test_accept_send_and_close_in_connect(sqlite_world: World, anywhere: Server, raw: bool) -> None:
    async def farewell() -> None:
        client = sqlite_world.client(anywhere, consumer="farewell", raw=raw)
        await client.connect()
        assert await client.closed() == 4321
        assert client.data == ["farewell"]

    play(farewell())


def test_a_consumer_that_rejects(sqlite_world: World, anywhere: Server) -> None:
    async def rejected() -> None:
        with pytest.raises(Exception, match="HTTP 403"):
            await sqlite_world.client(anywhere, consumer="rejecting").connect()

    play(rejected())


def test_an_exception_in_a_handler_ends_the_connection_and_loses_nothing(sqlite_world: World, server: Server) -> None:
    sqlite_world.may_log_errors = True

    async def kept() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, consumer="commanded", acks=False)
        await client.connect()
        await live(client)
        await netra_queue.asend(queue, "waits")
        await client.take(1)
        await client.send({"do": "fail"})
        await client.closed()
        await holds(queue, 2)
        client.received.clear()
        client.acks = True
        async with client:
            assert sorted(await client.take(2)) == ["before the error", "waits"]

    play(kept())
    assert "a handler's own mistake" in sqlite_world.log.read_text()


def test_stop_consumer_closes_the_socket(sqlite_world: World, server: Server) -> None:
    async def stopped() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, consumer="commanded", acks=False)
        await client.connect()
        await client.send({"do": "stop"})
        await client.closed()
        await holds(queue, 1)

    play(stopped())


def test_channels_groups(sqlite_world: World, anywhere: Server) -> None:
    async def told() -> None:
        async with (
            sqlite_world.client(anywhere, consumer="commanded") as one,
            sqlite_world.client(anywhere, consumer="commanded") as two,
        ):
            await two.send({"do": "join", "group": "room"})
            await two.take(1)
            await one.send({"do": "tell", "group": "room", "what": "hi"})
            assert await two.take(2) == ["joined", {"told": "hi"}]

    play(told())


def test_the_groups_attribute(sqlite_world: World, anywhere: Server) -> None:
    async def told() -> None:
        async with (
            sqlite_world.client(anywhere, consumer="grouped") as one,
            sqlite_world.client(anywhere, consumer="syncgrouped") as two,
        ):
            await live(two)
            await one.send({"to": "all"})
            assert await one.take(1) == [{"to": "all"}]
            assert await two.take(1) == [{"to": "all"}]

    play(told())


def test_hooks_of_a_subclass_are_called_as_ever(sqlite_world: World, server: Server) -> None:
    async def called() -> None:
        client = sqlite_world.client(server, consumer="hooked")
        await client.connect()
        await client.send({"echo": 1})
        assert await client.take(1) == [{"encoded": {"echo": 1}}]
        await client.disconnect()
        async with client:
            calls = ["websocket_connect", "connect", "receive", "disconnect 1000"]
            assert (await client.take(2))[1] == {"encoded": calls}

    play(called())


def test_a_synchronous_disconnect_may_send_too(sqlite_world: World, server: Server) -> None:
    async def kept() -> None:
        client = sqlite_world.client(server, consumer="synchooked")
        await client.connect()
        await live(client)
        await client.disconnect()
        async with client:
            assert await client.take(1) == ["disconnect 1000"]

    play(kept())


@pytest.mark.parametrize("raw", [False, True], ids=["v1", "raw"])
def test_without_a_queue_it_is_plain_channels(sqlite_world: World, server: Server, raw: bool) -> None:
    frames: list[Any] = [{"echo": 1}, {"echo": 2, "type": "netra.ack", "seq": 99}]

    async def plain() -> None:
        async with sqlite_world.client(server, consumer="withoutqueue", raw=True) as client:
            for frame in frames:
                await client.send(frame)
            assert await client.take(2) == frames
        client = sqlite_world.client(server, consumer="withoutqueue", raw=raw)
        await client.connect()
        await client.disconnect()
        assert client.control == []

    play(plain())


def test_a_consumer_with_a_subprotocol_of_its_own_speaks_raw(sqlite_world: World, server: Server) -> None:
    async def raw() -> str | None:
        queue = new_queue()
        await netra_queue.asend(queue, "waited")
        url = server.url(queue, consumer="chosen")
        async with connect(url, subprotocols=[Subprotocol("my.own"), Subprotocol(SUBPROTOCOL)], proxy=None) as socket:
            assert json.loads(await socket.recv()) == "waited"
            return socket.subprotocol

    assert play(raw()) == "my.own"


def test_without_any_channel_layer(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind, CHANNEL_LAYER="absent", POLL_SECONDS=0.2)

    async def polled() -> None:
        queue = new_queue()
        async with sqlite_world.client(server, queue, consumer="withoutlayer") as client:
            await live(client)
            await client.send({"echo": 1})
            await client.take(1)
            await netra_queue.asend(queue, "polled")
            assert await client.take(2) == [{"echo": 1}, "polled"]

    play(polled())


def test_an_urgent_message_overtakes(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind, POLICIES={"one": {"WINDOW": 1}})

    async def overtakes() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, policy="one", acks=False)
        for number in range(3):
            await netra_queue.asend(queue, number)
        async with client:
            await client.take(1)
            await netra_queue.asend(queue, "urgent", priority=Priority.CRITICAL)
            client.acks = True
            await client.ack(1)
            assert await client.take(4) == [0, "urgent", 1, 2]

    play(overtakes())
