"""``manage.py netra_queue pause [<queue> …]``."""

from __future__ import annotations

import getpass
import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ... import maintenance, operators, policies
from ...stores.base import Pause
from .sweep import positive_float
from .telling import add_dry_run, add_json, misuse, moment, tell

HELP = "Let queues take messages and give none out, until they are resumed. Without a queue: which are paused."


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("queue", nargs="*", help="A queue's name, with all its devices, or that of one device's line.")
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--minutes", type=positive_float, help="It ends by itself then.")
    until.add_argument("--until", type=moment, metavar="TIME", help="It ends by itself then.")
    parser.add_argument("--reason", default="", help="Why, for those who wonder.")
    parser.add_argument("--by", help="Who (by default the user of the operating system).")
    add_dry_run(parser)
    add_json(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    queues, until = options["queue"], options["until"]
    if not queues:
        if until is not None or options["minutes"] is not None or options["reason"]:
            raise misuse("pause: expected names of queues.")
        command.stdout.write(listed(options["json"]))
        return
    if options["minutes"] is not None:
        until = policies.fresh_store().now() + timedelta(minutes=options["minutes"])
    by = _me() if options["by"] is None else options["by"]
    unknown = [name for name in queues if not maintenance.is_known(name)]
    count = operators.pause(queues, until=until, reason=options["reason"], by=by, dry_run=options["dry_run"])
    for name in unknown:
        command.stderr.write(f"There is no queue {name!r} yet.")
    end = "they are resumed" if until is None else f"{until:%Y-%m-%d %H:%M:%S %Z}"
    text = f"queues: {count} {'would be ' if options['dry_run'] else ''}paused until {end}"
    tell(command, options, count, text, until=until.isoformat() if until else None)


def _me() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return ""


def listed(is_json: bool) -> str:
    """What is paused, as text or JSON."""
    found = operators.paused()
    if is_json:
        return json.dumps([{"queue": name, **as_json(pause)} for name, pause in found], indent=2)
    return "\n".join(f"{name}: {as_text(pause)}" for name, pause in found) or "No queue is paused."


def as_json(pause: Pause) -> dict[str, Any]:
    until = pause.until.isoformat() if pause.until else None
    return {"since": pause.since.isoformat(), "until": until, "reason": pause.reason, "by": pause.by}


def as_text(pause: Pause) -> str:
    until = f" until {pause.until:%Y-%m-%d %H:%M:%S %Z}" if pause.until else ""
    by = f" by {pause.by}" if pause.by else ""
    reason = f": {pause.reason}" if pause.reason else ""
    return f"paused since {pause.since:%Y-%m-%d %H:%M:%S %Z}{until}{by}{reason}"
