"""``manage.py netra_queue forget <line>``."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import operators
from ...core.message import base_of, client_of
from ...stores import current_store
from ...validation import check_address
from .telling import add_dry_run, add_json, add_yes, confirm, misuse

HELP = "Give a device up: it is disconnected, and what waits for it alone is removed."


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("line", help="The device's line, for example user.42/phone-7f3a.")
    add_dry_run(parser)
    add_json(parser)
    add_yes(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    line, dry_run = check_address(options["line"]), options["dry_run"]
    if not client_of(line):
        raise misuse(f"forget: expected a device's line, such as user.42/phone-7f3a, got {line}.")
    if line not in {found.name for found in current_store().lines(base_of(line))}:
        raise CommandError(f"There is no device {line!r}.")
    confirm(f"Give up {line}, and the messages that wait for it alone?", options)
    count = operators.forget(line, dry_run=dry_run)
    if options["json"]:
        command.stdout.write(json.dumps({"count": count, "dry_run": dry_run}, indent=2))
    else:
        command.stdout.write(f"{line}: {count} messages {'wait for it' if dry_run else 'removed; it is forgotten'}")
