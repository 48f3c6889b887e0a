"""What ``manage.py netra_queue`` can do. One module each, found by its name; see ``Subcommand``."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

from django.core.management.base import BaseCommand, CommandParser

NAMES = (
    "sweep",
    "stats",
    "statistics",
    "alerts",
    "inspect",
    "purge",
    "pause",
    "resume",
    "resend",
    "disconnect",
    "forget",
    "export",
    "recover",
    "letters",
    "requeue",
    "policies",
    "breaker",
    "rollout",
    "schedule",
    "doctor",
    "scenarios",
)


class Subcommand(Protocol):
    """What such a module has."""

    HELP: str

    def add_arguments(self, parser: CommandParser) -> None: ...

    def handle(self, command: BaseCommand, options: dict[str, Any]) -> None:
        """Do it. Writes to ``command.stdout``; raises CommandError for what the operator can put right."""


def load(name: str) -> Subcommand:
    return cast(Subcommand, import_module(f"{__name__}.{name}"))
