"""``manage.py netra_queue purge <queue>``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import maintenance
from ...core.message import Priority
from .sweep import report

HELP = "Remove the messages of one queue. They count as dropped, and the client is told."


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("queue", help="The queue's name, for example user.42.")
    parser.add_argument(
        "--priority", choices=[priority.name.lower() for priority in Priority], help="Only messages of this priority."
    )
    parser.add_argument("--dry-run", action="store_true", help="Only say how many would be removed.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    queue, dry_run = options["queue"], options["dry_run"]
    if not maintenance.is_known(queue):
        raise CommandError(f"There is no queue {queue!r}.")
    priority = Priority[options["priority"].upper()] if options["priority"] else None
    removal = maintenance.purge(queue, priority, dry_run=dry_run)
    which = f"messages of {queue}" + (f" with priority {options['priority']}" if priority is not None else "")
    command.stdout.write(report(which, removal, dry_run=dry_run))
