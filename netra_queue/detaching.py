"""Connections that are gone, on their way to the store: one statement for many."""

from __future__ import annotations

import asyncio
import logging

from .acks import Call
from .complaints import complain
from .stores.base import Presence, Store

logger = logging.getLogger(__name__)

COLLECT_SECONDS = 0.005
TRY_AGAIN_SECONDS = 1.0


class Detaching:
    """For one event loop."""

    def __init__(self, store: Store, call: Call) -> None:
        self._store, self._call = store, call
        self._waiting: list[Presence] = []
        self._has_waiting = asyncio.Event()

    def add(self, presence: Presence) -> None:
        self._waiting.append(presence)
        self._has_waiting.set()

    async def write(self) -> None:
        """Wait until there are some, and have the store forget them. A call that failed is made again."""
        await self._has_waiting.wait()
        await asyncio.sleep(COLLECT_SECONDS)
        self._has_waiting.clear()
        gone, self._waiting = self._waiting, []
        try:
            await self._call(lambda: self._store.detach(gone))
        except Exception as error:
            complain(logger, "connections not detached yet", "detach_failed", error)
            self._waiting += gone
            await asyncio.sleep(TRY_AGAIN_SECONDS)
            self._has_waiting.set()
