"""What a peer may get wrong: its own connection is closed with a code, and the queue keeps what it had."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest

import netra_queue
from netra_queue.core.wire import CloseCode
from netra_queue.management.scenarios.server import Server
from tests.server.conftest import World, new_queue, play

pytestmark = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])

MALFORMED = {
    "ack beyond what was sent": '{"type":"netra.ack","seq":99}',
    "ack one beyond what was sent": '{"type":"netra.ack","seq":2}',
    "ack below zero": '{"type":"netra.ack","seq":-1}',
    "ack without seq": '{"type":"netra.ack"}',
    "ack with a text": '{"type":"netra.ack","seq":"1"}',
    "ack with a truth": '{"type":"netra.ack","seq":true}',
    "ack with a fraction": '{"type":"netra.ack","seq":0.5}',
    "ack with a huge number": '{"type":"netra.ack","seq":' + "9" * 400 + "}",
    "unknown control frame": '{"type":"netra.nonsense"}',
    "a name that is no ASCII": '{"type":"netra.' + "ä" * 200 + '"}',
    "a frame of the server's": '{"type":"netra.messages","seq":1,"messages":[]}',
}
CLIENT_IDS = {"space": "a b", "umlaut": "ä", "too long": "x" * 65, "empty": "", "slash": "a/b", "newline": "a\n"}


@pytest.fixture
def server(sqlite_world: World, kind: str) -> Server:
    return sqlite_world.start(kind)


async def is_kept(world: World, server: Server, queue: str) -> None:
    """The next connection is given the message that waited."""
    async with world.client(server, queue) as client:
        assert await client.take(1) == ["kept"]


def test_a_malformed_control_frame_closes_with_4400(sqlite_world: World, server: Server) -> None:
    async def each_frame() -> dict[str, int | None]:
        codes = {}
        for name, frame in MALFORMED.items():
            queue = new_queue()
            await netra_queue.asend(queue, "kept")
            client = sqlite_world.client(server, queue, acks=False)
            await client.connect()
            await client.take(1)
            await client.send(frame)
            codes[name] = await client.closed()
            await is_kept(sqlite_world, server, queue)
        return codes

    assert play(each_frame()) == dict.fromkeys(MALFORMED, CloseCode.MALFORMED)


def test_what_is_no_control_frame_is_the_applications(sqlite_world: World, server: Server) -> None:
    frames = [
        {"echo": 1, "type": "netra"},
        {"echo": 2, "type": "netr.ack"},
        {"echo": 3, "type": ["netra.ack"]},
        {"echo": 4, "data": {"type": "netra.ack", "seq": 99}},
    ]

    async def echoed() -> None:
        async with sqlite_world.client(server) as client:
            for frame in frames:
                await client.send(frame)
            assert await client.take(len(frames)) == frames

    play(echoed())


def test_a_raw_clients_frames_are_all_the_applications(sqlite_world: World, server: Server) -> None:
    frame = {"type": "netra.ack", "seq": 99, "echo": True}

    async def echoed() -> None:
        async with sqlite_world.client(server, raw=True) as client:
            await client.send(frame)
            assert await client.take(1) == [frame]

    play(echoed())


def test_a_malformed_client_id_closes_with_4400(sqlite_world: World, server: Server) -> None:
    async def each_id() -> dict[str, int | None]:
        codes = {}
        for name, client_id in CLIENT_IDS.items():
            client = sqlite_world.client(server, query=f"?client={quote(client_id)}")
            await client.connect()
            codes[name] = await client.closed()
        return codes

    assert play(each_id()) == dict.fromkeys(CLIENT_IDS, CloseCode.MALFORMED)


def test_two_client_ids_close_with_4400(sqlite_world: World, server: Server) -> None:
    async def twice() -> int | None:
        client = sqlite_world.client(server, query="?client=a&client=b")
        await client.connect()
        return await client.closed()

    assert play(twice()) == CloseCode.MALFORMED


def test_a_well_formed_client_id_is_taken(sqlite_world: World, server: Server) -> None:
    async def taken() -> None:
        queue = new_queue()
        await netra_queue.asend(queue, "kept")
        async with sqlite_world.client(server, queue, query="?client=Phone_7-f3a") as client:
            assert await client.take(1) == ["kept"]

    play(taken())


@pytest.mark.parametrize(
    ("consumer", "code"),
    [("users", CloseCode.NOT_AUTHENTICATED), ("forbidding", CloseCode.NOT_YOUR_QUEUE)],
)
def test_who_may_not_is_told_so(sqlite_world: World, server: Server, consumer: str, code: CloseCode) -> None:
    async def refused() -> int | None:
        client = sqlite_world.client(server, consumer=consumer)
        await client.connect()
        return await client.closed()

    assert play(refused()) == code


def test_a_consumer_that_names_an_impossible_queue_fails_alone(sqlite_world: World, server: Server) -> None:
    sqlite_world.may_log_errors = True

    async def refused() -> None:
        client = sqlite_world.client(server, consumer="misnaming")
        await client.connect()
        assert await client.closed() in (1011, 1006)
        async with sqlite_world.client(server) as other:
            await other.send({"echo": "the server lives"})
            await other.take(1)

    play(refused())
    assert "queue name: expected" in sqlite_world.log.read_text()


def test_without_a_store_the_client_shall_come_back(make_world: Callable[..., World], kind: str) -> None:
    world = make_world("default")
    world.environment["DATABASE_URL"] = "postgresql://postgres@127.0.0.1:9/nothing"
    server = world.start(kind)

    async def refused() -> int | None:
        client = world.client(server)
        await client.connect()
        return await client.closed()

    assert play(refused()) == CloseCode.STORE_UNAVAILABLE


@pytest.mark.parametrize(
    "impatience", [{"ACK_TIMEOUT_SECONDS": 1}, {"HEARTBEAT_SECONDS": 0.5}], ids=["acks", "silence"]
)
def test_a_client_that_stops_responding_is_let_go(sqlite_world: World, kind: str, impatience: dict[str, float]) -> None:
    server = sqlite_world.start(kind, POLICIES={"impatient": impatience})

    async def let_go() -> None:
        queue = new_queue()
        await netra_queue.asend(queue, "kept")
        client = sqlite_world.client(server, queue, policy="impatient", acks=False)
        await client.connect()
        await client.take(1)
        assert await client.closed() == CloseCode.NOT_RESPONDING
        await is_kept(sqlite_world, server, queue)

    play(let_go())


def test_a_message_that_cannot_be_accepted_changes_nothing(sqlite_world: World, server: Server) -> None:
    async def refused() -> None:
        queue = new_queue()
        await netra_queue.asend(queue, "kept")
        for payload, options in (
            ("x", {"priority": "urgent"}),
            ("x", {"priority": 7}),
            ({"not": object()}, {}),
            (float("nan"), {}),
            ("x" * 300_000, {}),
            ("x", {"ttl": -1}),
        ):
            with pytest.raises(netra_queue.InvalidMessage, match=r"expected|allows"):
                await netra_queue.asend(queue, payload, **options)  # type: ignore[arg-type]
        with pytest.raises(netra_queue.InvalidMessage, match="queue name"):
            await netra_queue.asend("no such name!", "x")
        async with sqlite_world.client(server, queue) as client:
            await client.until(lambda: bool(client.frames("netra.live")))
            assert client.data == ["kept"]

    play(refused())
