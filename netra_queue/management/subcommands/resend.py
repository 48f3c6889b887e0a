"""``manage.py netra_queue resend <queue> …``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ... import operators
from .telling import add_json, known, tell

HELP = "Have the connections of queues look for messages now. What they have in flight is left alone."


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("queue", nargs="+", help="A queue's name, with all its devices, or that of one device's line.")
    add_json(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    count = operators.resend(known(options["queue"]))
    tell(command, options, count, f"queues and devices with connections: {count} rung")
