"""One connection, from its opening to its end: a task that reads, and one that writes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.protocol import State

from ..core.wire import SUBPROTOCOL
from .values import Frame, Write

CLOSE_SECONDS = 1.0
ABNORMAL = 1006


@dataclass(eq=False, slots=True)
class Outgoing(Frame):
    """``written`` has a result when it was written to a connection. Cancelled, it is not to be written any more."""

    written: asyncio.Future[None]


class Host(Protocol):
    def heard(self, link: Link, text: str | bytes) -> None: ...

    def ended(self, link: Link, code: int, reason: str) -> None: ...


class Link:
    """Begins when ``former`` has ended, so that there is one socket at a time. ``open`` makes the connection."""

    def __init__(self, host: Host, open: Callable[[], Awaitable[ClientConnection]], former: Iterable[Link]) -> None:
        self._host = host
        self._open = open
        self._socket: ClientConnection | None = None
        self._outgoing: deque[Write | None] = deque()  # None: close
        self._has_outgoing = asyncio.Event()
        self._limit: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] = asyncio.create_task(self._live([link.task for link in former]))

    @property
    def unwritten(self) -> list[Frame]:
        """The application's frames that no socket has taken."""
        return [write.frame for write in self._outgoing if write is not None and write.frame is not None]

    def write(self, write: Write | None) -> None:
        self._outgoing.append(write)
        self._has_outgoing.set()

    def end(self) -> None:
        """Write what was to be written, and close, all within ``CLOSE_SECONDS``."""
        self.write(None)
        if self._socket is None:
            self.task.cancel()
        elif self._limit is None:
            self._limit = asyncio.get_running_loop().call_later(CLOSE_SECONDS, self.abort)

    def abort(self) -> None:
        """End at once."""
        if self._socket is None:
            self.task.cancel()
        else:
            self._socket.transport.abort()

    async def _live(self, former: list[asyncio.Task[None]]) -> None:
        code, reason = ABNORMAL, ""
        try:
            if former:
                await asyncio.wait(former)
            self._socket = await self._open()
            code, reason = await self._talk(self._socket)
        except (OSError, TimeoutError, WebSocketException) as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            if self._socket is not None:
                self._socket.transport.abort()
            if self._limit is not None:
                self._limit.cancel()
        self._host.ended(self, code, reason)

    async def _talk(self, socket: ClientConnection) -> tuple[int, str]:
        """Until the connection ends. Returns its close code and the reason."""
        if socket.subprotocol != SUBPROTOCOL:
            return ABNORMAL, f"the server does not speak {SUBPROTOCOL} here"
        writing = asyncio.create_task(self._write_all(socket))
        try:
            while True:
                self._host.heard(self, await socket.recv())
        except ConnectionClosed as error:
            return (error.rcvd.code, error.rcvd.reason) if error.rcvd is not None else (ABNORMAL, "")
        finally:
            writing.cancel()
            await asyncio.wait([writing])

    async def _write_all(self, socket: ClientConnection) -> None:
        while await self._has_outgoing.wait():
            self._has_outgoing.clear()
            while self._outgoing and socket.state is State.OPEN:
                if (write := self._outgoing.popleft()) is None:
                    await socket.close()
                else:
                    await self._write(socket, write)

    async def _write(self, socket: ClientConnection, write: Write) -> None:
        """A socket that is open takes what it is given, although it may never get it out."""
        frame = write.frame if isinstance(write.frame, Outgoing) else None
        if frame is not None and frame.written.done():
            return
        try:
            await socket.send(write.text)
        except ConnectionClosed:
            pass
        finally:
            if frame is not None and not frame.written.done():
                frame.written.set_result(None)
