"""For the tests of projects that use netra_queue."""

from __future__ import annotations

import asyncio

from . import process
from .stores import current_store


def shutdown() -> None:
    """End the threads of netra_queue and close their database connections.

    Call it after each test in which something was sent or connected and whose database is thrown away: a test
    database cannot be removed while a thread is connected to it. What is used afterwards starts anew.
    """
    process.close()


async def ashutdown() -> None:
    """The same, from the event loop in which consumers were tested: ends its hub first."""
    await process.stop_hub()
    await asyncio.to_thread(_shutdown_in_thread)


def _shutdown_in_thread() -> None:
    store = current_store()
    process.close()
    store.leave_thread()
