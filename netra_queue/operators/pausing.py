"""Queues that give nothing out for a while, and queues whose connections are to look again."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime

from .. import operating, policies, sending
from ..exceptions import InvalidMessage
from ..models import BY_LENGTH, REASON_LENGTH
from ..stores import current_store
from ..stores.base import Pause
from .naming import checked, families, steps

logger = logging.getLogger(__name__)


def pause(
    queues: Iterable[str], *, until: datetime | None = None, reason: str = "", by: str = "", dry_run: bool = False
) -> int:
    """These queues take messages and give none out, until ``until``, or until they are resumed. Returns how many.

    In force in every process within two seconds. Lines that come later are paused with their queue. Times to live pass
    on. What a client has been sent already, it may acknowledge. A queue need not be known; one that is paused already
    is paused anew. ``by``: who does it, at most 150 characters; ``reason``: at most 200. Raises InvalidMessage for
    longer ones, and for an ``until`` without a time zone or that has passed.
    """
    names, store = checked(queues), policies.fresh_store()
    _check_until(until, store.now())
    for what, text, limit in (("reason", reason, REASON_LENGTH), ("by", by, BY_LENGTH)):
        if not isinstance(text, str) or len(text) > limit:
            raise InvalidMessage(what, expected=f"a string of at most {limit} characters", got=text)
    if dry_run or not names:
        return len(names)
    for step in steps(names):
        store.pause(step, until, reason, by)
    store.after_commit(operating.announce)
    logger.info("%d queues paused", len(names), extra={"action": "queues_paused"})
    return len(names)


def _check_until(until: object, now: datetime) -> None:
    if until is None:
        return
    if not isinstance(until, datetime) or until.tzinfo is None or until <= now:
        raise InvalidMessage(
            "until", expected=f"a time with its time zone, after {now:%Y-%m-%d %H:%M:%S %Z}", got=until
        )


def resume(queues: Iterable[str], *, dry_run: bool = False) -> int:
    """These queues give out again what they hold, at once. Returns how many of them were paused. Idempotent.

    A line that was paused by its own name is resumed by that name alone.
    """
    names, store = checked(queues), policies.fresh_store()
    if dry_run:
        return sum(len(_own(step)) for step in steps(names))
    count = sum(store.resume(step) for step in steps(names))
    if count:
        store.after_commit(operating.announce)
        logger.info("%d queues resumed", count, extra={"action": "queues_resumed"})
    return count


def _own(names: Iterable[str]) -> list[str]:
    """Those that are paused by their own name."""
    wanted = set(names)
    return [name for name, _ in current_store().pauses() if name in wanted]


def paused() -> list[tuple[str, Pause]]:
    """The queues and lines that operators have paused, each with its pause, the one paused last first."""
    return policies.fresh_store().pauses()


def resend(queues: Iterable[str]) -> int:
    """Have the connections of these queues look for messages now. Returns how many queues and lines have any.

    What a connection has been sent and has not acknowledged is left alone: it is sent again on the next connection. See
    ``disconnect`` for a client that is stuck.
    """
    count, store = 0, policies.fresh_store()
    for step in steps(families(queues)):
        held = {name for names in store.holders(step).values() for name in names}
        count += len(held)
        if held:
            sending.announce(held)
    return count
