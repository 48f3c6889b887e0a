"""Which messages the database store hands over when nobody has acked them in time.

A row for each, written with the send; the first ack removes it, in its own transaction. One that is being handed over
is in other hands: its ack is left for a moment, and made again. So a message that was acked is never handed over, and
nobody waits for what it is handed to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial

from django.db.models import QuerySet

from .. import conf
from ..core.message import Draft, Fate, Payload, PayloadKind, Priority
from ..core.policy import Policy
from ..core.tracking import UndeliveredMessage
from ..core.wire import decoded
from ..models import Flag, Message, Watch
from .connecting import afterwards, own_transaction
from .rows import Held, chunks, delete, skipping_locked

Receive = Callable[[tuple[UndeliveredMessage, ...]], None]
UNWATCHING = (Fate.SUPERSEDED, Fate.WITHHELD)  # a newer one is watched instead; the client may not know of it


def due_at(draft: Draft, policy: Policy, now: datetime) -> datetime | None:
    """When the draft's message is to be handed over; None: never."""
    seconds = policy.undelivered.get(draft.priority)
    return None if seconds is None else (draft.sent_at or now) + timedelta(seconds=seconds)


def begin(
    using: str, drafts: Iterable[Draft], policies: Mapping[str, Policy], bodies: Mapping[str, int | None], now: datetime
) -> None:
    """Watch those of these drafts that are in the store and whose policy says so."""
    rows = [
        Watch(
            uid=draft.id,
            name=draft.queue,
            policy=policies[draft.queue].name,
            body_id=body,
            priority=int(draft.priority),
            kind=int(draft.payload.kind),
            created_at=draft.sent_at or now,
            due_at=due,
        )
        for draft in drafts
        if (body := bodies.get(draft.id)) is not None and (due := due_at(draft, policies[draft.queue], now)) is not None
    ]
    if rows:
        Watch.objects.using(using).bulk_create(rows, ignore_conflicts=True)  # a repeat finds its own


def release(using: str, messages: Iterable[Held]) -> set[str]:
    """These are acked: watch them no more. Returns the ids of those that are in other hands."""
    uids = sorted({held.uid for held in messages if held.flags & Flag.WATCHED})
    busy: set[str] = set()
    for chunk in chunks(uids):
        rows = Watch.objects.using(using).filter(uid__in=chunk).order_by("pk")
        mine = dict(skipping_locked(rows, using).values_list("uid", "pk"))
        if len(mine) < len(chunk):
            busy.update(set(rows.values_list("uid", flat=True)) - mine.keys())
        delete(using, mine.values(), Watch)
    return busy


def end(using: str, messages: Iterable[Held], fate: Fate) -> None:
    """These messages have left their lines, in the caller's transaction. What was lost is handed over all the same."""
    bodies = {held.uid: held.body for held in messages if held.flags & Flag.WATCHED}
    if bodies and fate in UNWATCHING:
        afterwards(using, partial(_forget, using, bodies, fate))


def _forget(using: str, bodies: Mapping[str, int | None], fate: Fate) -> None:
    """What one line's client may not see is watched as long as it waits in another line."""
    waiting: set[str] = set()
    for some in chunks(sorted(body for body in bodies.values() if body is not None and fate is Fate.WITHHELD)):
        waiting.update(Message.objects.using(using).filter(body_id__in=some).values_list("uid", flat=True))
    for chunk in chunks(sorted(bodies.keys() - waiting)):
        with own_transaction(using):
            rows = Watch.objects.using(using).filter(uid__in=chunk).order_by("pk")
            delete(using, list(skipping_locked(rows, using).values_list("pk", flat=True)), Watch)


def due(using: str, policy: str, limit: int, now: datetime) -> list[int]:
    """Up to ``limit`` rows of this policy whose time has come, longest ago first. The default policy also has those of
    policies that are no more."""
    rows = all_due(using, now)
    known = [known.name for known in conf.policies()]
    rows = rows.exclude(policy__in=[name for name in known if name != policy]) if policy == "default" else rows
    rows = rows if policy == "default" else rows.filter(policy=policy)
    return list(rows.values_list("pk", flat=True)[:limit])


def all_due(using: str, now: datetime) -> QuerySet[Watch]:
    return Watch.objects.using(using).filter(due_at__lte=now).order_by("due_at", "pk")


def take(using: str, ids: Collection[int]) -> tuple[set[int], tuple[UndeliveredMessage, ...]]:
    """Lock those of these rows that are there and in nobody else's hands. Returns their payloads' ids, and them.

    Payloads are read afterwards: not every database can lock the rows of one table only.
    """
    columns = ("name", "uid", "priority", "kind", "created_at", "body_id", "body__payload")
    bodies: set[int] = set()
    messages: list[UndeliveredMessage] = []
    for chunk in chunks(sorted(ids)):
        rows = Watch.objects.using(using).filter(pk__in=chunk).order_by("pk")
        mine = list(skipping_locked(rows, using).values_list("pk", flat=True))
        found = Watch.objects.using(using).filter(pk__in=mine).order_by("pk").values_list(*columns)
        for name, uid, priority, kind, sent_at, body, text in found:
            payload = Payload(PayloadKind(kind), text, len(text))
            bodies.add(body)
            messages.append(
                UndeliveredMessage(
                    id=uid, queue=name, priority=Priority(priority), sent_at=sent_at, data=decoded(payload)
                )
            )
        delete(using, mine, Watch)
    return bodies, tuple(messages)
