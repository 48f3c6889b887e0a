"""How the database store keeps queues within their limits, and counts what that costs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime

from django.db.models import Case, Count, Sum, Value, When

from ..core.message import Fate, Priority
from ..core.policy import Candidate, Growth, Overflow, Policy, choose_victims
from ..exceptions import QueueFull
from ..models import Message, Queue, new_queue, queue_id
from . import seen
from .removal import remove
from .rows import CHUNK, Held, lock, lock_queues

FIRST_STEP = 16  # candidates looked at first: most often one has to go


def expire_queues(using: str, queues: Collection[int], now: datetime) -> int:
    """Remove and count the expired messages of these queues. In the caller's transaction.

    Looked for without locks: MariaDB and MySQL would lock the next message to expire as well, whoever's it is. And with
    CASE, so that no database looks at what has expired elsewhere.
    """
    is_due = Case(When(expires_at__lte=now, then=Value(True)), default=Value(False))
    rows = Message.objects.using(using).filter(queue_id__in=list(queues)).alias(is_due=is_due).filter(is_due=True)
    return remove(using, lock(using, rows.values_list("id", flat=True)).values(), Fate.EXPIRED, now)


def enforce(
    using: str, added: Mapping[str, Growth], policies: Mapping[str, Policy], now: datetime, *, exact: bool
) -> set[int]:
    """Bring these queues within their limits. ``added``: what this transaction has just inserted in each.

    Returns the positions that had to go. Raises QueueFull where the policy rejects. ``exact``: take turns with other
    senders (a row lock per queue) where together they could exceed a limit.
    """
    ids = {queue_id(name): name for name in added}
    far = seen.far_from_full(using, {id: (added[name], policies[name]) for id, name in ids.items()})
    ids = {id: name for id, name in ids.items() if id not in far}
    if not ids:
        return set()
    found = totals(using, ids)
    seen.note(using, found.items())
    if exact:
        near = [id for id, name in ids.items() if policies[name].is_near_full(*found[id], added=added[name])]
        if near:
            _take_turns(using, {id: ids[id] for id in near}, now)
            found |= totals(using, near)
    removed: set[int] = set()
    for id, name in ids.items():
        if policies[name].is_full(*found[id]):
            removed |= _make_room(using, id, name, policies[name], now)
    return removed


def far_from_full(using: str, added: Mapping[int, tuple[Growth, Policy]]) -> set[int]:
    """Those of these queues, by id, that may have what is ``added`` without being counted: ``seen`` says so.

    One that this process has not counted for long is counted before: that takes a statement, where counting what was
    inserted takes a transaction.
    """
    if stale := seen.stale(using, added):
        seen.note(using, totals(using, stale).items())
    return seen.far_from_full(using, added)


def _take_turns(using: str, queues: Mapping[int, str], now: datetime) -> None:
    """Lock the rows of these queues; rows that are missing are made."""
    missing = queues.keys() - lock_queues(using, queues.values())
    if missing:
        rows = [new_queue(queues[id], now) for id in sorted(missing)]
        Queue.objects.using(using).bulk_create(rows, ignore_conflicts=True)
        lock_queues(using, queues.values())


def totals(using: str, queues: Collection[int]) -> dict[int, tuple[int, int]]:
    rows = Message.objects.using(using).filter(queue_id__in=list(queues)).values_list("queue_id").order_by()
    found = {id: (count, size) for id, count, size in rows.annotate(Count("id"), Sum("size"))}
    return {id: found.get(id, (0, 0)) for id in queues}


def _make_room(using: str, id: int, name: str, policy: Policy, now: datetime) -> set[int]:
    expire_queues(using, [id], now)
    messages, size = totals(using, [id])[id]
    if not policy.is_full(messages, size):
        return set()
    if policy.overflow is Overflow.REJECT:
        raise QueueFull(
            name, messages=messages, limit_messages=policy.max_messages, size=size, limit_bytes=policy.max_bytes
        )
    return drop_surplus(using, id, policy, messages, size, now)


def drop_surplus(using: str, id: int, policy: Policy, messages: int, size: int, now: datetime) -> set[int]:
    """Remove what is too much of ``messages`` and ``size`` bytes, by the order of the policy's overflow.

    Returns the positions.
    """
    victims = _take_victims(using, id, policy, messages, size)
    remove(using, victims.values(), Fate.DROPPED, now)
    return set(victims)


def _take_victims(using: str, id: int, policy: Policy, messages: int, size: int) -> dict[int, Held]:
    """Choose and lock what has to go, and nothing else: a row that is only looked at stays free for acks and senders.

    For a victim that another transaction holds, the next one in order goes; one that is gone needs no replacement.
    """
    candidates = _candidates(using, id, policy.overflow)
    taken: dict[int, Held] = {}
    freed = 0
    while victims := choose_victims(candidates, policy, messages=messages, size=size):
        mine = lock(using, [victim.position for victim in victims])
        taken |= mine
        freed += sum(victim.size for victim in victims if victim.position in mine)
        if len(mine) == len(victims):
            break
        messages, size = totals(using, [id])[id]
        messages, size = messages - len(taken), size - freed
    return taken


def _candidates(using: str, id: int, overflow: Overflow) -> Iterator[Candidate]:
    """The queue's messages in removal order, fetched in steps, each an index scan. Locks nothing."""
    order = "id" if overflow is Overflow.DROP_OLDEST else "-id"
    for priority in reversed(Priority):
        rows = Message.objects.using(using).filter(queue_id=id, priority=priority).order_by(order)
        last: int | None = None
        length = FIRST_STEP
        while True:
            beyond = rows if last is None else rows.filter(**{"id__gt" if order == "id" else "id__lt": last})
            step = list(beyond.values_list("id", "size")[:length])
            yield from (Candidate(position, priority, size) for position, size in step)
            if len(step) < length:
                break
            last, length = step[-1][0], CHUNK
