"""``manage.py netra_queue export <queue>``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import operators
from .telling import bar, known

HELP = "Write what waits in a queue and its devices as lines of JSON, with payloads. Changes nothing."


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("queue", help="A queue's name, with all its devices, or that of one device's line.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    (queue,) = known([options["queue"]])
    is_shown = not command.stdout.isatty() and command.stderr.isatty()
    total = operators.purge([queue], dry_run=True) if is_shown else 0
    count = 0
    with bar(command, is_wanted=is_shown) as progress:
        for count, line in enumerate(operators.export(queue), 1):
            command.stdout.write(line)
            progress(min(count, total), total)
    if not count:
        raise CommandError("Nothing matched.")
