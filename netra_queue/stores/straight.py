"""One plain message at a time on PostgreSQL: its line looked up, and its row written, by one statement.

It is a function of the database's, and is given the line that the queue had last. Unless that is the one to have the
message now, it writes nothing, and the message goes the ordinary way, which finds the lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connections

from ..core.message import Draft, Outcome
from ..core.policy import Growth, Policy
from ..models import queue_id
from . import accounting, functions, limits, watching
from .values import Appended, expiry

KNOWN_LINES = 10_000
_VALUES = "%s, %s, %s, %s, %s::smallint, %s::smallint, %s, %s, %s, %s, %s, %s"
_CALL = f"SELECT place, servers FROM {functions.PUT_ONE}({_VALUES}) WHERE place IS NOT NULL"

_lines: dict[tuple[str, str], str | None] = {}  # of a database's queue, its one line; None: it has several


def is_plain(draft: Draft, policy: Policy, now: datetime) -> bool:
    """Whether nothing hangs on this message: its row is all there is."""
    return (
        draft.key is None
        and draft.collapse is None
        and not draft.track
        and draft.payload.size <= policy.max_message_bytes
        and watching.due_at(draft, policy, now) is None
    )


def note(using: str, lines: Mapping[str, Sequence[str]]) -> None:
    """These are the lines that what is sent to each of these queues goes to."""
    for queue, of in lines.items():
        if of != (queue,):
            if len(_lines) >= KNOWN_LINES:
                _lines.clear()
            _lines[using, queue] = of[0] if len(of) == 1 else None
        elif _lines:
            _lines.pop((using, queue), None)


def append(using: str, draft: Draft, policy: Policy, now: datetime, *, is_committed: bool) -> Appended | None:
    """Put this message into its queue's one line, which is far from full. None: it takes the ordinary way.

    ``is_committed``: whether it is no part of a transaction.
    """
    line = _lines.get((using, draft.queue), draft.queue)
    if line is None or not is_plain(draft, policy, now) or not functions.are_in(using):
        return None
    id = queue_id(line)
    if not limits.far_from_full(using, {id: (Growth(1, draft.payload.size), policy)}):
        return None
    since = now - timedelta(seconds=policy.line_seconds)
    payload, created_at, expires_at = draft.payload, draft.sent_at or now, expiry(draft, now)
    values: list[Any] = [queue_id(draft.queue), id, since, draft.id, int(draft.priority), int(payload.kind)]
    values += [payload.text, payload.size, created_at, expires_at, draft.traceparent, draft.not_before]
    with connections[using].cursor() as cursor:
        cursor.execute(_CALL, values)
        found = cursor.fetchone()
    if found is None:
        return None
    accounting.accepted_plain(using, [draft], is_committed=is_committed)
    position, servers = found
    return Appended(draft.id, Outcome.QUEUED, position, (line,), tuple(dict.fromkeys(servers)))
