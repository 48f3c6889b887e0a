"""For the tests of projects that use netra_queue."""

from __future__ import annotations

from . import process


def shutdown() -> None:
    """End the threads of netra_queue and close their database connections.

    Call it after each test in which something was sent or connected and whose database is thrown away: a test
    database cannot be removed while a thread is connected to it. What is used afterwards starts anew.
    """
    process.close()


async def ashutdown() -> None:
    """The same, from the event loop in which consumers were tested: ends its hub first."""
    await process.stop_hub()
    process.close()
