"""``manage.py netra_queue recover``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import operators
from .telling import add_dry_run, add_json, bar

HELP = (
    "After a crash or with a restored backup: remove what dead servers have left, put damaged messages right, ring "
    "every queue that holds messages. Exit status 1 if messages were damaged."
)


def add_arguments(parser: CommandParser) -> None:
    add_dry_run(parser)
    add_json(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    dry_run = options["dry_run"]
    with bar(command) as progress:
        report = operators.recover(dry_run=dry_run, progress=progress)
    if options["json"]:
        command.stdout.write(json.dumps({**asdict(report), "dry_run": dry_run}, indent=2))
    else:
        would = "would be " if dry_run else ""
        command.stdout.write(
            f"connections of dead server processes: {report.connections} {would}removed\n"
            f"messages: {report.messages} looked at\n"
            f"messages with a wrong size: {report.resized} {would}corrected\n"
            f"messages without their payload: {report.lost} {would}removed, and counted as dropped\n"
            f"queues and devices with messages: {report.queues} {would}rung"
        )
    if not report.is_well:
        raise CommandError(f"{report.resized + report.lost} messages were damaged.")
