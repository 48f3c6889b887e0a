"""Most appends, in one statement: where the messages go, payloads that lines share, and the messages themselves.

For PostgreSQL, and for messages on which nothing else hangs: no key, no collapse key, no receipt. Their queues are far
from full, as far as this process knows; where it turns out that a message went to a line that was not known, limits are
seen to afterwards.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import connections

from ..core.message import Draft, Outcome, client_of
from ..core.policy import Growth, Overflow, Policy
from ..ids import new_number
from ..models import Body, Flag, LiveConnection, Message, Queue, queue_id
from . import limits, seen, watching
from .connecting import own_transaction
from .inserting import COLUMNS
from .values import Appended, Positions, growth

MOST_BYTES = 4_194_304  # of payload in one statement
_TYPES = {
    **{"q": "bigint", "u": "text", "p": "smallint", "k": "smallint", "t": "text", "s": "integer"},
    **{"c": "timestamptz", "e": "timestamptz", "b": "bigint", "f": "smallint", "l": "timestamptz"},
}
_STATEMENT = f"""
WITH given AS (
    SELECT * FROM ROWS FROM (json_to_recordset(%s::json) AS ({", ".join(map(" ".join, _TYPES.items()))}))
    WITH ORDINALITY AS r({", ".join(_TYPES)}, o)
), wanted AS (
    SELECT DISTINCT q, l FROM given WHERE l IS NOT NULL
), lines AS (
    SELECT w.q, d.id, d.name FROM wanted w JOIN {{queue}} d ON d.parent_id = w.q
    WHERE d.seen_at IS NOT NULL AND (d.seen_at > w.l OR EXISTS (SELECT 1 FROM {{live}} v WHERE v.queue_id = d.id))
    UNION ALL
    SELECT w.q, d.id, d.name FROM wanted w JOIN {{queue}} d ON d.id = w.q
    WHERE d.seen_at IS NOT NULL AND (d.seen_at > w.l OR EXISTS (SELECT 1 FROM {{live}} v WHERE v.queue_id = d.id))
), shared AS (
    SELECT q FROM lines GROUP BY q HAVING count(*) > 1
), bodies AS (
    INSERT INTO {{body}} (id, payload, expires_at) SELECT b, t, e FROM given WHERE q IN (SELECT q FROM shared)
), inserted AS (
    INSERT INTO {{message}} ({COLUMNS})
    SELECT COALESCE(d.id, g.q), g.u, g.p, g.k, CASE WHEN s.q IS NULL THEN g.t ELSE '' END, g.s, g.c, g.e,
        CASE WHEN s.q IS NOT NULL THEN g.b END, CASE WHEN s.q IS NULL THEN 0 ELSE g.f END, 0
    FROM given g LEFT JOIN shared s ON s.q = g.q LEFT JOIN lines d ON d.q = g.q
    ORDER BY g.o, d.name RETURNING id, uid, queue_id
)
SELECT i.id, i.uid, i.queue_id, d.name FROM inserted i LEFT JOIN lines d ON d.id = i.queue_id ORDER BY i.id"""


def append(using: str, drafts: Sequence[Draft], policies: Mapping[str, Policy], now: datetime) -> list[Appended] | None:
    """None: this is not for here, and nothing has been done."""
    if connections[using].vendor != "postgresql" or not all(_is_plain(draft, policies, now) for draft in drafts):
        return None
    added = growth((draft.queue, draft.payload.size) for draft in drafts)
    if sum(one.size for one in added.values()) > MOST_BYTES or not _are_far_from_full(using, added, policies):
        return None
    positions = _insert(using, drafts, policies, now)
    _see_to_strangers(using, drafts, positions, policies, now)
    return [_answer(draft, positions[draft.id]) for draft in drafts]


def _is_plain(draft: Draft, policies: Mapping[str, Policy], now: datetime) -> bool:
    policy = policies[draft.queue]
    hangs = draft.key is not None or draft.collapse is not None or draft.track
    fits = draft.payload.size <= policy.max_message_bytes and policy.overflow is not Overflow.REJECT
    return fits and not hangs and watching.due_at(draft, policy, now) is None


def _are_far_from_full(using: str, added: Mapping[str, Growth], policies: Mapping[str, Policy]) -> bool:
    """Also remembers what is added."""
    wanted: dict[int, tuple[Growth, Policy]] = {}
    for name, one in added.items():
        lines = seen.lines_of(using, queue_id(name))
        if lines is None:
            return False
        wanted |= dict.fromkeys(lines, (one, policies[name]))
    return seen.far_from_full(using, wanted) == wanted.keys()


def _insert(using: str, drafts: Sequence[Draft], policies: Mapping[str, Policy], now: datetime) -> Positions:
    names = {queue_id(draft.queue): draft.queue for draft in drafts}
    tables = {"queue": Queue, "live": LiveConnection, "body": Body, "message": Message}
    connection = connections[using]
    quoted = {name: connection.ops.quote_name(model._meta.db_table) for name, model in tables.items()}
    rows = json.dumps([_row(draft, policies[draft.queue], now) for draft in drafts], ensure_ascii=False)
    positions: Positions = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(_STATEMENT.format(**quoted), [rows])
        for position, uid, queue, name in cursor.fetchall():
            positions[uid][name or names[queue]] = position
    return positions


def _row(draft: Draft, policy: Policy, now: datetime) -> dict[str, Any]:
    created_at = draft.sent_at or now
    return {
        "q": queue_id(draft.queue),
        "u": draft.id,
        "p": int(draft.priority),
        "k": int(draft.payload.kind),
        "t": draft.payload.text,
        "s": draft.payload.size,
        "c": created_at.isoformat(),
        "e": (created_at + timedelta(seconds=draft.ttl_seconds)).isoformat(),
        "b": new_number(),
        "f": int(Flag.FIRST) if draft.deliver_first else 0,
        "l": None if client_of(draft.queue) else (now - timedelta(seconds=policy.line_seconds)).isoformat(),
    }


def _see_to_strangers(
    using: str, drafts: Sequence[Draft], positions: Positions, policies: Mapping[str, Policy], now: datetime
) -> None:
    """Lines that this process did not know when it looked whether they are far from full."""
    for draft in drafts:
        known = seen.lines_of(using, queue_id(draft.queue)) or ()
        strange = [line for line in positions[draft.id] if queue_id(line) not in known]
        if strange:
            seen.note_lines(using, {queue_id(draft.queue): map(queue_id, positions[draft.id])})
            added = dict.fromkeys(strange, Growth(1, draft.payload.size))
            with own_transaction(using):
                limits.enforce(using, added, dict.fromkeys(strange, policies[draft.queue]), now, exact=False)


def _answer(draft: Draft, places: Mapping[str, int]) -> Appended:
    return Appended(draft.id, Outcome.QUEUED, next(iter(places.values())), tuple(places))
