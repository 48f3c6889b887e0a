"""Dead letters: messages that were set aside for an operator, as their policies' ``DEAD_LETTERS`` says.

All may be called at the same time as any other; what somebody else has dealt with meanwhile is no error. All raise
StoreUnavailable. Not for use on a running event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from . import policies, sending
from .core.message import LossReason
from .exceptions import MessageTooLarge, QueueFull
from .stores import current_store
from .stores.base import Letter

MOST_LISTED = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Requeued:
    """``count``: how many messages wait again. ``refused``: the letters that stay: their queues have no room."""

    count: int
    refused: tuple[int, ...]


def letters(*, queue: str | None = None, reason: LossReason | None = None, limit: int = MOST_LISTED) -> list[Letter]:
    """The newest ``limit`` letters; of one queue (or line), for one reason. Without payloads."""
    return current_store().letters(limit, queue=queue, reason=reason)


def requeue(numbers: Iterable[int], *, progress: Callable[[int, int], None] | None = None) -> Requeued:
    """Put these letters' messages back into their queues, oldest first, each in a transaction of its own.

    The message keeps its id, priority and time of sending, and has all its time to live before it. The queue's limits
    hold: it may push others out, or be refused. ``progress`` is called with how many are dealt with, and of how many.
    """
    store, rung, refused, count = policies.fresh_store(), set[str](), list[int](), 0
    ordered = sorted(set(numbers))
    try:
        for done, number in enumerate(ordered):
            if progress is not None:
                progress(done, len(ordered))
            try:
                answer = store.requeue(number)
            except (QueueFull, MessageTooLarge):
                refused.append(number)
                continue
            if answer is not None:
                count += 1
                rung.update(answer.lines)
    finally:
        if rung:
            store.after_commit(lambda: sending.announce(rung))
    return Requeued(count=count, refused=tuple(refused))


def delete(numbers: Collection[int]) -> int:
    """Delete these letters for good. Returns how many there were."""
    return current_store().delete_letters(numbers)
