"""Dead letters in the database: listed, put back into their queues, deleted, and forgotten in time."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from .. import conf
from ..core.message import Draft, LossReason, Outcome, Payload, PayloadKind, Priority
from ..exceptions import MessageTooLarge
from ..models import DeadLetter, Queue, queue_id
from .appending import place
from .connecting import own_transaction
from .devices import destination
from .rows import CHUNK, chunks, delete, skipping_locked
from .values import Appended, Letter, no_room


def letters(
    using: str, limit: int, queue: str | None, reason: LossReason | None, since: datetime | None
) -> list[Letter]:
    rows = DeadLetter.objects.using(using).order_by("-pk")
    if queue is not None:
        rows = rows.filter(queue_id=queue_id(queue))
    if reason is not None:
        rows = rows.filter(reason=reason.value)
    if since is not None:
        rows = rows.filter(died_at__gte=since)
    found = list(rows.defer("payload")[:limit])
    names: dict[int, str] = {}
    for chunk in chunks(sorted({row.queue_id for row in found})):
        names |= dict(Queue.objects.using(using).filter(pk__in=chunk).values_list("pk", "name"))
    return [
        Letter(
            number=row.pk,
            queue=names.get(row.queue_id, f"#{row.queue_id}"),
            id=row.uid,
            reason=LossReason(row.reason),
            priority=Priority(row.priority),
            size=row.size,
            deliveries=row.deliveries,
            sent_at=row.created_at,
            died_at=row.died_at,
            keep_until=row.keep_until,
        )
        for row in found
    ]


def requeue(using: str, number: int, now: datetime) -> Appended | None:
    """The message goes into its line, if that is still in use, and otherwise to where its queue's messages go.

    None: it is gone, or in other hands. Raises QueueFull or MessageTooLarge, and keeps it, when it does not fit.
    """
    with own_transaction(using, savepoint=True):
        letter = skipping_locked(DeadLetter.objects.using(using).filter(pk=number), using).first()
        queue = Queue.objects.using(using).filter(pk=letter.queue_id).first() if letter is not None else None
        if letter is None or queue is None:
            return None
        policy = conf.policy_of(queue.name, queue.policy)
        if letter.size > policy.max_message_bytes:
            raise MessageTooLarge(queue.name, size=letter.size, limit=policy.max_message_bytes)
        places = place(using, _draft(letter, queue, now), destination(using, queue.name, policy, now), policy, now)
        if not places:
            raise no_room(queue.name, letter.size, policy)
        delete(using, [number], DeadLetter)
        return Appended(letter.uid, Outcome.QUEUED, next(iter(places.values())), tuple(places))


def _draft(letter: DeadLetter, queue: Queue, now: datetime) -> Draft:
    """As old as it is, with all its time to live before it."""
    priority = Priority(letter.priority)
    fresh_seconds = conf.policy_of(queue.name, queue.policy).ttl_for(priority)
    return Draft(
        queue=queue.name,
        id=letter.uid,
        payload=Payload(PayloadKind(letter.kind), letter.payload, letter.size),
        priority=priority,
        ttl_seconds=(now - letter.created_at).total_seconds() + fresh_seconds,
        sent_at=letter.created_at,
    )


def delete_letters(using: str, numbers: Collection[int]) -> int:
    """Those in other hands are left."""
    removed = 0
    for chunk in chunks(sorted(numbers)):
        with own_transaction(using):
            rows = DeadLetter.objects.using(using).filter(pk__in=chunk).order_by("pk")
            removed += delete(using, list(skipping_locked(rows, using).values_list("pk", flat=True)), DeadLetter)
    return removed


def forget_letters(using: str, limit: int, now: datetime) -> int:
    removed = 0
    old = DeadLetter.objects.using(using).filter(keep_until__lte=now).order_by("keep_until")
    while removed < limit:
        with own_transaction(using):
            rows = list(skipping_locked(old, using).values_list("pk", flat=True)[: min(CHUNK, limit - removed)])
            removed += delete(using, rows, DeadLetter)
        if len(rows) < CHUNK:
            break
    return removed
