"""How long anybody waits for the store."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from . import conf
from .exceptions import StoreUnavailable

Answer = TypeVar("Answer")


async def settled_in_time(answer: asyncio.Future[Answer], but: str = "") -> Answer:
    """``in_time`` for a future of our own, which has its error then: half as dear, and most messages wait for one."""
    seconds = conf.get("STORE_TIMEOUT_SECONDS")
    timer = asyncio.get_running_loop().call_later(seconds, _give_up, answer, _late(seconds, but))
    try:
        return await answer
    finally:
        timer.cancel()


def _give_up(answer: asyncio.Future[Answer], text: str) -> None:
    if not answer.done():
        answer.set_exception(StoreUnavailable(text))


def _late(seconds: float, but: str) -> str:
    return f"no answer within {seconds} seconds{but}"


async def in_time(answer: Awaitable[Answer], but: str = "") -> Answer:
    """The store's answer. Raises StoreUnavailable when it takes longer than STORE_TIMEOUT_SECONDS: what was asked for
    may be done all the same. ``but``: what that means, for the text of the error.
    """
    seconds = conf.get("STORE_TIMEOUT_SECONDS")
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError as error:
        raise StoreUnavailable(_late(seconds, but)) from error
