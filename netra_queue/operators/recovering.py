"""After a crash, or with a backup that was restored: what nobody would find out soon, or ever, is put right."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from .. import maintenance, policies, sending
from ..stores.base import Store
from .naming import STEP, Progress, no_progress

logger = logging.getLogger(__name__)

CHECKED_TOGETHER = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoverReport:
    """``connections``: of dead servers, removed. ``queues``: they hold messages, and whoever is connected was rung.
    ``messages``: looked at; of these, ``resized``: their size was not their payload's, and ``lost``: their payload was
    gone, so they were removed, and count as dropped. With ``dry_run``: what would have been done.
    """

    connections: int
    queues: int
    messages: int
    resized: int
    lost: int

    @property
    def is_well(self) -> bool:
        """Whether no message was damaged."""
        return not self.resized and not self.lost


def recover(*, dry_run: bool = False, progress: Progress | None = None) -> RecoverReport:
    """Remove the connections of dead servers, put right what messages say of themselves, and ring every queue that
    holds messages. May be called at any time, and repeated.

    How many messages and bytes a queue holds is counted from its messages whenever it is asked for, so that it agrees
    with them by itself; their sizes are looked at here. A server counts as dead once it has missed three heartbeats.
    """
    store = policies.fresh_store()
    reaped = maintenance.reap(dry_run=dry_run)
    messages, resized, lost = _mend(store, dry_run, progress or no_progress)
    report = RecoverReport(
        connections=reaped.count, queues=_ring(store, dry_run), messages=messages, resized=resized, lost=lost
    )
    if not dry_run:
        logger.info("recovered: %s", report, extra={"action": "recovered"})
    return report


def _mend(store: Store, dry_run: bool, progress: Progress) -> tuple[int, int, int]:
    overview = maintenance.stats(limit=1)
    total = overview.messages if overview.complete else 0
    messages = resized = lost = last = 0
    while (step := store.mend(CHECKED_TOGETHER, last, dry_run=dry_run)).last is not None:
        last = step.last
        messages, resized, lost = messages + step.checked, resized + step.resized, lost + step.lost
        progress(min(messages, total) if total else messages, total)
    return messages, resized, lost


def _ring(store: Store, dry_run: bool) -> int:
    count, last = 0, None
    while names := store.filled(STEP, last):
        if not dry_run:
            sending.announce(names)
        count, last = count + len(names), names[-1]
    return count
