"""How the database store keeps only the newest waiting message of a collapse key.

A slot for each key and line has the position of its newest message. A sender locks the slot first, so that two senders
of one key take turns; then it removes what waits there, and puts its own message in. What a connection was sent, or
another transaction has in hand, is left alone: nobody waits for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from django.db import connections
from django.db.models import F, Sum

from ..core.message import Fate
from ..models import CollapseSlot, Flag, Message
from .connecting import own_transaction
from .removal import remove
from .rows import CHUNK, chunks, delete, hold, skipping_locked

Key = tuple[int, str]  # the line's id, and the digest of the collapse key
SLOTS_PER_STATEMENT = 100


def supersede(using: str, newest: Mapping[Key, datetime], now: datetime) -> dict[Key, CollapseSlot]:
    """Lock the slots of these keys, and remove the message that waits in each. ``newest``: when the new ones expire.

    In the caller's transaction, which ``point`` goes on with. Waits for other senders with the same key in the line.
    """
    slots = {_key(slot): slot for slot in _locked(using, newest)}
    for slot in slots.values():
        slot.expires_at = newest[_key(slot)]
    for slot in _remove_waiting(using, slots.values(), now):
        slot.superseded += 1
    return slots


def point(using: str, slots: Mapping[Key, CollapseSlot], positions: Mapping[Key, int], outdone: Counter[Key]) -> None:
    """The newest messages are there. ``outdone``: how many of the same call did not even get that far."""
    for key, slot in slots.items():
        slot.position, slot.superseded = positions[key], slot.superseded + outdone[key]
    fields = ["position", "superseded", "expires_at"]
    CollapseSlot.objects.using(using).bulk_update(slots.values(), fields, batch_size=SLOTS_PER_STATEMENT)


def _key(slot: CollapseSlot) -> Key:
    return slot.queue_id, slot.digest


def _locked(using: str, newest: Mapping[Key, datetime]) -> Iterator[CollapseSlot]:
    """The slots, in one order for all senders.

    One statement makes and locks them. INSERT IGNORE of MariaDB and MySQL would let two senders have a slot for
    reading, and then neither of them for writing.
    """
    names = None if connections[using].vendor == "mysql" else ["queue", "digest"]
    rows = [CollapseSlot(queue_id=q, digest=d, position=0, expires_at=newest[q, d]) for q, d in sorted(newest)]
    for chunk in chunks(rows):
        CollapseSlot.objects.using(using).bulk_create(
            chunk, update_conflicts=True, update_fields=["expires_at"], unique_fields=names
        )
    lines: dict[str, list[int]] = defaultdict(list)
    for queue, digest in sorted(newest):
        lines[digest].append(queue)
    for digest, queues in lines.items():
        for some in chunks(queues):
            yield from CollapseSlot.objects.using(using).filter(queue_id__in=some, digest=digest)


def _remove_waiting(using: str, slots: Collection[CollapseSlot], now: datetime) -> Iterator[CollapseSlot]:
    """Those of these slots whose message had not been transmitted; it is superseded now. What has expired is lost."""
    places = {slot.position: slot for slot in slots if slot.position}
    for chunk in chunks(sorted(places)):
        rows = Message.objects.using(using).filter(pk__in=chunk, expires_at__gt=now).order_by("pk")
        waiting = rows.alias(transmitted=F("flags").bitand(int(Flag.TRANSMITTED))).filter(transmitted=0)
        held = [one for one in hold(waiting, using) if one.queue == places[one.position].queue_id]
        remove(using, held, Fate.SUPERSEDED, now)
        yield from (places[one.position] for one in held)


def move(using: str, source: int, target: int, now: datetime) -> None:
    """The messages of one line have been moved to another: their slots follow.

    Waits for nobody, but for a transaction that is making the target's first slot of the same collapse key.
    Where both lines have a slot, the newer message stays. A slot of the target's that is in other hands wins: what it
    does not know of is not superseded then.
    """
    slots = CollapseSlot.objects.using(using)
    while True:
        with own_transaction(using):
            mine = list(skipping_locked(slots.filter(queue_id=source).order_by("pk"), using)[:CHUNK])
            if not mine:
                return
            theirs = slots.filter(queue_id=target, digest__in=[slot.digest for slot in mine]).order_by("pk")
            merged = {slot.digest: slot for slot in skipping_locked(theirs, using)}
            delete(using, [slot.pk for slot in mine], CollapseSlot)
            _merge(using, [(slot, merged[slot.digest]) for slot in mine if slot.digest in merged], now)
            there = set(theirs.values_list("digest", flat=True))  # an INSERT would wait for those in other hands
            moved = [_moved(slot, target) for slot in mine if slot.digest not in there]
            slots.bulk_create(moved, ignore_conflicts=True)


def forget_positions(using: str, queue: int, positions: Collection[int]) -> None:
    """These messages of a line have gone to where their slots cannot follow. A slot in other hands gets another one."""
    for chunk in chunks(sorted(positions)):
        slots = CollapseSlot.objects.using(using).filter(queue_id=queue, position__in=chunk).order_by("pk")
        mine = list(skipping_locked(slots, using).values_list("pk", flat=True))
        CollapseSlot.objects.using(using).filter(pk__in=mine).update(position=0)


def _moved(slot: CollapseSlot, target: int) -> CollapseSlot:
    return CollapseSlot(
        queue_id=target,
        digest=slot.digest,
        position=slot.position,
        superseded=slot.superseded,
        expires_at=slot.expires_at,
    )


def _merge(using: str, pairs: Sequence[tuple[CollapseSlot, CollapseSlot]], now: datetime) -> None:
    """Of each pair the second one is kept, and gets to know of both messages; the older one is superseded.

    Not by one that is gone: where that was dropped or acked, the older one is all that its line has.
    """
    older = []
    positions = [max(gone.position, kept.position) for gone, kept in pairs]
    there = set(Message.objects.using(using).filter(pk__in=positions).values_list("pk", flat=True))
    for gone, kept in pairs:
        earlier, later = sorted((gone.position, kept.position))
        if later in there:
            older.append(CollapseSlot(queue_id=kept.queue_id, digest=kept.digest, position=earlier))
        kept.position, kept.superseded = later, kept.superseded + gone.superseded
        kept.expires_at = max(gone.expires_at, kept.expires_at)
    slots = {_key(kept): kept for _, kept in pairs}
    removed = Counter(_key(slot) for slot in _remove_waiting(using, older, now))
    point(using, slots, {key: slot.position for key, slot in slots.items()}, removed)


def superseded(using: str, queues: Collection[int]) -> dict[int, int]:
    """How many messages the slots of these queues have superseded, by queue id; queues without any are left out."""
    found: dict[int, int] = {}
    for chunk in chunks(sorted(queues)):
        rows = CollapseSlot.objects.using(using).filter(queue_id__in=chunk, superseded__gt=0).order_by()
        found |= {queue: int(total) for queue, total in rows.values_list("queue_id").annotate(Sum("superseded"))}
    return found
