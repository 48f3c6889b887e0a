"""What comes from clients whose connections have queues: whether it is too much, and whose a frame is."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Protocol

from .core import wire
from .core.rate import Rate
from .core.statistics import Event
from .core.wire import CloseCode, MalformedFrame, Mode
from .counting import adder
from .exceptions import RateLimited
from .hub import Hub
from .link import Link
from .rates import admit_connection, paced

logger = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 60.0  # that a client is told: a new connection has a new bucket in any case


class End(Protocol):
    """Closes the connection. ``after_seconds``: when the client may come back, if it has to be told."""

    def __call__(self, code: int, reason: str, *, after_seconds: float | None = None) -> None: ...


async def admit(hub: Hub, link: Link) -> None:
    """Raises RateLimited when the queue's clients connect too often, StoreUnavailable when nobody can say."""
    rate = link.connection.policy.connections
    if rate is None:
        return
    try:
        await hub.call(partial(admit_connection, hub.store, link.queue, rate))
    except RateLimited:
        adder.add(Event.CONNECTION_LIMITED)
        raise


def took(hub: Hub, link: Link, event: dict[str, Any], end: End) -> bool:
    """Whether this frame was the protocol's, or too much, and has been dealt with."""
    connection, now = link.connection, hub.loop.time()
    connection.heard(now)
    frame = None
    if connection.mode is Mode.PROTOCOL and event.get("text") is not None:
        try:
            frame = wire.parse_client_frame(event["text"])
        except MalformedFrame as error:
            end(CloseCode.MALFORMED, error.reason)
            return True
    if rate := link.gate.refuses(frame, connection.window, connection.policy, now):
        _refuse(link, rate, end)
        return True
    if frame is not None:
        hub.carry_out(link, connection.receive(frame, now))
    return frame is not None


def _refuse(link: Link, rate: Rate, end: End) -> None:
    adder.add(Event.CLIENT_LIMITED)
    extra = {"action": "client_limited", "queue": link.queue}
    logger.warning("closed: the client sends frames above its rate, %s", rate, extra=extra)
    after = paced(min(rate.burst_seconds, LONGEST_PAUSE_SECONDS))
    end(CloseCode.TOO_MANY_CONNECTIONS, f"more frames than {rate}", after_seconds=after)
