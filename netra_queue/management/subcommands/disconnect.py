"""``manage.py netra_queue disconnect <queue>``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ... import operators
from ...operators.disconnecting import AFTER_SECONDS
from .telling import add_dry_run, add_json, known, tell

HELP = "Close the connections of a queue or device. Their clients are told when to come back; nothing is lost."


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("queue", help="A queue's name, with all its devices, or that of one device's line.")
    parser.add_argument("--connection", metavar="ID", help="Only this one; the admin's live connections have the ids.")
    parser.add_argument(
        "--after",
        type=float,
        default=AFTER_SECONDS,
        metavar="SECONDS",
        help="They come back after so long at the earliest, and half as long again at the latest (%(default)g).",
    )
    add_dry_run(parser)
    add_json(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    (queue,) = known([options["queue"]])
    count = operators.disconnect(
        queue, connection=options["connection"], after_seconds=options["after"], dry_run=options["dry_run"]
    )
    tell(
        command, options, count, f"connections of {queue}: {count} {'would be' if options['dry_run'] else 'are'} closed"
    )
