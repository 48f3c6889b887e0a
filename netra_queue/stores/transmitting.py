"""What the database store notes of collapsing and tracked messages before it gives them out for the first time."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from django.db.models import F

from ..models import Flag, Message
from . import tracking
from .connecting import own_transaction
from .rows import chunks, lock

PAUSES_SECONDS = (0.01, 0.02, 0.04)
_NOTED, _TRANSMITTED = int(Flag.TRACKED | Flag.COLLAPSING), int(Flag.TRANSMITTED)  # enums are slow, once per message


def first_time(flags: int) -> bool:
    return bool(flags & _NOTED) and not flags & _TRANSMITTED


def mark(using: str, flags: Mapping[int, int], now: datetime, pauses: Sequence[float] = PAUSES_SECONDS) -> set[int]:
    """These messages, given with their flags, are about to be transmitted. Returns those that must not be.

    A collapsing message that a sender has in hand may be superseded any moment: it is left to it, and read by the next
    poll if it stays. Another reader lets go of it at once. A tracked one may be given out in any case.
    """
    wanted = flags.keys() - _mark(using, flags, now)
    wanted = {position for position in wanted if flags[position] & Flag.COLLAPSING}
    for pause in pauses:
        if not wanted or not _are_there(using, wanted):
            break
        time.sleep(pause)
        wanted -= _mark(using, wanted, now)
    return wanted


def transmit(using: str, positions: Collection[int], now: datetime) -> set[int]:
    """``mark`` for what was read some time ago. Returns those that are gone, too."""
    flags: dict[int, int] = {}
    for chunk in chunks(sorted(positions)):
        flags |= dict(Message.objects.using(using).filter(pk__in=chunk).values_list("pk", "flags"))
    fresh = {position: flag for position, flag in flags.items() if first_time(flag)}
    return (set(positions) - flags.keys()) | (mark(using, fresh, now) if fresh else set())


def _mark(using: str, positions: Collection[int], now: datetime) -> set[int]:
    """Returns those that could be marked."""
    with own_transaction(using):
        mine = lock(using, positions)
        fresh = [held for held in mine.values() if not held.flags & Flag.TRANSMITTED]
        for chunk in chunks([held.position for held in fresh]):
            transmitted = F("flags").bitor(int(Flag.TRANSMITTED))
            Message.objects.using(using).filter(pk__in=chunk).update(flags=transmitted)
        tracking.deliver(using, [held.uid for held in fresh if held.flags & Flag.TRACKED], now)
    return set(mine)


def _are_there(using: str, positions: Collection[int]) -> bool:
    return any(Message.objects.using(using).filter(pk__in=chunk).exists() for chunk in chunks(sorted(positions)))
