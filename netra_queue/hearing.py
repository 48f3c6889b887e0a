"""How a consumer receives from its channel layer: it outlives the layer's errors, and is known to be at rest."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

from .cancelling import cancellable

logger = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[Any]]
FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0
SILENCE_SECONDS = 0.2  # a layer that has had nothing for a channel for so long has given all it had
SILENCE_CHECK_SECONDS = 0.02


class Ear:
    """A consumer's ``channel_receive`` that knows whether something has come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waits_since: float | None = None

    async def __call__(self) -> Any:
        self._waits_since = time.monotonic()
        try:
            return await self._receive()
        finally:
            self._waits_since = None

    async def silence(self, seconds: float = SILENCE_SECONDS) -> None:
        """Return when the consumer has dealt with everything and nothing has come for so long. May be cancelled."""
        while self._waits_since is None or time.monotonic() - self._waits_since < seconds:  # noqa: ASYNC110  time passes
            await asyncio.sleep(SILENCE_CHECK_SECONDS)


def patient(receive: Receive, rejoin: Callable[[], Awaitable[None]]) -> Receive:
    """A consumer's ``channel_receive`` that outlives its layer: without it, an error there ends the connection.

    It can be cancelled, whatever the layer does about that. After an error it waits, with backoff, calls ``rejoin``
    (the layer may have forgotten the consumer's groups), and goes on receiving.
    """

    @wraps(receive)
    async def receive_patiently() -> Any:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            try:
                return await cancellable(receive())
            except Exception as error:
                logger.warning(
                    "a consumer cannot receive from the channel layer: %s",
                    str(error) or type(error).__name__,
                    extra={"action": "layer_failed"},
                )
            backoff = await _wait_and_rejoin(backoff, rejoin)

    return receive_patiently


async def _wait_and_rejoin(backoff: float, rejoin: Callable[[], Awaitable[None]]) -> float:
    while True:
        await asyncio.sleep(backoff * random.uniform(0.5, 1))
        backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
        try:
            await rejoin()
        except Exception as error:
            logger.debug("groups not joined again: %s", error, extra={"action": "layer_failed"})
        else:
            return backoff
