"""How long anybody waits for the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from . import conf
from .exceptions import StoreUnavailable

Answer = TypeVar("Answer")


async def in_time(answer: Awaitable[Answer], but: str = "") -> Answer:
    """The store's answer. Raises StoreUnavailable when it takes longer than STORE_TIMEOUT_SECONDS: what was asked for
    may be done all the same. ``but``: what that means, for the text of the error.
    """
    seconds = conf.get("STORE_TIMEOUT_SECONDS")
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError as error:
        raise StoreUnavailable(f"no answer within {seconds} seconds{but}") from error
