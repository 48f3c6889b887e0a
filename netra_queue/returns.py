"""Deliveries whose connections ended without an ack, on their way to the store: one statement for many."""

from __future__ import annotations

import asyncio
import logging

from .acks import Call
from .complaints import complain
from .core.actions import Return
from .link import Link
from .stores.base import Returned, Store

logger = logging.getLogger(__name__)

COLLECT_SECONDS = 0.005
TRY_AGAIN_SECONDS = 1.0
MOST_WAITING = 10_000  # connections' worth; with the store away for long, the oldest are not counted


class Returns:
    """For one event loop. A connection whose client acked everything adds nothing."""

    def __init__(self, store: Store, call: Call) -> None:
        self._store, self._call = store, call
        self._waiting: list[Returned] = []
        self._has_waiting = asyncio.Event()

    def add(self, link: Link, action: Return) -> None:
        self._waiting.append(Returned(link.queue, action.positions, action.is_alone, link.connection.policy))
        self._has_waiting.set()

    async def write(self) -> None:
        """Wait until there are some, and have the store count them. A call that failed is made again.

        What the store has counted without an answer it counts twice then: at worst a message is set aside a delivery
        early.
        """
        await self._has_waiting.wait()
        await asyncio.sleep(COLLECT_SECONDS)
        self._has_waiting.clear()
        returns, self._waiting = self._waiting, []
        try:
            await self._call(lambda: self._store.returned(returns))
        except Exception as error:
            complain(logger, "deliveries not counted yet", "returned_failed", error)
            self._waiting = [*returns, *self._waiting][-MOST_WAITING:]
            await asyncio.sleep(TRY_AGAIN_SECONDS)
            self._has_waiting.set()

    def unwritten(self) -> list[Returned]:
        """What the store has not been told of, at the end of the process."""
        return self._waiting
