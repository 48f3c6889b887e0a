"""``manage.py netra_queue requeue <queue>`` and ``requeue --id <number>``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import letters, maintenance
from ...core.message import LossReason

HELP = "Put dead letters back into their queues: those of one queue, or one letter."


def add_arguments(parser: CommandParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("queue", nargs="?", help="The queue's name, for example user.42: all its dead letters.")
    which.add_argument("--id", type=int, metavar="NUMBER", help="One letter, by the number that `letters` shows.")
    parser.add_argument(
        "--reason", choices=[reason.value for reason in LossReason], help="Only those with this reason."
    )
    parser.add_argument("--dry-run", action="store_true", help="Only say how many there are.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    reason = LossReason(options["reason"]) if options["reason"] else None
    numbers = [options["id"]] if options["id"] is not None else _of_queue(options["queue"], reason)
    if options["dry_run"]:
        command.stdout.write(f"dead letters: {len(numbers)} would be requeued")
        return
    requeued = letters.requeue(numbers)
    command.stdout.write(f"dead letters: {requeued.count} requeued")
    if requeued.refused:
        raise CommandError(f"{len(requeued.refused)} stay: their queues have no room for them")
    if options["id"] is not None and not requeued.count:
        raise CommandError(f"There is no dead letter {options['id']}.")


def _of_queue(queue: str, reason: LossReason | None) -> list[int]:
    found = letters.letters(queue=queue, reason=reason, limit=maintenance.COUNT_LIMIT)
    if not found and not maintenance.is_known(queue):
        raise CommandError(f"There is no queue {queue!r}.")
    return [letter.number for letter in found]
