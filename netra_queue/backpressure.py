"""Producers that wait until a queue has room, instead of having a message dropped or refused.

Bounded in time by the sender, and in number for the whole process: beyond MOST_WAITING at once, QueueFull comes without
waiting, so that a client that stays away does not fill the memory of those who send to it.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .exceptions import QueueFull

Answer = TypeVar("Answer")
MOST_WAITING = 1_000
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5  # between two tries of one sender; each is a transaction

_places = threading.BoundedSemaphore(MOST_WAITING)  # of all event loops; never waited for


async def wait_for_room(attempt: Callable[[], Awaitable[Answer]], seconds: float) -> Answer:
    """What ``attempt`` answers as soon as it does not raise QueueFull; then nothing of it has been written.

    Raises QueueFull after so many seconds, or at once when too many wait already. May be cancelled.
    """
    deadline = time.monotonic() + seconds
    try:
        return await attempt()
    except QueueFull:
        if not _places.acquire(blocking=False):
            raise
    try:
        return await _try_again(attempt, deadline)
    finally:
        _places.release()


async def _try_again(attempt: Callable[[], Awaitable[Answer]], deadline: float) -> Answer:
    pause = FIRST_PAUSE_SECONDS
    while True:
        left = deadline - time.monotonic()
        await asyncio.sleep(min(pause * random.uniform(0.5, 1), max(left, 0)))
        try:
            return await attempt()
        except QueueFull:
            if time.monotonic() >= deadline:
                raise
        pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
