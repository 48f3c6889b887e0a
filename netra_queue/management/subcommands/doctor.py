"""``manage.py netra_queue doctor``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import trials
from ...health import Finding, Health, as_json, worst

HELP = (
    "Check the configuration and try each part for real: write, read and acknowledge a message, ring a bell. Says what "
    "is wrong and which page of the documentation helps. Exit status 1 if something does not work."
)


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="Write one JSON document.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    findings = asyncio.run(trials.examine())
    if options["json"]:
        overall = worst(one.health for one in findings).value
        command.stdout.write(json.dumps({"health": overall, "probes": as_json(findings)}, indent=2))
    else:
        command.stdout.write(as_text(findings))
    failed = [one.name for one in findings if one.health is Health.FAILED]
    if failed:
        raise CommandError(f"Not well: {', '.join(failed)}.")


def as_text(findings: Sequence[Finding]) -> str:
    width = max(len(one.name) for one in findings)
    return "\n".join(_line(one, width) for one in findings)


def _line(one: Finding, width: int) -> str:
    helps = "" if one.health is Health.OK else f" See {one.page}."
    text = one.text if one.text.endswith(".") else f"{one.text}."
    return f"{one.health.value:<6}  {one.name:<{width}}  {one.seconds:7.3f} s  {text}{helps}"
