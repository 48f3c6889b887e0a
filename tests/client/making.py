"""A server that speaks just enough of ``netra-queue.v1``, in the test's own process, on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from netra_queue.client import NetraQueue, connect
from netra_queue.core.wire import SUBPROTOCOL
from tests.waiting import await_until


@dataclass
class Stub:
    """Sends what is not acked to whoever comes. ``heard``: the consumer's frames; ``acks``, of all connections."""

    port: int = 0
    messages: list[Any] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    acks: list[int] = field(default_factory=list)
    removed: int = 0  # how many of the messages were acked
    lost: dict[str, int] = field(default_factory=dict)
    code: int = 0  # closes with it instead
    heartbeat: float = 25
    is_silent: bool = False  # it goes on living, and does not answer
    connections: list[ServerConnection] = field(default_factory=list)
    closes: list[int | None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/"

    async def live(self, socket: ServerConnection) -> None:
        self.connections.append(socket)
        start = self.removed
        try:
            await self.begin(socket, start)
            async for text in socket:
                await self.take(socket, json.loads(text), start)
        except ConnectionClosed:
            pass
        finally:
            self.closes.append(socket.protocol.close_code)

    async def begin(self, socket: ServerConnection, start: int) -> None:
        if self.code:
            await socket.close(self.code, "because")
            return
        lost = {"expired": 0, "dropped": 0, **self.lost}
        hello = {
            "type": "netra.hello",
            "queue": "q",
            "waiting": len(self.messages) - start,
            "lost": lost,
            "window": 256,
        }
        await socket.send(json.dumps(hello | {"heartbeat": self.heartbeat}))
        common = {"priority": "normal", "sent_at": "2026-01-01T00:00:00.000Z", "replayed": True}
        entries = [common | {"id": f"m{n}", "data": data} for n, data in enumerate(self.messages[start:], start)]
        await socket.send(json.dumps({"type": "netra.messages", "seq": 1, "messages": entries}))
        await socket.send('{"type":"netra.live"}')

    async def take(self, socket: ServerConnection, frame: Any, start: int) -> None:
        match frame:
            case {"type": "netra.ack", "seq": seq}:
                self.acks.append(seq)
                self.removed = max(self.removed, start + seq)
            case {"type": "netra.ping"} if self.is_silent:
                pass
            case {"type": "netra.ping"}:
                await socket.send('{"type":"netra.pong"}')
            case _:
                self.heard.append(frame)

    def cut(self) -> None:
        """Every connection is reset."""
        for socket in self.connections:
            socket.transport.abort()

    def queue(self, **options: Any) -> NetraQueue:
        queue = connect(self.url, **options)
        queue._protocol._random = lambda: 0.05  # no long pauses
        return queue


@asynccontextmanager
async def stub(*messages: Any, subprotocol: bool = True, port: int = 0, **options: Any) -> AsyncIterator[Stub]:
    server = Stub(messages=list(messages), **options)
    subprotocols = [Subprotocol(SUBPROTOCOL)] if subprotocol else None
    async with serve(server.live, "127.0.0.1", port, subprotocols=subprotocols, ping_interval=None) as listening:
        server.port = next(iter(listening.sockets)).getsockname()[1]
        yield server


async def ended(server: Stub, count: int = 1) -> None:
    """So many connections are over for the server, too."""
    await await_until(lambda: len(server.closes) >= count)


async def take(queue: NetraQueue, count: int) -> list[Any]:
    """The data of so many messages, all of them acked."""
    got = []
    async for message in queue:
        got.append(message.data)
        if len(got) == count:
            queue.ack()
            break
    return got


def finish(work: Callable[[], Any], seconds: float = 30) -> Any:
    """Run this on an event loop of its own. AssertionError when it leaves a task behind, or does not end."""

    async def limited() -> Any:
        async with asyncio.timeout(seconds):
            result = await work()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"left behind: {left}"
        return result

    return asyncio.run(limited())
