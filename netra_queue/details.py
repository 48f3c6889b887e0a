"""What the servers say of the connections of some queues, asked when an operator looks: see ``describing``.

A word through the channel layer to those who hold them, and then a look at the store, every ``LOOK_SECONDS``, until all
have answered or ``WAIT_SECONDS`` are over. A layer or a server that is away costs that wait, and nothing else.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from . import wakeup
from .stores.base import Store
from .stores.values import Connected, Detail

WAIT_SECONDS = 0.2
LOOK_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """A connection, and what its server said of it last; None: it never did. ``is_answer``: it said so just now."""

    connection: Connected
    detail: Detail | None
    is_answer: bool


def described(store: Store, lines: Collection[str], limit: int) -> list[Described]:
    """Up to ``limit`` connections of these queues or lines. Blocks for ``WAIT_SECONDS`` at most, besides the store.

    Raises StoreUnavailable.
    """
    connections = store.connected(lines, limit)
    ids = [connection.id for connection in connections]
    before = store.details(ids) if ids else {}
    asked = [connection for connection in connections if connection.is_alive]
    now = _answers(store, asked, before) if asked else {}
    return [
        Described(
            connection=each,
            detail=now.get(each.id, before.get(each.id)),
            is_answer=_is_new(now.get(each.id), before.get(each.id)),
        )
        for each in connections
    ]


def _answers(store: Store, asked: Sequence[Connected], before: Mapping[str, Detail]) -> dict[str, Detail]:
    holders: dict[str, set[str]] = defaultdict(set)
    for connection in asked:
        holders[connection.server].add(connection.queue)
    wakeup.ask_details(holders)
    ids = [connection.id for connection in asked]
    until, found = time.monotonic() + WAIT_SECONDS, dict[str, Detail]()
    while time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        found = store.details(ids)
        if all(_is_new(found.get(id), before.get(id)) for id in ids):
            break
    return found


def _is_new(detail: Detail | None, before: Detail | None) -> bool:
    return detail is not None and (before is None or detail.told_at != before.told_at)
