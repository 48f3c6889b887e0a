"""``manage.py netra_queue sweep``: all upkeep once, for cron and for hands."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ... import maintenance

HELP = (
    "Remove expired messages, connections of dead server processes, devices that stay away, idle queues, unused "
    "payloads, keys, receipts and dead letters that have run out; add old statistics up; hand over what nobody has "
    "acked in time."
)


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="Only say what would be removed.")
    parser.add_argument(
        "--batch", type=positive_int, default=maintenance.BATCH, help="Rows in one transaction (%(default)s)."
    )
    parser.add_argument(
        "--budget-seconds",
        type=positive_float,
        default=maintenance.BUDGET_SECONDS,
        help="Begin no batch of one kind after this time (%(default)s).",
    )


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    dry_run: bool = options["dry_run"]
    in_batches = {"batch": options["batch"], "budget_seconds": options["budget_seconds"], "dry_run": dry_run}
    jobs = {
        "expired messages": partial(maintenance.sweep, **in_batches),
        "connections of dead server processes": partial(maintenance.reap, dry_run=dry_run),
        "devices that stay away": partial(maintenance.expire_lines, **in_batches),
        "keys and receipts that have run out": partial(maintenance.forget_keys, **in_batches),
        "shared payloads that no message has": partial(maintenance.forget_bodies, **in_batches),
        "dead letters that were kept long enough": partial(maintenance.forget_letters, **in_batches),
        "idle queues": partial(maintenance.forget_idle, **in_batches),
    }
    for what, job in jobs.items():
        command.stdout.write(report(what, job(), dry_run=dry_run))
    if not dry_run:
        added_up = maintenance.roll_up_statistics(batch=options["batch"], budget_seconds=options["budget_seconds"])
        command.stdout.write(report("old statistics", added_up, dry_run=False, done="added up or removed"))
    handed_over = maintenance.hand_over(budget_seconds=options["budget_seconds"], dry_run=dry_run)
    command.stdout.write(report("unacknowledged messages", handed_over, dry_run=dry_run, done="handed over"))


def report(what: str, removal: maintenance.Removal, *, dry_run: bool, done: str = "removed") -> str:
    more = "" if removal.finished else (" or more" if dry_run else "; there are more, run it again")
    return f"{what}: {removal.count} {'would be ' if dry_run else ''}{done}{more}"


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value
