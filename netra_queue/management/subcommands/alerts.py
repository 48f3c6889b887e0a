"""``manage.py netra_queue alerts``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ... import alerts
from ...core.alerting import Alert

HELP = (
    "Evaluate the alerts, as the task netra_queue.alerts does, and show those that go on. Tells of changes by log, "
    "signal and mail. Exit status 2 while any goes on."
)
GOES_ON = 2


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="Write one JSON document.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    found = alerts.evaluate()
    if options["json"]:
        command.stdout.write(json.dumps([as_json(alert) for alert in found], indent=2))
    else:
        command.stdout.write("\n\n".join(map(alerts.as_text, found)) or "No alert.")
    if found:
        raise CommandError(f"{len(found)} alerts go on.", returncode=GOES_ON)


def as_json(alert: Alert) -> dict[str, Any]:
    rule = alerts.rule_of(alert.name)
    return {
        **{key: value for key, value in asdict(alert).items() if key != "resolved_at"},
        "state": alert.state.value,
        "opened_at": alert.opened_at.isoformat(),
        "acknowledged_at": alert.acknowledged_at.isoformat() if alert.acknowledged_at else None,
        "severity": rule.severity.value if rule else None,
        "summary": rule.summary if rule else None,
        "runbook": rule.runbook if rule else None,
    }
