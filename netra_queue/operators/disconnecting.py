"""Clients that are sent away for a while, and devices that are given up."""

from __future__ import annotations

import logging
import time

from .. import operating, policies, sending
from ..core.message import base_of, client_of
from ..exceptions import InvalidMessage
from ..stores.base import Store
from ..validation import check_address

logger = logging.getLogger(__name__)

AFTER_SECONDS = 5.0
LONGEST_SECONDS = 3600.0
GONE_SECONDS = 5.0  # for connections that were sent away to be gone
CHECK_SECONDS = 0.05


def disconnect(
    queue: str, *, connection: str | None = None, after_seconds: float = AFTER_SECONDS, dry_run: bool = False
) -> int:
    """Have the servers close the connections of a queue (of a device, by its line's name; ``connection``: of one id).

    Their clients are told to come back (``netra.retry``) after ``after_seconds``, or up to half as long again, so that
    many do not come at once; what was not acknowledged is replayed then. Returns how many connections these are; they
    are closed within about three seconds. Raises InvalidMessage for seconds that are not from 0 to 3600.
    """
    name, store = check_address(queue), policies.fresh_store()
    is_number = isinstance(after_seconds, int | float) and not isinstance(after_seconds, bool)
    if not is_number or not 0 <= after_seconds <= LONGEST_SECONDS:
        raise InvalidMessage("after_seconds", expected=f"0 to {LONGEST_SECONDS:g}", got=after_seconds)
    count = store.send_away(name, float(after_seconds), connection, dry_run=dry_run)
    if count and not dry_run:
        store.after_commit(operating.announce)
        logger.info("%d connections sent away", count, extra={"action": "connections_sent_away", "queue": name})
    return count


def forget(line: str, *, dry_run: bool = False) -> int:
    """Give a device up: it is disconnected, and what waits for it alone is removed, counted as dropped.

    Returns how many messages that were (dry: how many wait for it). What waits for the last device of a queue goes on
    waiting there, for the next one. A client that comes back with this id is a new device. There is no way back: ask
    before you call this. Raises InvalidMessage for anything but a line's name. Idempotent.
    """
    name, store = check_address(line), policies.fresh_store()
    if not client_of(name):
        raise InvalidMessage("line", expected="a device's line, such as user.42/phone-7f3a", got=line)
    if dry_run:
        return store.matching([name])
    if disconnect(name) and not store.in_transaction():  # in one, nobody has been told yet
        _wait_until_gone(store, name)
    queue = base_of(name)
    removed = store.forget_line(name, policies.of(store, [queue])[queue])
    store.after_commit(lambda: sending.announce([queue]))
    logger.info("device forgotten, with %d messages", removed, extra={"action": "device_forgotten", "queue": name})
    return removed


def _wait_until_gone(store: Store, line: str) -> None:
    """A server that does not answer holds nobody up for ever: its connections get nothing more of the queue."""
    deadline = time.monotonic() + GONE_SECONDS
    while store.holders([line]) and time.monotonic() < deadline:
        time.sleep(CHECK_SECONDS)
