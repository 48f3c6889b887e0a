"""How the database store keeps queues within their limits, and counts what that costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from django.db import connections
from django.db.models import Count, QuerySet, Sum

from ..core.message import LossReason, Priority
from ..core.policy import Candidate, Overflow, Policy, choose_victims
from ..exceptions import QueueFull
from ..models import Loss, Message, Queue, queue_id

Item = TypeVar("Item")
CHUNK = 500  # ids in one statement: below every database's limit of parameters
SLACK = 64  # messages that concurrent senders may add unseen before they are made to take turns


def chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def skipping_locked(rows: QuerySet[Message], using: str) -> QuerySet[Message]:
    """Lock these rows, in their order, without those that another transaction holds: no waiting, so no deadlock."""
    has_skip = connections[using].features.has_select_for_update_skip_locked
    return rows.select_for_update(skip_locked=has_skip)


def delete(using: str, positions: Iterable[int]) -> int:
    """Delete messages by primary key, in ascending order."""
    removed = 0
    for chunk in chunks(sorted(positions)):
        removed += Message.objects.using(using).filter(pk__in=chunk)._raw_delete(using)
    return removed


def record_losses(using: str, reason: LossReason, lost: Iterable[tuple[int, int]], now: datetime) -> None:
    """Count messages that were removed, given as pairs of queue id and priority."""
    rows = [
        Loss(queue_id=queue, reason=reason.value, priority=priority, count=count, since=now)
        for (queue, priority), count in sorted(Counter(lost).items())
    ]
    if rows:
        Loss.objects.using(using).bulk_create(rows)


def expire_queue(using: str, queue: int, now: datetime) -> int:
    """Remove and count the expired messages of one queue. In the caller's transaction."""
    due = Message.objects.using(using).filter(queue_id=queue, expires_at__lte=now).order_by("id")
    rows = list(skipping_locked(due, using).values_list("id", "priority"))
    delete(using, [position for position, _ in rows])
    record_losses(using, LossReason.EXPIRED, [(queue, priority) for _, priority in rows], now)
    return len(rows)


def enforce(
    using: str, added: Mapping[str, int], policies: Mapping[str, Policy], now: datetime, *, exact: bool
) -> set[int]:
    """Bring these queues within their limits. ``added``: how many messages this transaction has just inserted in each.

    Returns the positions that had to go. Raises QueueFull where the policy rejects. ``exact``: take turns with other
    senders (a row lock per queue, in order of id) where together they could exceed a limit.
    """
    ids = {queue_id(name): name for name in added}
    totals = _totals(using, ids)
    if exact:
        near = [
            id for id, name in ids.items() if policies[name].is_near_full(*totals[id], slack=max(SLACK, added[name]))
        ]
        if near:
            _take_turns(using, {id: ids[id] for id in near}, now)
            totals |= _totals(using, near)
    removed: set[int] = set()
    for id, name in ids.items():
        if policies[name].is_full(*totals[id]):
            removed |= _make_room(using, id, name, policies[name], now)
    return removed


def _take_turns(using: str, queues: Mapping[int, str], now: datetime) -> None:
    """Lock the rows of these queues, in the order of their ids; rows that are missing are made."""
    rows = Queue.objects.using(using).filter(pk__in=list(queues)).order_by("pk").select_for_update()
    locked = set(rows.values_list("pk", flat=True))
    missing = [Queue(id=id, name=queues[id], created_at=now, idle_since=now) for id in sorted(queues.keys() - locked)]
    if missing:
        Queue.objects.using(using).bulk_create(missing, ignore_conflicts=True)
        list(rows.values_list("pk", flat=True))


def _totals(using: str, queues: Collection[int]) -> dict[int, tuple[int, int]]:
    rows = Message.objects.using(using).filter(queue_id__in=list(queues)).values_list("queue_id").order_by()
    found = {id: (count, size) for id, count, size in rows.annotate(Count("id"), Sum("size"))}
    return {id: found.get(id, (0, 0)) for id in queues}


def _make_room(using: str, id: int, name: str, policy: Policy, now: datetime) -> set[int]:
    expire_queue(using, id, now)
    messages, size = _totals(using, [id])[id]
    if not policy.is_full(messages, size):
        return set()
    if policy.overflow is Overflow.REJECT:
        raise QueueFull(
            name, messages=messages, limit_messages=policy.max_messages, size=size, limit_bytes=policy.max_bytes
        )
    victims = choose_victims(_candidates(using, id, policy.overflow), policy, messages=messages, size=size)
    delete(using, [victim.position for victim in victims])
    record_losses(using, LossReason.DROPPED, [(id, victim.priority) for victim in victims], now)
    return {victim.position for victim in victims}


def _candidates(using: str, id: int, overflow: Overflow) -> Iterator[Candidate]:
    """The queue's messages in removal order, fetched in steps, each an index scan."""
    order = "id" if overflow is Overflow.DROP_OLDEST else "-id"
    for priority in reversed(Priority):
        rows = Message.objects.using(using).filter(queue_id=id, priority=priority).order_by(order)
        last: int | None = None
        while True:
            beyond = rows if last is None else rows.filter(**{"id__gt" if order == "id" else "id__lt": last})
            step = list(skipping_locked(beyond, using).values_list("id", "size")[:CHUNK])
            yield from (Candidate(position, priority, size) for position, size in step)
            if len(step) < CHUNK:
                break
            last = step[-1][0]
