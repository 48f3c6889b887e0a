"""A TCP proxy that can be cut, go silent, delay and throttle: what networks do to connections."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from tests.waiting import await_until

CHUNK_BYTES = 65_536
THROTTLED_SECONDS = 0.1


@dataclass(slots=True)
class Proxy:
    """Stands between two parties, on loopback. For one event loop.

    ``is_silent``: half-open; nothing gets through, and nobody is told. ``delay_seconds``: for every chunk, in both
    directions. ``bytes_per_second``: of each connection and direction; 0 for no limit.
    """

    host: str
    port: int
    own_port: int = 0
    is_silent: bool = False
    delay_seconds: float = 0.0
    bytes_per_second: int = 0
    _listening: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _stranded: set[asyncio.StreamWriter] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.cut()

    async def restore(self) -> None:
        """Take connections again, and let everything through."""
        await self.cut()
        self.is_silent, self.delay_seconds, self.bytes_per_second = False, 0.0, 0
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", self.own_port)
        self.own_port = self._listening.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Nobody listens any more, and what was connected is reset."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        await self.reset()

    async def reset(self) -> None:
        """What is connected is reset; who comes is let through."""
        connected = set(self._writers)
        for writer in connected:
            writer.transport.abort()
        await await_until(lambda: not self._writers & connected)

    def strand(self) -> None:
        """What is connected hears nothing more, and is not told; who comes is let through."""
        self._stranded |= self._writers

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, other_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pass_on(reader, other_writer), self._pass_on(other_reader, writer))
        finally:
            self._writers -= both
            self._stranded -= both

    @property
    def _chunk_bytes(self) -> int:
        """So little that nobody sleeps for longer over it than a reset waits."""
        return max(1, int(self.bytes_per_second * THROTTLED_SECONDS)) if self.bytes_per_second else CHUNK_BYTES

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(self._chunk_bytes):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if self.bytes_per_second:
                    await asyncio.sleep(min(len(data) / self.bytes_per_second, THROTTLED_SECONDS))
                if not self.is_silent and writer not in self._stranded:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()
