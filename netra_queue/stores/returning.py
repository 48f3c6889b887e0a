"""How the database store takes back what was read for a connection: not acked, not permitted, or left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from ..core.message import Draft, Fate, Losses, Priority
from ..core.policy import Policy, left_out
from ..exceptions import MessageTooLarge
from ..models import LiveConnection, Message, queue_id
from . import presence
from .appending import place
from .connecting import own_transaction
from .reading import fetch
from .removal import remove
from .rows import Held, chunks, is_due, lock
from .set_aside import count_delivery
from .values import Presence, Returned, Surplus, deliveries_after


def returned(using: str, returns: Sequence[Returned], now: datetime) -> int:
    """Count these deliveries, and set aside what has been delivered too often. Returns how many that were.

    Rows in other hands are left alone: they are being removed, or counted by somebody else.
    """
    by_position: dict[int, list[Returned]] = defaultdict(list)
    for some in returns:
        for position in some.positions:
            by_position[position].append(some)
    return sum(
        _count_some(using, {position: by_position[position] for position in chunk}, now)
        for chunk in chunks(sorted(by_position))
    )


def _count_some(using: str, by_position: Mapping[int, list[Returned]], now: datetime) -> int:
    with own_transaction(using):
        held = lock(using, by_position)
        before = dict(Message.objects.using(using).filter(pk__in=list(held)).values_list("pk", "deliveries"))
        steps: dict[int, list[int]] = defaultdict(list)
        dead = []
        for position, message in held.items():
            mine = [some for some in by_position[position] if queue_id(some.queue) == message.queue]
            count, is_dead = deliveries_after(before[position], mine)
            steps[count - before[position]].append(position)
            dead += [message] if is_dead else []
        for step, positions in steps.items():
            if step:
                count_delivery(using, positions, step)
        return remove(using, dead, Fate.DEAD, now)


def withhold(using: str, positions: Mapping[str, Collection[int]], now: datetime) -> dict[str, set[int]]:
    """Remove what a client may not see. Returns the positions that are in other hands."""
    owners = {queue_id(name): name for name in positions}
    left: dict[str, set[int]] = defaultdict(set)
    for chunk in chunks(sorted({position for some in positions.values() for position in some})):
        with own_transaction(using):
            held = lock(using, chunk)
            mine = [m for m in held.values() if m.queue in owners and m.position in positions[owners[m.queue]]]
            remove(using, mine, Fate.WITHHELD, now)
            rows = Message.objects.using(using).filter(pk__in=[p for p in chunk if p not in held])
            for position, queue in rows.filter(queue_id__in=list(owners)).values_list("pk", "queue_id"):
                left[owners[queue]].add(position)
    found = {name: some & set(positions[name]) for name, some in left.items()}
    return {name: some for name, some in found.items() if some}


def surplus(using: str, presence_: Presence, policy: Policy, now: datetime, before: datetime) -> Surplus:
    """What this client, which has just been attached, is not to get. None while another living connection is there."""
    id = queue_id(presence_.queue)
    living = LiveConnection.objects.using(using).filter(queue_id=id, server__heartbeat_at__gt=presence.lease(now))
    if living.exclude(pk=presence_.id).exists():
        return Surplus((), ())
    rows = Message.objects.using(using).filter(is_due(now), queue_id=id, expires_at__gt=now, created_at__lte=before)
    waiting = rows.values_list("pk", "priority", "created_at")
    ages = [(position, Priority(urgency), (now - sent_at).total_seconds()) for position, urgency, sent_at in waiting]
    positions = left_out(policy.replay, ages)
    found = fetch(using, positions) if policy.replay.digest is not None else {}
    messages = sorted(found.values(), key=lambda message: (message.priority, message.position))
    return Surplus(tuple(positions), tuple(messages))


def leave_out(
    using: str, line: str, positions: Collection[int], digest: Draft | None, policy: Policy, now: datetime
) -> tuple[int, Losses]:
    """In one transaction. Without a message left to remove, the digest is not appended: a repeated call does nothing.

    Raises QueueFull or MessageTooLarge, and leaves everything as it was, when the queue does not take the digest.
    """
    id = queue_id(line)
    with own_transaction(using, savepoint=True):
        held = [message for message in lock(using, positions).values() if message.queue == id]
        for fate, some in _by_fate(using, held, policy).items():
            remove(using, some, fate, now)
        if digest is not None and held and not place(using, digest, (line,), policy, now):
            raise MessageTooLarge(line, size=digest.payload.size, limit=policy.max_bytes)
        waiting = Message.objects.using(using).filter(is_due(now), queue_id=id)[: policy.max_messages].count()
        return waiting, presence.losses(using, {id: line}).get(line, Losses())


def _by_fate(using: str, held: Sequence[Held], policy: Policy) -> dict[Fate, list[Held]]:
    if not policy.rollout.is_shadow:
        return {Fate.LEFT_OUT: list(held)}
    rows = Message.objects.using(using).filter(pk__in=[one.position for one in held], deliveries__gt=0)
    transmitted = set(rows.values_list("pk", flat=True))
    found: dict[Fate, list[Held]] = defaultdict(list)
    for one in held:
        found[Fate.UNCONFIRMED if one.position in transmitted else Fate.MISSED].append(one)
    return found
