"""``manage.py netra_queue resume <queue> …`` and ``resume --all``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ... import operators
from .telling import add_dry_run, add_json, misuse, tell

HELP = "Let queues that were paused give out again what they hold, at once."


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("queue", nargs="*", help="A name that `pause` was given.")
    parser.add_argument("--all", action="store_true", help="All that are paused.")
    add_dry_run(parser)
    add_json(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    if bool(options["queue"]) == options["all"]:
        raise misuse("resume: expected names of queues, or --all.")
    names = [name for name, _ in operators.paused()] if options["all"] else options["queue"]
    count = operators.resume(names, dry_run=options["dry_run"])
    tell(command, options, count, f"queues: {count} {'would be ' if options['dry_run'] else ''}resumed")
