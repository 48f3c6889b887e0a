"""Which policy a queue gets from the connection that comes: POLICY_RESOLVER's for its user, or else the consumer's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from . import conf
from .core.message import base_of
from .hub import Hub

logger = logging.getLogger(__name__)

Resolve = Callable[[], Awaitable[str | None]]


async def no_policy() -> None:
    """For who has no user to ask about."""


async def resolved(hub: Hub, queue: str, resolve: Resolve) -> str | None:
    """The name that POLICY_RESOLVER has for this queue; None: it has none.

    When it fails, or takes longer than STORE_TIMEOUT_SECONDS, the queue keeps the policy that it is known with: with
    narrower limits it would lose messages. Raises StoreUnavailable when that cannot be asked for either.
    """
    await hub.adopting.refresh()
    if not conf.get("POLICY_RESOLVER"):
        return None
    try:
        async with asyncio.timeout(conf.get("STORE_TIMEOUT_SECONDS")):
            return _checked(await resolve())
    except Exception:
        logger.exception("no policy resolved; the queue keeps its own", extra={"action": "resolver_failed"})
    known = await hub.call(lambda: hub.store.describe([base_of(queue)]))
    return known.get(base_of(queue)) or None


def _checked(name: object) -> str | None:
    if name is not None and (not isinstance(name, str) or not 0 < len(name) <= conf.LONGEST_NAME):
        raise TypeError(f"POLICY_RESOLVER: expected the name of a policy, or None, got {name!r:.80}")
    return name
