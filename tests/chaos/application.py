"""What the storm's servers serve: consumers that talk by themselves, and write down each send that returned."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from netra_queue import NetraQueueError
from netra_queue.management.scenarios.application import CONSUMERS, Echo, application
from tests.chaos.diary import VARIABLE, Diary

__all__ = ["application"]

PAUSE_SECONDS = 0.25


def tell_what_is_going_on(*_: object) -> None:
    """For a server that does not end: each task's stack, and each thread's."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)
    faulthandler.dump_traceback(sys.stderr, all_threads=True)


signal.signal(signal.SIGUSR1, tell_what_is_going_on)
for handler in logging.getLogger("netra_queue").handlers:  # servers share a log
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
diary = Diary(Path(os.environ[VARIABLE]))


class Talker(Echo):
    _talk: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        await super().connect()
        self._talk = asyncio.create_task(self._talk_on())

    async def queue_disconnected(self, close_code: int | None) -> None:
        if self._talk is not None:
            self._talk.cancel()

    async def _talk_on(self) -> None:
        client = parse_qs(self.scope["query_string"].decode())["client"][0]
        where = {"queue": self.scope["netra_queue_name"], "client": client, "persist": self.queue_persist}
        name, number = f"own-{os.urandom(6).hex()}", 0
        while not diary.is_closed:
            number += 1
            try:
                await self.send_json({"sender": name, "number": number})
            except NetraQueueError:
                pass  # not accepted; it may be delivered
            else:
                diary.write(sender=name, number=number, **where)
            await asyncio.sleep(random.uniform(0, 2 * PAUSE_SECONDS))


class AlwaysTalker(Talker):
    queue_persist = "always"


consumers: dict[str, Any] = {"talker": Talker, "alwaystalker": AlwaysTalker}
CONSUMERS |= consumers
