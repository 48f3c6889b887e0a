"""What a returning client gets of what waits for it: the policy's ``REPLAY``, applied before the first read.

The digest is made by the project's code, in a thread for digests and outside any transaction. Nothing that goes wrong
here keeps a client from its messages: then everything is replayed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from django.db import close_old_connections
from django.utils.module_loading import import_string

from .acks import Call
from .core.message import Draft, Losses, Message
from .core.policy import Policy, Replay
from .core.rollout import Standing
from .core.waiting import WaitingMessage, waiting
from .exceptions import MessageTooLarge, StoreUnavailable
from .ids import new_id
from .link import Link
from .stores.base import Opened, Presence, Store
from .validation import encode

logger = logging.getLogger(__name__)


class Replaying:
    """For one hub. ``call`` does something in one of its threads, and raises when that takes too long.

    ``call_for_digest``: the same in other threads, which the project's code may hold up.
    """

    def __init__(self, store: Store, call: Call, call_for_digest: Call) -> None:
        self._store, self._call, self._call_for_digest = store, call, call_for_digest

    async def shape(self, link: Link, opened: Opened) -> Opened:
        """Leave out what this client, which has just been attached, is not to get. Returns what is to be said then."""
        policy, before = link.connection.policy, None
        if link.connection.standing is Standing.SHADOW:
            policy, before = replace(policy, replay=Replay(newest=0)), opened.at
        if not policy.replay or not opened.waiting:
            return opened
        call = self._call if policy.replay.digest is None else self._call_for_digest
        is_late = threading.Event()
        try:
            left = await call(lambda: _leave_out(self._store, link.presence, policy, is_late, before))
        except Exception as error:
            extra = {"action": "replay_failed"}
            logger.warning("replay not shaped, all is replayed: %s", error, exc_info=error, extra=extra)
            return opened
        finally:
            is_late.set()
        return opened if left is None else replace(opened, waiting=left[0], losses=left[1])


def _leave_out(
    store: Store, presence: Presence, policy: Policy, is_late: threading.Event, before: datetime | None
) -> tuple[int, Losses] | None:
    """None: there is nothing to leave out."""
    found = store.surplus(presence, policy, before)
    if not found.positions:
        return None
    digest = _digest(presence.queue, found.messages, policy) if found.messages else None
    if is_late.is_set():  # nobody waits any more, and the client may have the messages already
        raise StoreUnavailable("the digest took too long")
    return store.leave_out(presence.queue, found.positions, digest, policy)


def _digest(queue: str, messages: Sequence[Message], policy: Policy) -> Draft | None:
    """The message that stands for these. Raises what the project's code raises."""
    make = cast(Callable[[list[WaitingMessage]], Any], import_string(policy.replay.digest or ""))
    try:
        made = make([waiting(message) for message in messages])
    finally:
        close_old_connections()  # what it used of other databases is nobody's request's
    if made is None:
        return None
    payload, priority = encode(made), min(message.priority for message in messages)
    if payload.size > policy.max_message_bytes:
        raise MessageTooLarge(queue, size=payload.size, limit=policy.max_message_bytes)
    return Draft(queue=queue, id=new_id(), payload=payload, priority=priority, ttl_seconds=policy.ttl_for(priority))
