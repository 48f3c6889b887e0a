"""A soak: no faults, but clients of every bad habit, for a long time; servers must not grow.

Some clients behave, some come and go, some stop reading, some read and never ack. Senders write at a steady rate.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from netra_queue.core.wire import SUBPROTOCOL
from tests.chaos.storm import SETTINGS, Storm
from tests.chaos.surfer import Surfer
from tests.server.conftest import new_queue

POLICIES = {"soak": {"MAX_MESSAGES": 500, "TTL": 60, "HEARTBEAT_SECONDS": 5, "ACK_TIMEOUT_SECONDS": 10}}
SOAK_SETTINGS = SETTINGS | {"POLICIES": POLICIES, "STORE_TIMEOUT_SECONDS": 15.0, "WRITE_TIMEOUT_SECONDS": 10.0}
MANY = 6  # clients of each kind
SAMPLE_SECONDS = 3.0
SULK_SECONDS = 60.0
MOST_GROWTH, MOST_GROWTH_BYTES = 1.10, 5 << 20


@dataclass(slots=True)
class Soak:
    """``storm``: its servers and senders, without its faults. ``sizes``: what each server had in memory, in bytes."""

    storm: Storm
    sizes: dict[str, list[int]] = field(default_factory=dict)

    async def run(self, seconds: float) -> None:
        behaving, going = ([self._surfer() for _ in range(MANY)] for _ in range(2))
        self.storm.surfers += [*behaving, *going]
        for surfer in self.storm.surfers:
            self.storm.background(surfer.run())
        for _ in range(MANY):
            self.storm.background(self._cut_now_and_then(going))
            for is_reading in (True, False):
                self.storm.surfers.append(surfer := self._surfer())
                self.storm.background(self._misbehave(surfer, is_reading=is_reading))
        await self.storm.steady(seconds)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for post in self.storm.posts:
                self.sizes.setdefault(post.kind, []).append(post.server.memory_bytes())
            await asyncio.sleep(SAMPLE_SECONDS)

    def _surfer(self) -> Surfer:
        return Surfer(f"soak.{new_queue()}", self.storm.url)

    async def _cut_now_and_then(self, surfers: list[Surfer]) -> None:
        while True:
            await asyncio.sleep(random.uniform(0.5, 5))
            random.choice(surfers).cut()

    async def _misbehave(self, surfer: Surfer, *, is_reading: bool) -> None:
        """Connects again as soon as it is thrown out."""
        while True:
            with suppress(OSError, WebSocketException, TimeoutError):
                async with connect(
                    self.storm.url(surfer),
                    subprotocols=[Subprotocol(SUBPROTOCOL)],
                    compression=None,
                    max_size=None,
                    ping_interval=None,
                    proxy=None,
                    close_timeout=0.5,
                ) as socket:
                    surfer.connects += 1
                    await self._sulk(socket, is_reading)
            await asyncio.sleep(random.uniform(0, 1))

    async def _sulk(self, socket: ClientConnection, is_reading: bool) -> None:
        """It pings, at its leisure, and so is alive."""
        reading = asyncio.create_task(self._drain(socket)) if is_reading else None
        if not is_reading:
            socket.transport.pause_reading()
        try:
            async with asyncio.timeout(SULK_SECONDS):  # who does not read does not see the end either
                while True:
                    await asyncio.sleep(1)
                    await socket.send('{"type":"netra.ping"}')
        finally:
            if reading is not None:
                reading.cancel()

    async def _drain(self, socket: ClientConnection) -> None:
        with suppress(WebSocketException):
            while True:
                await socket.recv()

    def growth(self, kind: str) -> tuple[float, float]:
        """Medians of the middle and of the last third."""
        third = len(self.sizes[kind]) // 3
        return statistics.median(self.sizes[kind][third : 2 * third]), statistics.median(self.sizes[kind][-third:])

    def figures(self, kind: str) -> str:
        sizes = self.sizes[kind]
        middle, last = self.growth(kind)
        values = {
            "first": sizes[0],
            "median of the middle third": middle,
            "of the last third": last,
            "most": max(sizes),
        }
        return f"{kind}: " + ", ".join(f"{name} {value / (1 << 20):.1f} MB" for name, value in values.items())
