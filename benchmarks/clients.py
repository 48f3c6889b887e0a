"""Clients that cost as little as they can, so that it is the server that is measured."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from netra_queue.core.wire import SUBPROTOCOL

ACK_SECONDS = 0.05
ACK_MESSAGES = 128  # half of the default window


@dataclass(slots=True)
class Client:
    """``is_durable``: speaks the protocol, and acks as the browser's client does; otherwise a plain socket."""

    url: str
    is_durable: bool
    received: int = 0
    repeats: int = 0
    sent_at: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)  # from sending to receiving, in seconds
    last_at: float = 0.0
    keeps: bool = False  # ids, to know repeats
    ids: set[str] = field(default_factory=set)
    is_live: asyncio.Event = field(default_factory=asyncio.Event)
    acked: int = 0
    _socket: ClientConnection | None = None
    _seq: int = 0
    _ack_timer: asyncio.TimerHandle | None = None
    _reading: asyncio.Task[None] | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def open(self) -> None:
        protocols = [Subprotocol(SUBPROTOCOL)] if self.is_durable else None
        self._socket = await connect(
            self.url,
            subprotocols=protocols,
            compression=None,
            max_size=None,
            ping_interval=None,
            proxy=None,
            open_timeout=60,
        )
        self._seq = self.acked = 0
        self._reading = asyncio.create_task(self._read(self._socket))

    async def close(self) -> None:
        assert self._socket is not None
        await self._socket.close()
        if self._reading is not None:
            await self._reading

    async def ended(self) -> None:
        """Return when the server has closed."""
        assert self._reading is not None
        await self._reading

    def cut(self) -> None:
        """As a lost network does."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def say(self, what: dict[str, Any]) -> None:
        assert self._socket is not None
        await self._socket.send(json.dumps(what))

    async def _read(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            async for frame in socket:
                self._took(json.loads(frame))

    def _took(self, frame: dict[str, Any]) -> None:
        match frame.get("type"):
            case "netra.messages":
                for message in frame["messages"]:
                    self._count(message["data"], message["id"])
                self._seq = frame["seq"] + len(frame["messages"]) - 1
                self._ack_soon()
            case "netra.live" | "ready":
                self.is_live.set()
            case "netra.hello" | "netra.lost" | "netra.pong":
                pass
            case _:
                self._count(frame, "")

    def _count(self, data: dict[str, Any], id: str) -> None:
        self.last_at = time.time()
        if self.keeps:
            if id in self.ids:
                self.repeats += 1
                return
            self.ids.add(id)
        self.received += 1
        if "at" in data:
            self.sent_at.append(data["at"])
            self.delays.append(self.last_at - data["at"])

    def _ack_soon(self) -> None:
        if self._seq - self.acked >= ACK_MESSAGES:
            self._ack()
        elif self._ack_timer is None:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_SECONDS, self._ack)

    def _ack(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self._seq > self.acked and self._socket is not None:
            self.acked = self._seq
            self._tasks.add(task := asyncio.create_task(self._send_ack(self._seq)))
            task.add_done_callback(self._tasks.discard)

    async def _send_ack(self, seq: int) -> None:
        assert self._socket is not None
        with suppress(ConnectionClosed):
            await self._socket.send(f'{{"type":"netra.ack","seq":{seq}}}')


async def open_all(clients: list[Client], at_a_time: int = 50) -> None:
    """And wait until they are live."""
    turns = asyncio.Semaphore(at_a_time)

    async def open_one(client: Client) -> None:
        async with turns:
            await client.open()

    await asyncio.gather(*map(open_one, clients))
    await asyncio.gather(*(client.is_live.wait() for client in clients))


async def quiet(clients: list[Client], wanted: int, seconds: float = 1.5, at_most: float = 120.0) -> None:
    """Until so many messages have come, or none has for so long."""
    deadline = time.monotonic() + at_most
    before, since = -1, time.monotonic()
    while (received := sum(client.received for client in clients)) < wanted and time.monotonic() < deadline:
        if received != before:
            before, since = received, time.monotonic()
        elif time.monotonic() - since > seconds:
            return
        await asyncio.sleep(0.02)
