"""How the database store lets messages go, and sees to what hangs on them.

Every removal of a message, for whatever reason, goes through ``remove``. Most messages are one row and nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

from django.db import connections
from django.db.models import Exists, OuterRef

from .. import signals
from ..core.message import Fate, LossReason
from ..models import Body, Flag, Loss, Message, Watch, queue_id
from . import accounting, telling, tracking, watching
from .connecting import afterwards, own_transaction
from .rows import Held, chunks, delete, hold, record_losses
from .set_aside import keeps, set_aside


def remove(using: str, messages: Collection[Held], fate: Fate, now: datetime, *, may_keep: bool = True) -> int:
    """Delete these messages, and count them if that is a loss. In the caller's transaction, which has locked them.

    ``may_keep``: those whose policies keep such messages are set aside for the operator.
    """
    if fate.loss is not None and may_keep:
        set_aside(using, messages, fate.loss, now)
    removed = delete(using, [held.position for held in messages])
    if fate.loss is not None:
        record_losses(using, fate.loss, [(held.queue, held.priority) for held in messages], now)
    tracking.end(using, messages, fate, now)
    watching.end(using, messages, fate)
    _see_off(using, messages, fate, now)
    return removed


def _see_off(using: str, messages: Collection[Held], fate: Fate, now: datetime) -> None:
    """What follows when these removals are committed."""
    bodies = {held.body for held in messages if held.body is not None}
    ended = ((held.uid, held.queue, held.priority) for held in messages)
    _see_off_all(using, bodies, [held.priority for held in messages], ended, fate, now)


def _see_off_all(
    using: str,
    bodies: Iterable[int],
    priorities: Sequence[int],
    ended: Iterable[telling.Ended],
    fate: Fate,
    now: datetime,
) -> None:
    """``ended``: which messages these are; it is looked at where somebody listens."""
    if shared_by_few := {body for body in bodies if not is_crowded(body)}:
        afterwards(using, partial(discard_bodies, using, shared_by_few))
    accounting.ended(using, fate, priorities)
    telling.tell(using, ended, fate, now)


def ack(using: str, positions: Mapping[str, Collection[int]], now: datetime) -> dict[str, set[int]]:
    """Remove what was acked. Returns the positions that are in other hands."""
    owners = {queue_id(name): name for name in positions}
    wanted = {(position, id) for id, name in owners.items() for position in positions[name]}
    if connections[using].vendor == "postgresql":
        wanted -= _ack_plain(using, wanted, now)
    left: dict[str, set[int]] = defaultdict(set)
    for chunk in chunks(sorted({position for position, _ in wanted})):
        rows = Message.objects.using(using).filter(queue_id__in=owners, pk__in=chunk).order_by("pk")
        with own_transaction(using):
            acked = [held for held in hold(rows, using) if held.position in positions[owners[held.queue]]]
            siblings = _siblings(using, acked)
            busy = watching.release(using, acked)
            acked, siblings = _without(busy, acked), _without(busy, siblings)
            remove(using, [*acked, *siblings], Fate.ACKED, now)
            if len(acked) < len(chunk):
                taken = [held.position for held in acked]
                for position, queue in rows.exclude(pk__in=taken).values_list("pk", "queue_id"):
                    left[owners[queue]].add(position)
    return {name: mine for name, some in left.items() if (mine := some & set(positions[name]))}


def _ack_plain(using: str, wanted: Iterable[tuple[int, int]], now: datetime) -> set[tuple[int, int]]:
    """Remove those of these messages (of each its position and its line's id) on which nothing hangs, in one statement.

    Returns which these were. That is most, and all that most acks are about.
    """
    removed: set[tuple[int, int]] = set()
    table = connections[using].ops.quote_name(Message._meta.db_table)
    for chunk in chunks(sorted(wanted)):
        pairs = ["{" + ",".join(map(str, column)) + "}" for column in zip(*chunk, strict=True)]
        with connections[using].cursor() as cursor:
            cursor.execute(
                f"WITH mine AS (SELECT m.id FROM unnest(%s::bigint[], %s::bigint[]) AS w(id, queue_id) JOIN {table} m "
                f"USING (id, queue_id) WHERE m.flags = 0 ORDER BY m.id FOR UPDATE OF m SKIP LOCKED) "
                f"DELETE FROM {table} m USING mine WHERE m.id = mine.id "
                f"RETURNING m.id, m.queue_id, m.priority, m.uid, m.flags, m.body_id",
                pairs,
            )
            acked = [Held._make(row) for row in cursor.fetchall()]
        _see_off(using, acked, Fate.ACKED, now)
        removed |= {(held.position, held.queue) for held in acked}
    return removed


def sweep_plain(using: str, limit: int, now: datetime) -> int:
    """Of the ``limit`` messages that expired first, remove and count those on which nothing hangs, in one statement.

    Returns how many that were. 0 where the database cannot do it so, or a policy keeps what expires.

    Those of one moment, a whole group's for example, in any order: the index has none, and to sort them all for each
    batch would take a time that grows with the square. An array, since that is looked up by key whatever the planner
    thinks of the table's size. Which they were is fetched where somebody listens: adding them up here, and not there,
    takes a fifth of a sweep.
    """
    if connections[using].vendor != "postgresql" or keeps(LossReason.EXPIRED):
        return 0
    messages, losses = (connections[using].ops.quote_name(model._meta.db_table) for model in (Message, Loss))
    names = "array_agg(uid), array_agg(queue_id)" if signals.has_listeners(Fate.EXPIRED) else "NULL, NULL"
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"WITH due AS (SELECT id FROM {messages} WHERE expires_at <= %s ORDER BY expires_at LIMIT %s "
            f"FOR UPDATE SKIP LOCKED), gone AS (DELETE FROM {messages} m "
            f"WHERE m.id = ANY(ARRAY(SELECT id FROM due)) AND m.flags = 0 "
            f"RETURNING m.queue_id, m.priority, m.uid, m.body_id), counted AS (INSERT INTO {losses} "
            f"(queue_id, reason, priority, count, since) SELECT queue_id, %s, priority, count(*), %s FROM gone "
            f"GROUP BY queue_id, priority ORDER BY queue_id, priority) SELECT priority, count(*), "
            f"array_agg(DISTINCT body_id) FILTER (WHERE body_id IS NOT NULL), {names} FROM gone GROUP BY priority",
            [now, limit, LossReason.EXPIRED.value, now],
        )
        rows = cursor.fetchall()
    bodies = (body for _, _, some, _, _ in rows for body in some or ())
    priorities = [priority for priority, count, *_ in rows for _ in range(count)]
    ended = ((uid, line, p) for p, _, _, uids, lines in rows for uid, line in zip(uids or (), lines or (), strict=True))
    _see_off_all(using, bodies, priorities, ended, Fate.EXPIRED, now)
    return len(priorities)


def _siblings(using: str, acked: Iterable[Held]) -> list[Held]:
    """The other lines' copies of what only the first line has to ack. Those in other hands are acked there, too."""
    firsts = [held for held in acked if held.flags & Flag.FIRST]
    found: list[Held] = []
    for chunk in chunks(sorted({held.body for held in firsts if held.body is not None})):
        rows = Message.objects.using(using).filter(body_id__in=chunk)
        found += hold(rows.exclude(pk__in=[held.position for held in firsts]).order_by("pk"), using)
    return found


def is_crowded(body: int) -> bool:
    """Whether so many messages share this payload that their removals do not look for what is left: each would step
    over what the ones before have removed, and all of them together would take a time that grows with the square.
    """
    return body < 0


def _without(ids: Collection[str], messages: list[Held]) -> list[Held]:
    return [held for held in messages if held.uid not in ids] if ids else messages


def discard_bodies(using: str, ids: Iterable[int]) -> int:
    """Remove those of these payloads that no message has any more.

    After the commit of the removal: of two transactions that remove the last two messages, the later one sees to it.
    Nothing begins to use a payload that is there, so that one without messages stays without.
    """
    removed = 0
    for chunk in chunks(sorted(ids)):
        removed += delete(using, unused_bodies(using, chunk), Body)
    return removed


def unused_bodies(using: str, ids: Sequence[int]) -> list[int]:
    used = Exists(Message.objects.filter(body_id=OuterRef("pk")))
    watched = Exists(Watch.objects.filter(body_id=OuterRef("pk")))
    return list(Body.objects.using(using).filter(~used, ~watched, pk__in=ids).values_list("pk", flat=True))
