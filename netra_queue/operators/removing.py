"""Messages that are removed, and dead letters that are put back."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from functools import partial

from .. import letters, maintenance, policies
from ..core.message import LossReason, Priority
from ..exceptions import InvalidMessage
from ..letters import Requeued
from ..stores.base import Store
from ..validation import check_address, check_priority
from .naming import Progress, families, no_progress, steps


def purge(
    queues: Iterable[str],
    *,
    priorities: Collection[Priority] | None = None,
    only_expired: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> int:
    """Remove the messages of these queues and their lines, in bounded batches. Returns how many.

    They count as dropped, those that ``only_expired`` is about as expired, and clients are told. ``priorities``: only
    these; None: all. What other transactions hold is left to them. For all queues, give ``all_queues()``.
    """
    tell, store = progress or no_progress, policies.fresh_store()
    wanted = None if priorities is None else [check_priority(priority) for priority in priorities]
    names = families(queues)
    total = _matching(store, names, wanted, only_expired)
    if dry_run:
        return total
    done = 0

    def step(begun: int, count: int) -> None:
        tell(min(begun + count, total), total)

    for name in names:
        for priority in wanted if wanted is not None else [None]:
            removal = maintenance.purge(
                name, priority, only_expired=only_expired, budget_seconds=float("inf"), on_batch=partial(step, done)
            )
            done += removal.count
    return done


def _matching(store: Store, names: list[str], priorities: list[Priority] | None, only_expired: bool) -> int:
    return sum(
        store.matching(step, priority, only_expired=only_expired)
        for step in steps(names)
        for priority in (priorities if priorities is not None else [None])
    )


def requeue(
    *,
    queue: str | None = None,
    reason: LossReason | None = None,
    since: datetime | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Requeued:
    """Put dead letters back into their queues, oldest first: those of a queue and its lines (None: of all), for one
    reason (None: for any), set aside ``since`` then. At most 100,000 at a time. See ``letters.requeue``.
    """
    if since is not None and (not isinstance(since, datetime) or since.tzinfo is None):
        raise InvalidMessage("since", expected="a time with its time zone", got=since)
    names = [None] if queue is None else families([check_address(queue)])
    limit, numbers = maintenance.COUNT_LIMIT, list[int]()
    for name in names:
        found = policies.fresh_store().letters(limit - len(numbers), queue=name, reason=reason, since=since)
        numbers += [letter.number for letter in found]
        if len(numbers) == limit:
            break
    if dry_run:
        return Requeued(count=len(numbers), refused=())
    return letters.requeue(numbers, progress=progress)
