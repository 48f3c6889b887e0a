"""A sender in a process of its own: ``python -m benchmarks.sender KIND COUNT TASKS RATE QUEUE…``.

``durable`` sends with ``asend``, ``plain`` with the channel layer's ``group_send``; from so many tasks, and at most
RATE messages a second (0: as many as it can). Prints when the first one was sent, and how long all of them took.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

FILLING = "x" * 200  # with the rest, payloads of about 250 bytes
WARMING_UP = "bench.warming"  # connections are opened, and modules imported, before time counts

Send = Callable[[str, dict[str, Any]], Awaitable[object]]


async def send_all(send: Send, count: int, tasks: int, rate: float, queues: list[str]) -> dict[str, float]:
    await send(WARMING_UP, {"filling": FILLING})
    numbers = iter(range(count))
    targets = itertools.cycle(queues)
    started, began_at = time.perf_counter(), time.time()

    async def work() -> None:
        for number in numbers:
            if rate and (wait := started + number / rate - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            await send(next(targets), {"number": number, "at": time.time(), "filling": FILLING})

    await asyncio.gather(*(work() for _ in range(tasks)))
    return {"began_at": began_at, "seconds": time.perf_counter() - started}


def main(kind: str, count: str, tasks: str, rate: str, *queues: str) -> None:
    import django

    django.setup()
    from channels.layers import get_channel_layer

    import netra_queue
    from netra_queue.management.scenarios import server

    server.configure()
    gc.freeze()  # as the servers of the benchmarks
    layer = get_channel_layer()

    async def group_send(group: str, data: dict[str, Any]) -> None:
        await layer.group_send(group, {"type": "bench.message", "data": data})

    send: Send = netra_queue.asend if kind == "durable" else group_send
    answer = asyncio.run(send_all(send, int(count), int(tasks), float(rate), list(queues)))
    print(json.dumps(answer))  # noqa: T201  this is how it answers


if __name__ == "__main__":
    main(*sys.argv[1:])
