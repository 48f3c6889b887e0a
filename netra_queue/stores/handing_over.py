"""How the database store hands over what nobody has acked in time: in one transaction with what is done about it."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from . import watching
from .connecting import afterwards, own_transaction
from .removal import discard_bodies


def hand_over(using: str, ids: Collection[int], receive: watching.Receive) -> int:
    """Call ``receive`` with these messages, and forget them when it returns. Returns how many there were.

    Not repeated after an error of the database: what ``receive`` has done elsewhere cannot be taken back.
    """
    with own_transaction(using):
        bodies, messages = watching.take(using, ids)
        if messages:
            receive(messages)
            afterwards(using, partial(discard_bodies, using, bodies))
    return len(messages)
