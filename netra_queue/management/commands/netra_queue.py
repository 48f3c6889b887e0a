"""``manage.py netra_queue <subcommand>``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...exceptions import InvalidMessage, NetraQueueError
from .. import subcommands


class Command(BaseCommand):
    help = "Looks after the message queues."

    def add_arguments(self, parser: CommandParser) -> None:
        choices = parser.add_subparsers(dest="subcommand", required=True, metavar="subcommand")
        for name in subcommands.NAMES:
            module = subcommands.load(name)
            module.add_arguments(choices.add_parser(name, help=module.HELP, description=module.HELP))

    def execute(self, *args: Any, **options: Any) -> str | None:
        if options["subcommand"] == "doctor":  # it runs them itself, and goes on when they find something
            options["skip_checks"] = True
        return super().execute(*args, **options)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            subcommands.load(options["subcommand"]).handle(self, options)
        except InvalidMessage as error:
            raise CommandError(str(error), returncode=2) from error
        except NetraQueueError as error:
            raise CommandError(str(error)) from error
