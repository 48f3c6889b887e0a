"""``manage.py netra_queue requeue``: dead letters back into their queues."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import letters, operators
from ...core.message import LossReason
from ...letters import Requeued
from .telling import add_dry_run, add_json, bar, known, misuse, moment, tell

HELP = "Put dead letters back into their queues: those of a queue and its devices, for a reason, since a time, or one."


def add_arguments(parser: CommandParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("queue", nargs="?", help="The queue's name, for example user.42.")
    which.add_argument("--id", type=int, metavar="NUMBER", help="One letter, by the number that `letters` shows.")
    which.add_argument("--all", action="store_true", help="Whatever queue they are of.")
    parser.add_argument(
        "--reason", choices=[reason.value for reason in LossReason], help="Only those with this reason."
    )
    parser.add_argument("--since", type=moment, metavar="TIME", help="Only those set aside then or later.")
    add_dry_run(parser)
    add_json(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    if options["queue"] is None and options["id"] is None and not options["all"]:
        raise misuse("requeue: expected the name of a queue, --id, or --all.")
    with bar(command) as progress:
        requeued = _one(options) if options["id"] is not None else _chosen(options, progress)
    done = "would be requeued" if options["dry_run"] else "requeued"
    if requeued.refused:
        command.stdout.write(f"dead letters: {requeued.count} {done}")
        raise CommandError(f"{len(requeued.refused)} stay: their queues have no room for them")
    tell(command, options, requeued.count, f"dead letters: {requeued.count} {done}", refused=len(requeued.refused))


def _one(options: dict[str, Any]) -> Requeued:
    number: int = options["id"]
    requeued = Requeued(count=1, refused=()) if options["dry_run"] else letters.requeue([number])
    if not requeued.count and not requeued.refused:
        raise CommandError(f"There is no dead letter {number}.")
    return requeued


def _chosen(options: dict[str, Any], progress: operators.Progress) -> Requeued:
    queue, reason = options["queue"], options["reason"]
    requeued = operators.requeue(
        queue=queue,
        reason=LossReason(reason) if reason else None,
        since=options["since"],
        dry_run=options["dry_run"],
        progress=progress,
    )
    if not requeued.count and not requeued.refused and queue is not None:
        known([queue])
    return requeued
