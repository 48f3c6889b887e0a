"""What the database store keeps of tracked messages: one row each, which outlives the message.

The row is written with the send. An ack marks it in its own transaction. Other ends are noted after their commit, once
no line has a copy left: of two transactions that take the last two copies, neither sees before that what the other did.
And a sender's transaction, which may be long, holds no row then that others want to mark.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import connections
from django.db.models import Q

from ..core.message import Draft, Fate
from ..core.policy import Policy
from ..core.tracking import Tracked
from ..models import Flag, Message, TrackedMessage, queue_id
from .connecting import afterwards, own_transaction
from .rows import Held, chunks

UNENDED = Q(fate="")
UNACKED = ~Q(fate=Fate.ACKED.value)


def begin(
    using: str,
    drafts: Iterable[Draft],
    policies: Mapping[str, Policy],
    bodies: Mapping[str, int | None],
    now: datetime,
) -> None:
    """Track those of these drafts that ask for it. ``bodies``: by id; a draft that has none is superseded already."""
    rows = [_row(draft, policies[draft.queue], bodies, now) for draft in drafts if draft.track]
    if rows:
        TrackedMessage.objects.using(using).bulk_create(rows, ignore_conflicts=True)  # a repeat finds its own


def _row(draft: Draft, policy: Policy, bodies: Mapping[str, int | None], now: datetime) -> TrackedMessage:
    sent_at = draft.sent_at or now
    expires_at = sent_at + timedelta(seconds=draft.ttl_seconds)
    is_superseded = draft.id not in bodies
    return TrackedMessage(
        uid=draft.id,
        queue_id=queue_id(draft.queue),
        body_id=bodies.get(draft.id),
        created_at=sent_at,
        expires_at=expires_at,
        ended_at=now if is_superseded else None,
        fate=Fate.SUPERSEDED.value if is_superseded else "",
        keep_until=(now if is_superseded else expires_at) + timedelta(seconds=policy.track_seconds),
    )


def deliver(using: str, uids: Sequence[str], now: datetime) -> None:
    """These are about to be transmitted. In the caller's transaction."""
    for chunk in chunks(sorted(uids)):
        rows = TrackedMessage.objects.using(using).filter(uid__in=chunk, delivered_at=None)
        _update(using, list(rows.values_list("pk", flat=True)), Q(delivered_at=None), delivered_at=now)


def end(using: str, messages: Iterable[Held], fate: Fate, now: datetime) -> None:
    """These messages have left their lines, in the caller's transaction."""
    tracked = {held.uid: held.body for held in messages if held.flags & Flag.TRACKED}
    if not tracked:
        return
    if fate is Fate.ACKED:
        _end(using, tracked, fate, UNACKED, now)
    else:
        afterwards(using, partial(_end_if_gone, using, tracked, fate, now))


def _end_if_gone(using: str, tracked: Mapping[str, int | None], fate: Fate, now: datetime) -> None:
    """Of two transactions that take the last two copies, the one that commits last sees to it."""
    left: set[str] = set()
    for chunk in chunks(sorted({body for body in tracked.values() if body is not None})):
        left.update(Message.objects.using(using).filter(body_id__in=chunk).values_list("uid", flat=True))
    with own_transaction(using):
        _end(using, tracked.keys() - left, fate, UNENDED, now)


def _end(using: str, uids: Collection[str], fate: Fate, unless: Q, now: datetime) -> None:
    """It is kept for as long after its end as it was to be kept after its expiry."""
    found: dict[timedelta, list[int]] = defaultdict(list)
    for chunk in chunks(sorted(uids)):
        rows = TrackedMessage.objects.using(using).filter(unless, uid__in=chunk)
        for pk, ended_at, expires_at, keep_until in rows.values_list("pk", "ended_at", "expires_at", "keep_until"):
            found[keep_until - (ended_at or expires_at)].append(pk)
    for keep, ids in found.items():
        _update(using, ids, unless, fate=fate.value, ended_at=now, keep_until=now + keep)


def _update(using: str, ids: Collection[int], condition: Q, **values: Any) -> None:
    """In the order of the ids, which no unit of work takes against another one's. MariaDB and MySQL go along the key
    anyway, and an UPDATE of theirs, unlike FOR UPDATE, does not wait for rows that it only passes."""
    for chunk in chunks(sorted(ids)):
        rows = TrackedMessage.objects.using(using).filter(condition, pk__in=chunk)
        if connections[using].vendor != "mysql":
            list(rows.order_by("pk").select_for_update().values_list("pk", flat=True))
        rows.update(**values)


def tracked(using: str, ids: Collection[str]) -> dict[str, Tracked]:
    """What is kept of these messages."""
    columns = ("uid", "created_at", "expires_at", "delivered_at", "ended_at", "fate", "keep_until")
    found: dict[str, Tracked] = {}
    for chunk in chunks(sorted(ids)):
        rows = TrackedMessage.objects.using(using).filter(uid__in=chunk).values_list(*columns)
        for uid, sent_at, expires_at, delivered_at, ended_at, fate, keep_until in rows:
            found[uid] = Tracked(
                sent_at=sent_at,
                expires_at=expires_at,
                keep_seconds=(keep_until - (ended_at or expires_at)).total_seconds(),
                delivered_at=delivered_at,
                ended_at=ended_at,
                fate=Fate(fate) if fate else None,
            )
    return found
