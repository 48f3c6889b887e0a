"""Upkeep: removing what nobody needs, in batches small enough not to stand in anybody's way.

Every function may run at any time, in any number of processes at once: rows that another one holds are left to it.
What was removed stays removed when a function is interrupted; the next run goes on where it ended.

Each does one batch after the other until a batch is short (there is no more) or ``budget_seconds`` are over. The batch
shrinks when the store is slow or gives up. While servers are running, each batch is followed by a pause for as long
as it took, and after the first one they are half as large, so that messages do not wait for the database. All raise
StoreUnavailable when the store does not even do the smallest.
``dry_run`` counts what would be removed, up to ``COUNT_LIMIT``, and changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from django.utils.module_loading import import_string

from . import conf, policies, signals
from .core.message import Priority
from .core.policy import Policy
from .core.statistics import Event
from .core.tracking import UndeliveredMessage
from .counting import adder
from .exceptions import BreakerOpen, StoreUnavailable
from .stores.base import Due, Overview, Store

logger = logging.getLogger(__name__)

BATCH = 1000  # rows in one transaction
BUDGET_SECONDS = 30.0
HAND_OVER_BATCH = 100  # messages given to one call of ON_UNDELIVERED
COUNT_LIMIT = 100_000  # rows that a count looks at, so that asking is quick whatever the table holds

SMALLEST_BATCH = 10
SHORTEST_PAUSE_SECONDS = 0.05  # while somebody else's probe is on its way
SLOW_BATCH_SECONDS = 2.0  # a batch that holds its rows for longer than this is too large; no pause is longer


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What one run removed (or, dry, would remove). ``finished``: nothing was left when it ended."""

    count: int
    finished: bool


def sweep(*, batch: int = BATCH, budget_seconds: float = BUDGET_SECONDS, dry_run: bool = False) -> Removal:
    """Remove expired messages, oldest expiry first. They count as lost to expiry, and their clients are told."""
    if dry_run:
        return _counted(_due().expired)
    store = policies.fresh_store()
    removal = _in_batches(store, store.sweep, batch, budget_seconds)
    adder.add(Event.SWEPT)
    return removal


def reap(*, dry_run: bool = False) -> Removal:
    """Remove the connections of server processes whose heartbeat stopped, and these processes."""
    if dry_run:
        return _counted(_due().connections)
    return Removal(count=policies.fresh_store().reap(), finished=True)


def forget_idle(*, batch: int = BATCH, budget_seconds: float = BUDGET_SECONDS, dry_run: bool = False) -> Removal:
    """Remove queues that are empty, without connections, and idle for IDLE_QUEUE_SECONDS."""
    if dry_run:
        return _counted(_due().idle_queues)
    store = policies.fresh_store()
    return _in_batches(store, store.forget_idle, batch, budget_seconds)


def forget_keys(*, batch: int = BATCH, budget_seconds: float = BUDGET_SECONDS, dry_run: bool = False) -> Removal:
    """Remove idempotency and collapse keys that have run out, and what was kept of tracked messages long enough."""
    if dry_run:
        return _counted(_due().keys)
    store = policies.fresh_store()
    return _in_batches(store, store.forget_keys, batch, budget_seconds)


def expire_lines(*, batch: int = BATCH, budget_seconds: float = BUDGET_SECONDS, dry_run: bool = False) -> Removal:
    """Forget devices that have not been connected for their policy's LINE_SECONDS, and what waits for them alone."""
    if dry_run:
        return _counted(_due().lines)
    store = policies.fresh_store()
    return _in_batches(store, store.expire_lines, batch, budget_seconds)


def forget_bodies(*, batch: int = BATCH, budget_seconds: float = BUDGET_SECONDS, dry_run: bool = False) -> Removal:
    """Remove payloads that several messages shared and none has any more. Dry, only those whose time is over."""
    if dry_run:
        return _counted(_due().bodies)
    store = policies.fresh_store()
    return _in_batches(store, store.forget_bodies, batch, budget_seconds)


def forget_letters(*, batch: int = BATCH, budget_seconds: float = BUDGET_SECONDS, dry_run: bool = False) -> Removal:
    """Remove dead letters that were kept for their policies' DEAD_LETTER_SECONDS."""
    if dry_run:
        return _counted(_due().letters)
    store = policies.fresh_store()
    return _in_batches(store, store.forget_letters, batch, budget_seconds)


def roll_up_statistics(*, batch: int = BATCH, budget_seconds: float = BUDGET_SECONDS) -> Removal:
    """Add statistics up: to a row a minute after an hour, to one an hour after two days; remove them after 31 days."""
    store = policies.fresh_store()
    return _in_batches(store, store.roll_up_statistics, batch, budget_seconds)


def hand_over(
    *, batch: int = HAND_OVER_BATCH, budget_seconds: float = BUDGET_SECONDS, dry_run: bool = False
) -> Removal:
    """Give what nobody has acked within UNDELIVERED_SECONDS to its policy's ON_UNDELIVERED, or to the signal.

    Each message once, in batches, each in a transaction with what is done about it. When that raises, the batch stays
    for the next run; the other policies' messages are still handed over, and the first error is raised at the end.
    """
    if dry_run:
        return _counted(_due().undelivered)
    store = policies.fresh_store()
    removals: list[Removal] = []
    errors: list[Exception] = []
    for policy in conf.policies():
        work = partial(_hand_over, policy)
        try:
            removals.append(_in_batches(store, work, batch, budget_seconds))
        except Exception as error:
            extra = {"action": "hand_over_failed", "policy": policy.name}
            logger.exception("messages of policy %s not handed over", policy.name, extra=extra)
            errors.append(error)
    if errors:
        raise errors[0]
    return Removal(count=sum(r.count for r in removals), finished=all(r.finished for r in removals))


def _hand_over(policy: Policy, limit: int) -> int:
    return policies.fresh_store().hand_over(policy.name, limit, partial(_receive, policy))


def _receive(policy: Policy, messages: tuple[UndeliveredMessage, ...]) -> None:
    if policy.on_undelivered is not None:
        import_string(policy.on_undelivered)(messages)
    elif signals.message_undelivered.has_listeners():
        signals.message_undelivered.send(sender=None, messages=messages)
    else:
        extra = {"action": "hand_over_unheard", "policy": policy.name}
        logger.warning("%d messages of policy %s handed over to nobody", len(messages), policy.name, extra=extra)


def purge(
    queue: str,
    priority: Priority | None = None,
    *,
    only_expired: bool = False,
    batch: int = BATCH,
    budget_seconds: float = BUDGET_SECONDS,
    dry_run: bool = False,
    on_batch: Callable[[int], None] = lambda removed: None,
) -> Removal:
    """Remove a queue's messages, all or those of one priority. They count as dropped, and the client is told.

    A queue that is unknown, or empty, is no error. Not finished while some are left that other transactions hold.
    ``only_expired``: those whose time is over; they count as expired. ``on_batch`` is called with how many are removed.
    For a queue with its lines, or many, see ``operators``.
    """
    store, removed = policies.fresh_store(), 0

    def matching() -> int:
        return store.matching([queue], priority, only_expired=only_expired)

    def remove(limit: int) -> int:
        nonlocal removed
        count = store.purge(queue, limit, priority, only_expired=only_expired)
        removed += count
        on_batch(removed)
        return count

    if dry_run:
        return Removal(count=matching(), finished=True)
    removal = _in_batches(store, remove, batch, budget_seconds)
    return Removal(count=removal.count, finished=removal.finished and not matching())


def stats(*, limit: int = 20) -> Overview:
    """Totals and the ``limit`` largest queues. Takes the same time whatever the tables hold (see ``Overview``)."""
    return policies.fresh_store().overview(limit, COUNT_LIMIT)


def is_known(queue: str) -> bool:
    """Whether the store has a queue of this name, or messages for one."""
    store = policies.fresh_store()
    return bool(store.describe([queue])) or store.stat(queue).messages > 0


def _due() -> Due:
    return policies.fresh_store().due(COUNT_LIMIT)


def _counted(count: int) -> Removal:
    return Removal(count=count, finished=count < COUNT_LIMIT)


def _in_batches(store: Store, remove: Callable[[int], int], batch: int, budget_seconds: float) -> Removal:
    """Call ``remove`` with the size of a batch until it removes less than that, or the time is over."""
    started = before = time.monotonic()
    removed, is_served = 0, None
    while True:
        try:
            count = remove(batch)
        except BreakerOpen as error:
            _wait_for_breaker(error, started + budget_seconds)
            before = time.monotonic()
            continue
        except StoreUnavailable:
            if batch <= SMALLEST_BATCH or time.monotonic() - started >= budget_seconds:
                raise
            batch, before = _smaller(batch, 4), time.monotonic()
            continue
        removed += count
        now = time.monotonic()
        if count < batch or now - started >= budget_seconds:
            return Removal(count=removed, finished=count < batch)
        if now - before > SLOW_BATCH_SECONDS:
            batch = _smaller(batch, 2)
        if is_served is None and (is_served := _is_served(store)):  # most calls are over with their first batch
            batch = _smaller(batch, 2)
        if is_served:
            time.sleep(min(now - before, SLOW_BATCH_SECONDS))
        before = time.monotonic()


def _smaller(batch: int, divisor: int) -> int:
    return max(min(batch, SMALLEST_BATCH), batch // divisor)


def _is_served(store: Store) -> bool:
    """Whether a server is running, whose clients may wait for messages."""
    try:
        return bool(store.loads(limit=1, scan=1))
    except StoreUnavailable:
        return True


def _wait_for_breaker(error: BreakerOpen, deadline: float) -> None:
    """Until it may be worth another try. Raises the error when the time is over before that."""
    seconds = error.retry_after_seconds or 0.0
    if time.monotonic() + seconds >= deadline:
        raise error
    time.sleep(max(seconds, SHORTEST_PAUSE_SECONDS))
