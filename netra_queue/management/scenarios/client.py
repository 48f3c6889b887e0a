"""A WebSocket client of netra-queue.v1 and of raw mode, for the scenarios and the tests.

Acks after it has taken a frame, answers nothing else, and keeps what it got: ``received`` in order, repeats included.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from ...core.wire import SUBPROTOCOL

WAIT_SECONDS = 15.0


@dataclass(slots=True)
class Client:
    """One client over any number of connections. ``acks=False``: it takes messages and never acks."""

    url: str
    raw: bool = False
    acks: bool = True
    received: list[dict[str, Any]] = field(default_factory=list)
    control: list[dict[str, Any]] = field(default_factory=list)
    close_code: int | None = None
    socket: ClientConnection | None = None
    _reader: asyncio.Task[None] | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def connect(self, url: str = "") -> None:
        """Open a connection; ``url`` for another server than before."""
        self.url = url or self.url
        subprotocols = None if self.raw else [Subprotocol(SUBPROTOCOL)]
        self.control.clear()
        self.socket = await connect(
            self.url, subprotocols=subprotocols, compression=None, max_size=None, ping_interval=None, proxy=None
        )
        self._reader = asyncio.create_task(self._read(self.socket))

    async def disconnect(self) -> None:
        """Close with a handshake."""
        if self.socket is not None:
            await self.socket.close()
            await self._end()

    async def cut(self) -> None:
        """End the connection as a lost network does: a reset, without a close frame."""
        if self.socket is not None:
            self.socket.transport.abort()
            await self._end()

    async def send(self, content: Any) -> None:
        assert self.socket is not None
        await self.socket.send(content if isinstance(content, (str, bytes)) else json.dumps(content))

    async def until(self, condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        """Wait until something that came in makes this true. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(condition)

    async def take(self, count: int, seconds: float = WAIT_SECONDS) -> list[Any]:
        """Wait until ``count`` messages have been received in all. Returns what all of them carried."""
        await self.until(lambda: len(self.received) >= count, seconds)
        return self.data

    async def closed(self, seconds: float = WAIT_SECONDS) -> int | None:
        """Wait for the server to close. Returns its code."""
        assert self.socket is not None
        async with asyncio.timeout(seconds):
            await self.socket.wait_closed()
            await self._end()
        return self.close_code

    @property
    def data(self) -> list[Any]:
        return [message.get("data", message.get("text", message.get("data_base64"))) for message in self.received]

    def frames(self, kind: str) -> list[dict[str, Any]]:
        """The control frames of this type on the current connection."""
        return [frame for frame in self.control if frame["type"] == kind]

    async def ack(self, seq: int) -> None:
        await self.send({"type": "netra.ack", "seq": seq})

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                await self._took(socket, text)
                async with self._changed:
                    self._changed.notify_all()
        except ConnectionClosed:
            pass
        self.close_code = socket.close_code
        async with self._changed:
            self._changed.notify_all()

    async def _took(self, socket: ClientConnection, text: str | bytes) -> None:
        if self.raw:
            self.received.append({"data": json.loads(text)} if isinstance(text, str) else {"data_base64": text})
            return
        frame = json.loads(text)
        if frame["type"] != "netra.messages":
            self.control.append(frame)
            if self.acks and (frame.get("lost") or frame["type"] == "netra.lost"):
                await _ack(socket, 0)
            return
        self.received += frame["messages"]
        if self.acks:
            await _ack(socket, frame["seq"] + len(frame["messages"]) - 1)

    async def _end(self) -> None:
        if self._reader is not None:
            await self._reader
        self.socket = self._reader = None


async def _ack(socket: ClientConnection, seq: int) -> None:
    with suppress(ConnectionClosed):  # what came before the close is still to be read
        await socket.send(json.dumps({"type": "netra.ack", "seq": seq}))
