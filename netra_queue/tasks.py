"""Upkeep as Celery tasks. ``manage.py netra_queue schedule`` has django-celery-beat start them.

Two at once do no harm. Each ends well before its soft time limit; the limit is for a database that does not answer.
"""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.signals import worker_process_shutdown

from . import alerts, maintenance, statistics

BUDGET_SECONDS = 20.0
SOFT_LIMIT_SECONDS = 50
HAND_OVER_SOFT_LIMIT_SECONDS = 240  # a batch that is cut off is handed over again


@shared_task(name="netra_queue.sweep", ignore_result=True, soft_time_limit=SOFT_LIMIT_SECONDS)  # type: ignore[untyped-decorator]
def sweep() -> None:
    """Remove expired messages."""
    maintenance.sweep(budget_seconds=BUDGET_SECONDS)


@shared_task(name="netra_queue.upkeep", ignore_result=True, soft_time_limit=SOFT_LIMIT_SECONDS)  # type: ignore[untyped-decorator]
def upkeep() -> None:
    """Remove what nobody needs any more: connections of dead server processes, devices that stay away, idle queues,
    keys, receipts and dead letters that have run out, shared payloads without a message. Add old statistics up.
    """
    maintenance.reap()
    for remove in (
        maintenance.expire_lines,
        maintenance.forget_keys,
        maintenance.forget_bodies,
        maintenance.forget_letters,
        maintenance.roll_up_statistics,
        maintenance.forget_idle,
    ):
        remove(budget_seconds=BUDGET_SECONDS / 6)


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def write_statistics(**kwargs: Any) -> None:
    """A worker's child process ends without what Python does at the end of others."""
    statistics.close()


@shared_task(name="netra_queue.hand_over", ignore_result=True, soft_time_limit=HAND_OVER_SOFT_LIMIT_SECONDS)  # type: ignore[untyped-decorator]
def hand_over() -> None:
    """Give what nobody has acked in time to its policy's ON_UNDELIVERED."""
    maintenance.hand_over(budget_seconds=BUDGET_SECONDS)


@shared_task(name="netra_queue.alerts", ignore_result=True, soft_time_limit=SOFT_LIMIT_SECONDS)  # type: ignore[untyped-decorator]
def evaluate_alerts() -> None:
    """Open and resolve alerts."""
    alerts.evaluate()
