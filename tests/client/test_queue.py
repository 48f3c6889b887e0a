"""The queue on real sockets, with a server in the same process that speaks just enough of the protocol."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from netra_queue.client import FileStorage, Lost, Message, NetraQueue, Refused, State, StateChange, connect
from netra_queue.core.message import Priority
from tests.client.making import ended, finish, stub, take
from tests.waiting import await_until

Test = Callable[..., Awaitable[None]]


def alone(test: Test) -> Callable[..., None]:
    """On an event loop of its own, where it leaves no task behind."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        finish(lambda: test(*args, **kwargs))

    return run


@alone
async def test_a_message_is_acked_when_the_next_one_is_asked_for() -> None:
    async with stub("a", "b") as server, server.queue() as queue:
        loop = aiter(queue)
        first = await anext(loop)
        assert (first.data, first.id, first.priority, first.replayed) == ("a", "m0", Priority.NORMAL, True)
        await asyncio.sleep(0.3)
        assert server.acks == []
        assert (await anext(loop)).data == "b"
        await await_until(lambda: server.acks)
        assert server.acks == [1]
    await ended(server)
    assert server.removed == 1, "the one in hand is not acked by leaving"
    assert server.closes == [1000]


@alone
async def test_ack_before_the_next_one_is_asked_for() -> None:
    async with stub("a", "b") as server:
        async with server.queue() as queue:
            async for _ in queue:
                queue.ack()
                queue.ack()
                break
        await ended(server)
        assert server.removed == 1


async def stumble(queue: NetraQueue) -> None:
    async for message in queue:
        if message.data == "b":
            raise ZeroDivisionError


@alone
async def test_what_a_loop_leaves_by_an_exception_comes_again_to_the_next_loop() -> None:
    async with stub("a", "b") as server, server.queue() as queue:
        with pytest.raises(ZeroDivisionError):
            await stumble(queue)
        assert await take(queue, 1) == ["b"]
        assert len(server.connections) == 2
        assert queue.repeated == 0


@alone
async def test_a_handler_that_raises_gets_the_message_again(caplog: pytest.LogCaptureFixture) -> None:
    got: list[Any] = []

    async def handler(message: Message) -> None:
        await asyncio.sleep(0)
        got.append(message.data)
        if got.count("b") == 1 and message.data == "b":
            raise ZeroDivisionError
        if message.data == "c":
            queue.ack()
            await queue.close()

    async with stub("a", "b", "c") as server, server.queue() as queue:
        await queue.run(handler)
        await ended(server, 2)
        assert got == ["a", "b", "b", "c"]
        assert server.removed == 3
    assert [record.message for record in caplog.records if record.exc_info] == ["message not handled"]


@alone
async def test_a_handler_may_be_a_plain_function() -> None:
    got: list[Any] = []
    async with stub(*range(600)) as server, server.queue() as queue:
        running = asyncio.create_task(queue.run(lambda message: got.append(message.data)))
        await await_until(lambda: server.removed == 600)
        await queue.close()
        await running
        assert got == [*range(600)]


@alone
async def test_repeats_are_dropped() -> None:
    async with stub(*range(10)) as server, server.queue() as queue:
        got = []
        async for message in queue:
            got.append(message.data)
            if message.data in (3, 6):
                before = len(server.connections)
                server.cut()
                await await_until(lambda before=before: len(server.connections) > before)
            if message.data == 9:
                break
        assert got == [*range(10)]
        assert queue.repeated > 0


@alone
async def test_the_newest_loop_gets_the_messages() -> None:
    async with stub("a", "b") as server, server.queue() as queue:
        former, newer = aiter(queue), aiter(queue)
        assert (await anext(newer)).data == "a"
        with pytest.raises(RuntimeError, match="another loop"):
            await anext(former)


@alone
async def test_closing_ends_a_loop_that_waits() -> None:
    async with stub() as server, server.queue() as queue:
        waiting = asyncio.create_task(take(queue, 1))
        await await_until(lambda: queue.state is State.LIVE)
        await queue.close()
        assert await waiting == []
        await queue.close()
        assert await take(queue, 1) == []
    with pytest.raises(RuntimeError, match="one 'async with'"):
        await queue.__aenter__()


@pytest.mark.parametrize("code", [4400, 4401, 4403])
@alone
async def test_refused(code: int) -> None:
    async with stub(code=code) as server, server.queue() as queue:
        sending = asyncio.create_task(queue.send("too late"))
        with pytest.raises(Refused, match="because") as caught:
            await take(queue, 1)
        assert caught.value.code == code
        with pytest.raises(Refused):
            await sending
        with pytest.raises(Refused):
            await queue.run(print)
        assert queue.state is State.CLOSED
        await asyncio.sleep(0.2)
        assert len(server.connections) == 1


@alone
async def test_states_and_losses_are_told() -> None:
    states: list[StateChange] = []
    losses: list[Lost] = []
    async with stub("a", lost={"expired": 2}) as server:
        queue = server.queue()
        queue.on_state, queue.on_lost = states.append, losses.append
        async with queue:
            await take(queue, 1)
    assert [change.state.value for change in states] == ["connecting", "replaying", "live", "closed"]
    assert (states[1].queue, states[1].waiting) == ("q", 1)
    assert [lost.counts for lost in losses] == [{"expired": 2, "dropped": 0}]


@alone
async def test_losses_that_nobody_listens_to_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with stub("a", lost={"expired": 2}) as server, server.queue() as queue:
        await take(queue, 1)
    assert "messages were lost: {'expired': 2, 'dropped': 0}" in caplog.messages


@alone
async def test_a_listener_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def listener(change: StateChange) -> None:
        raise ZeroDivisionError

    async with stub("a") as server:
        queue = server.queue()
        queue.on_state = listener
        async with queue:
            assert await take(queue, 1) == ["a"]
    assert "a listener failed" in caplog.messages


@alone
async def test_ids_outlive_the_process(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path / "ids.json")
    async with stub("a", "b") as server:
        async with server.queue(storage=storage) as queue:
            await take(queue, 1)
        await ended(server)
        server.removed = 0  # the ack was lost
        async with server.queue(storage=FileStorage(tmp_path / "ids.json")) as queue:
            assert await take(queue, 1) == ["b"]
            assert queue.repeated == 1
    assert os.listdir(tmp_path) == ["ids.json"]


@alone
async def test_ids_are_saved_before_they_are_acked(tmp_path: Path) -> None:
    saves: list[tuple[list[str], int]] = []

    class Watching(FileStorage):
        def save(self, ids: Any) -> None:
            saves.append((ids, len(server.acks)))
            super().save(ids)

    async with stub("a") as server, server.queue(storage=Watching(tmp_path / "ids.json")) as queue:
        await take(queue, 1)
        await await_until(lambda: server.acks)
        assert FileStorage(tmp_path / "ids.json").load() == ["m0"]
        assert saves == [(["m0"], 0)]


@alone
async def test_a_storage_that_fails_is_logged_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with stub("a") as server, server.queue(storage=FileStorage(tmp_path / "absent" / "ids")) as queue:
        await take(queue, 1)
        await await_until(lambda: server.removed == 1)
    assert "ids not saved" in caplog.text


def test_a_storage_that_cannot_be_read_raises(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text("[")

    async def enter() -> None:
        with pytest.raises(ValueError, match="Expecting value"):
            async with connect("ws://127.0.0.1:9/", storage=FileStorage(tmp_path / "ids")):
                raise AssertionError("not reached")

    finish(enter)


@alone
async def test_a_server_that_does_not_speak_the_protocol_counts_as_away(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with stub("a", subprotocol=False) as server, server.queue() as queue:
        await ended(server, 2)
        assert set(server.closes) == {1006}, "a clean close would tell it that its plain frames were read"
        assert queue.state is not State.CLOSED
    assert "does not speak netra-queue.v1" in caplog.text


@alone
async def test_what_is_nobodys_fault_but_the_callers_is_raised() -> None:
    async with stub() as server, connect(server.url, no_such_option=1) as queue:
        with pytest.raises(TypeError, match="no_such_option"):
            await take(queue, 1)


@pytest.mark.parametrize(
    ("url", "client", "expected"),
    [
        ("ws://example.com/ws/", "", "ws://example.com/ws/"),
        ("https://example.com/ws/?a=1&client=old#x", "new", "wss://example.com/ws/?a=1&client=new"),
        ("http://[::1]:8000/ws/", "worker-1", "ws://[::1]:8000/ws/?client=worker-1"),
    ],
)
def test_addresses(url: str, client: str, expected: str) -> None:
    assert connect(url, client=client)._url == expected


@pytest.mark.parametrize(("url", "client"), [("ftp://x/", ""), ("/ws/", ""), ("ws:///ws", ""), ("ws://x/", "no space")])
def test_addresses_that_cannot_be(url: str, client: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        connect(url, client=client)


@alone
async def test_headers_and_origin() -> None:
    async with stub("a") as server:
        for options, origin in [({}, f"http://127.0.0.1:{server.port}"), ({"origin": "https://x"}, "https://x")]:
            async with server.queue(headers={"Cookie": "sessionid=1"}, **options) as queue:
                await await_until(lambda queue=queue: queue.state is State.LIVE)
            headers = server.connections[-1].request.headers  # type: ignore[union-attr]
            assert (headers["Origin"], headers["Cookie"]) == (origin, "sessionid=1")
            assert isinstance(queue, NetraQueue)


@alone
async def test_closing_while_a_handshake_is_not_answered() -> None:
    came, gone = asyncio.Event(), asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        gone.set()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as listening:
        queue = connect(f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/")
        async with queue:
            await came.wait()
            async with asyncio.timeout(5):
                await queue.close()
                await gone.wait()
