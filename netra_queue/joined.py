"""A server's place in groups of its channel layer: it joins, hears what is sent to them, and stays in.

The layer is handed in: ``wakeup`` alone knows where it comes from.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from .cancelling import cancellable

logger = logging.getLogger(__name__)

JOIN_AGAIN_SECONDS = 30.0
LEAVE_SECONDS = 2.0  # for leaving the groups at the end


async def listen_once(
    layer: Any, groups: Sequence[str], on_message: Callable[[Mapping[str, Any]], None], on_joined: Callable[[], None]
) -> None:
    """Call ``on_message`` for what is sent to these groups, until cancelled. Raises what the layer raises."""
    channel = await layer.new_channel()
    for group in groups:
        await layer.group_add(group, channel)
    on_joined()
    keeping = asyncio.create_task(_keep_joined(layer, groups, channel))
    try:
        while True:
            on_message(await cancellable(layer.receive(channel)))
    finally:
        keeping.cancel()
        with suppress(Exception):
            async with asyncio.timeout(LEAVE_SECONDS):
                for group in groups:
                    await layer.group_discard(group, channel)


async def _keep_joined(layer: Any, groups: Sequence[str], channel: str) -> None:
    """A group forgets its members after ``group_expiry``, and a layer that lost its data forgets them at once."""
    while True:
        await asyncio.sleep(min(JOIN_AGAIN_SECONDS, getattr(layer, "group_expiry", 86_400) / 3))
        try:
            for group in groups:
                await layer.group_add(group, channel)
        except Exception as error:
            logger.debug("group not joined again: %s", error, extra={"action": "layer_failed"})
