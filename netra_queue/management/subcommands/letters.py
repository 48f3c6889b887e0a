"""``manage.py netra_queue letters``."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ... import letters
from ...core.message import LossReason
from ...stores.base import Letter
from .sweep import positive_int

HELP = "List dead letters, the newest first. Payloads are not shown."


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("queue", nargs="?", help="Only those of this queue, for example user.42.")
    parser.add_argument(
        "--reason", choices=[reason.value for reason in LossReason], help="Only those with this reason."
    )
    parser.add_argument("--limit", type=positive_int, default=20, help="At most so many (%(default)s).")
    parser.add_argument("--json", action="store_true", help="Write one JSON document.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    reason = LossReason(options["reason"]) if options["reason"] else None
    found = letters.letters(queue=options["queue"], reason=reason, limit=options["limit"])
    if options["json"]:
        command.stdout.write(json.dumps([as_json(letter) for letter in found], indent=2))
        return
    command.stdout.write(
        f"{'number':>10}  {'reason':<9}{'times':>6}{'bytes':>10}  {'set aside':<20}  message id, queue"
    )
    for letter in found:
        command.stdout.write(
            f"{letter.number:>10}  {letter.reason.value:<9}{letter.deliveries:>6}{letter.size:>10}  "
            f"{letter.died_at:%Y-%m-%d %H:%M:%S}   {letter.id}  {letter.queue}"
        )


def as_json(letter: Letter) -> dict[str, Any]:
    times = {name: getattr(letter, name).isoformat() for name in ("sent_at", "died_at", "keep_until")}
    return {
        "number": letter.number,
        "id": letter.id,
        "queue": letter.queue,
        "reason": letter.reason.value,
        "priority": letter.priority.name.lower(),
        "size": letter.size,
        "deliveries": letter.deliveries,
        **times,
    }
