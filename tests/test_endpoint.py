"""What a socket cannot show: how far the reader reads ahead."""

from __future__ import annotations

import asyncio
from typing import Any

from netra_queue.endpoint import INBOX_FRAMES, Endpoint


def test_a_busy_consumer_is_read_ahead_of_by_a_bounded_number_of_frames() -> None:
    taken = 0

    async def endless() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        await asyncio.sleep(0)
        return {"type": "websocket.receive", "text": "x"}

    async def nothing(*arguments: Any) -> None: ...

    async def read_ahead() -> list[int]:
        endpoint = Endpoint(
            {"type": "websocket"}, endless, nothing, find_queue=nothing, choices=lambda: ("default", "on_disconnect")
        )
        await endpoint.send({"type": "websocket.accept"})
        counts = []
        for _ in range(2):
            for _ in range(20 * INBOX_FRAMES):
                await asyncio.sleep(0)
            counts.append(taken)
            await endpoint.receive()
        await endpoint.abandon()
        return counts

    assert asyncio.run(read_ahead()) == [INBOX_FRAMES + 1, INBOX_FRAMES + 2]
