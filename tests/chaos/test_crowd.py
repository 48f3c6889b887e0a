"""A thousand sockets on one server process: what they cost, whom they keep waiting, and what is left of them.

Only at length, as `make chaos` has it (NETRA_CHAOS_SECONDS).
"""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import pytest
from websockets.asyncio.client import ClientConnection

import netra_queue
from netra_queue.management.scenarios.client import Client
from netra_queue.management.scenarios.server import Server
from tests.server.conftest import World, connected, holds, live, new_queue, play
from tests.server.test_hostile import raw_socket

KINDS = ("uvicorn", "daphne")
CROWD, SECOND_CROWD = 1000, 500
AT_ONCE = 20
OVERTAKEN = 200  # so many of the crowd may be let in while a message is on its way to somebody else
SOCKET_BYTES = 100_000
LEFT_BYTES = 20_000_000  # less than a second crowd takes if nothing is given back
POLICIES = {"default": {"HEARTBEAT_SECONDS": 3600, "ACK_TIMEOUT_SECONDS": 3600}}  # the crowd says nothing


@pytest.fixture(autouse=True)
def enough_files() -> Iterator[None]:
    """Sockets are files, and a process is often allowed 1024 of them. The server inherits what is allowed here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CROWD
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this process may not open {wanted} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass(slots=True)
class Crowd:
    """Sockets of one queue."""

    server: Server
    queue: str
    size: int
    sockets: list[ClientConnection] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        """All leave, without a word."""
        for socket in self.sockets:
            socket.transport.abort()
        for socket in self.sockets:
            await socket.wait_closed()

    async def come(self) -> None:
        async def enter(count: int) -> None:
            for _ in range(count):
                socket = await raw_socket(self.server, self.queue)
                self.sockets.append(socket)
                assert b"netra.hello" in await socket.recv(decode=False)

        await asyncio.gather(*(enter(self.size // AT_ONCE) for _ in range(AT_ONCE)))

    async def hears(self, text: str) -> None:
        """Each of them gets this; then one of them acks."""
        async with asyncio.timeout(60):
            for socket in self.sockets:
                while text.encode() not in await socket.recv(decode=False):
                    pass
        await self.sockets[0].send('{"type":"netra.ack","seq":1}')
        await holds(self.queue, 0)


async def is_served_meanwhile(client: Client, queue: str, crowd: Crowd) -> None:
    """While the crowd comes in, each message to another client gets through before a fifth of a thousand do."""
    coming = asyncio.create_task(crowd.come())
    served = 0
    try:
        while not coming.done():
            await netra_queue.asend(queue, served)
            before = len(crowd.sockets)
            await client.take(len(client.received) + 1)
            assert len(crowd.sockets) - before <= OVERTAKEN
            served += 1
    finally:
        coming.cancel()
        await asyncio.wait([coming])
    await coming
    assert served >= 3, "the two did happen at the same time"


@pytest.mark.skipif("NETRA_CHAOS_SECONDS" not in os.environ, reason="a crowd takes a minute: make chaos")
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="this system does not tell a process's memory")
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_sockets(sqlite_world: World, settings: Any, kind: str) -> None:
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": POLICIES}
    server = sqlite_world.start(kind, POLL_SECONDS=0.2, STORE_TIMEOUT_SECONDS=60, POLICIES=POLICIES)

    async def crowds() -> None:
        queue, other = new_queue(), new_queue()
        memory = [server.memory_bytes()]
        async with sqlite_world.client(server, queue) as client:
            await live(client)
            for size in (CROWD, SECOND_CROWD):
                async with Crowd(server, other, size) as crowd:
                    await is_served_meanwhile(client, queue, crowd)
                    await connected(other, size)
                    await netra_queue.asend(other, f"to all {size} of you")
                    await crowd.hears(f"to all {size} of you")
                    memory.append(server.memory_bytes())
                await connected(other, 0, 60)
            await netra_queue.asend(queue, "still here")
            assert (await client.take(len(client.received) + 1))[-1] == "still here"
            assert len(client.frames("netra.hello")) == 1, "on the same connection"
        await holds(queue, 0)
        assert memory[1] - memory[0] < CROWD * SOCKET_BYTES
        assert memory[2] - memory[1] < LEFT_BYTES, "what the first crowd took was there for the second one"

    play(crowds())
