"""A user's devices: the lines that clients with an id (``?client=``) have under the user's queue.

For a page that lists them, and for a logout, which forgets the one that logs out. In a session's logout view::

    netra_queue.forget_device(request.user, request.POST["client"])
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asgiref.sync import sync_to_async

from . import policies
from .core.message import CLIENT_ID, client_of, line_name
from .exceptions import InvalidMessage
from .receipts import refuse_event_loop
from .sending import announce, queue_of
from .stores import current_store
from .validation import check_queue


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """``seen_at``: when it last came or left. ``queue``: its line, which can be sent to."""

    client: str
    queue: str
    seen_at: datetime
    is_connected: bool


def devices(user: Any) -> list[Device]:
    """The devices of a user (or of the queue with this name), those connected and seen last first.

    Raises InvalidMessage, StoreUnavailable, or CalledOnEventLoop: ``adevices`` is for event loops.
    """
    refuse_event_loop("devices")
    found = current_store().lines(_queue(user))
    return [
        Device(client=client_of(line.name), queue=line.name, seen_at=line.seen_at, is_connected=line.is_connected)
        for line in found
    ]


def forget_device(user: Any, client: str) -> int:
    """Give up a device's line, when its user has logged out there or it will not come back.

    What waits for the last device of a user goes on waiting, for the next one; what waits for one of several is
    removed, and counts as dropped. Returns how many messages that were. A device that is not known is no error. A
    connection that it still has is not closed, and gets nothing more of what is sent to the user; a client that comes
    with this id later is a new device.

    Raises InvalidMessage, StoreUnavailable, or CalledOnEventLoop: ``aforget_device`` is for event loops.
    """
    refuse_event_loop("forget_device")
    if not isinstance(client, str) or CLIENT_ID.fullmatch(client) is None:
        raise InvalidMessage("client", expected="1 to 64 of A-Z a-z 0-9 _ -", got=client)
    queue, store = _queue(user), current_store()
    removed = store.forget_line(line_name(queue, client), policies.of(store, [queue])[queue])
    store.after_commit(lambda: announce([queue]))
    return removed


def _queue(user: Any) -> str:
    return check_queue(user) if isinstance(user, str) else queue_of(user)


adevices = sync_to_async(devices, thread_sensitive=True)
aforget_device = sync_to_async(forget_device, thread_sensitive=True)
