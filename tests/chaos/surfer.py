"""A client that comes back for ever, wherever a server is, and keeps a record of what reached its application."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from netra_queue.core.wire import SUBPROTOCOL

OPEN_SECONDS = 3.0
PING_SECONDS = 0.5
DEAD_SECONDS = 3.0  # without a frame for so long, the connection is dead
BACKOFF_SECONDS = 0.3
REASONS = ("expired", "dropped", "dead", "withheld", "left_out", "unprotected")


@dataclass(slots=True)
class Surfer:
    """``url`` gives the address to try next. Messages are handled once by id, and acked when they are handled."""

    queue: str
    url: Callable[[Surfer], str]
    client: str = "device"  # its line of the queue
    consumer: str = "async"  # that it connects to
    handled: dict[str, dict[str, Any]] = field(default_factory=dict)  # by message id, in the order of handling
    wire: int = 0  # messages that came over the wire, repeats included
    lost: Counter[str] = field(default_factory=Counter)  # that the server has told of, by reason
    recovery: float = 0.0  # the longest time from a connection's start to its netra.live, in seconds
    connects: int = 0
    lives: int = 0  # connections whose replay has caught up
    refusals: dict[int, int] = field(default_factory=dict)  # close codes, how often
    is_stopping: bool = False
    is_replaying: bool = False
    _socket: ClientConnection | None = None

    async def run(self) -> None:
        """Until ``stop``."""
        while not self.is_stopping:
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    socket = await connect(
                        self.url(self),
                        subprotocols=[Subprotocol(SUBPROTOCOL)],
                        compression=None,
                        max_size=None,
                        ping_interval=None,
                        proxy=None,
                        close_timeout=0.5,
                    )
            except (OSError, WebSocketException, TimeoutError):
                await asyncio.sleep(random.uniform(0, BACKOFF_SECONDS))
                continue
            await self._surf(socket)

    def cut(self) -> None:
        """As a lost network does."""
        if self._socket is not None:
            self._socket.transport.abort()

    def stop(self) -> None:
        self.is_stopping = True
        self.cut()

    async def _surf(self, socket: ClientConnection) -> None:
        self._socket, started = socket, time.monotonic()
        self.connects += 1
        pinging = asyncio.create_task(self._ping(socket))
        with suppress(OSError, WebSocketException, TimeoutError):
            while True:
                async with asyncio.timeout(DEAD_SECONDS):
                    frame = json.loads(await socket.recv())
                await self._took(socket, frame, started)
        pinging.cancel()
        socket.transport.abort()
        self._socket, self.is_replaying = None, False
        if (code := socket.close_code) is not None and code >= 4000:
            self.refusals[code] = self.refusals.get(code, 0) + 1

    async def _ping(self, socket: ClientConnection) -> None:
        with suppress(OSError, WebSocketException):
            while True:
                await asyncio.sleep(PING_SECONDS)
                await socket.send('{"type":"netra.ping"}')

    async def _took(self, socket: ClientConnection, frame: dict[str, Any], started: float) -> None:
        match frame["type"]:
            case "netra.messages":
                for message in frame["messages"]:
                    self.wire += 1
                    more = {"priority": message["priority"], "at": time.monotonic(), "connection": self.connects}
                    self.handled.setdefault(message["id"], message["data"] | more)
                await self._ack(socket, frame["seq"] + len(frame["messages"]) - 1)
            case "netra.hello" | "netra.lost":
                counts = frame.get("lost", frame)
                told = {reason: counts[reason] for reason in REASONS if counts.get(reason)}
                self.lost.update(told)
                self.is_replaying = self.is_replaying or frame.get("waiting", 0) > 0
                if told:
                    await self._ack(socket, 0)
            case "netra.live":
                self.is_replaying, self.lives = False, self.lives + 1
                self.recovery = max(self.recovery, time.monotonic() - started)

    async def _ack(self, socket: ClientConnection, seq: int) -> None:
        await socket.send(json.dumps({"type": "netra.ack", "seq": seq}))
