"""``manage.py netra_queue stats``."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ... import maintenance
from ...stores.base import Overview, QueueStat
from .pause import as_json as pause_as_json
from .sweep import positive_int
from .telling import misuse

HELP = "Show totals and the largest queues. Quick whatever the tables hold: nothing is counted beyond a limit."
TOTALS = ("messages", "size", "expired", "queues", "paused", "connections", "servers")


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--limit", type=positive_int, default=20, help="How many of the largest queues (%(default)s).")
    parser.add_argument("--json", action="store_true", help="Write one JSON document.")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="Again and again, so far apart, until Ctrl-C.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    seconds = options["watch"]
    if seconds is not None and not seconds > 0:
        raise misuse(f"--watch: expected seconds above 0, got {seconds:g}.")
    with suppress(KeyboardInterrupt):
        while True:
            overview = maintenance.stats(limit=options["limit"])
            command.stdout.write(as_json(overview) if options["json"] else as_text(overview))
            command.stdout.flush()
            if seconds is None:
                return
            time.sleep(seconds)


def as_json(overview: Overview) -> str:
    largest = [
        {
            "queue": stat.queue,
            "messages": stat.messages,
            "size": stat.size,
            "oldest_at": stat.oldest_at.isoformat() if stat.oldest_at else None,
            "superseded": stat.superseded,
            "pause": pause_as_json(stat.pause) if stat.pause else None,
        }
        for stat in overview.largest
    ]
    totals = {key: value for key, value in asdict(overview).items() if key in (*TOTALS, "complete")}
    return json.dumps({**totals, "largest": largest}, indent=2)


def as_text(overview: Overview) -> str:
    lines = [f"{name:<12}{getattr(overview, name):>12}{_unit(name)}" for name in TOTALS]
    if not overview.complete:
        lines.append(f"Counted up to {maintenance.COUNT_LIMIT}; sizes and queues below are of the oldest messages.")
    if overview.largest:
        lines += [
            "",
            f"{'messages':>10}{'bytes':>14}{'superseded':>12}  {'oldest':<20}  queue",
            *map(_row, overview.largest),
        ]
    return "\n".join(lines)


def _unit(name: str) -> str:
    return " bytes" if name == "size" else ""


def _row(stat: QueueStat) -> str:
    oldest = stat.oldest_at.strftime("%Y-%m-%d %H:%M:%S") if stat.oldest_at else ""
    paused = " (paused)" if stat.pause else ""
    return f"{stat.messages:>10}{stat.size:>14}{stat.superseded:>12}  {oldest:<20}  {stat.queue}{paused}"
