"""How a connection that was accepted gets to the store: before it is served, or, where that may be, later."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial

from . import groups, incoming
from .core.rollout import Standing
from .exceptions import StoreUnavailable
from .hub import Hub
from .link import Link
from .parting import Parting

logger = logging.getLogger(__name__)

Attach = Callable[[Link], Awaitable[tuple[str, ...]]]


async def attach(hub: Hub, link: Link, find_groups: Callable[[], Collection[str]], parting: Parting) -> None:
    """Raises what the store refuses the connection with, and StoreUnavailable where it is not served without one."""
    link.groups = tuple(groups.check_groups(find_groups()))
    if link.connection.standing is not Standing.OFF:
        try:
            await incoming.admit(hub, link)
            await _join(hub, link, parting, hub.attach)
        except StoreUnavailable as error:
            if link.connection.standing.keeps and not link.connection.policy.does_without:
                raise
            logger.warning("served without the store: %s", error, extra={"action": "served_alone"})
        else:
            return
    hub.open_alone(link)
    hub.joining.add(link, partial(_join, hub, link, parting, hub.attach_late))


async def _join(hub: Hub, link: Link, parting: Parting, attach: Attach) -> None:
    await groups.subscribe_line(link.queue, link.groups)
    lingering, attached_at = await attach(link), hub.loop.time()
    await parting.connected()
    hub.lingering.welcome(link.queue, lingering, attached_at)
