"""``manage.py netra_queue <subcommand>``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...exceptions import NetraQueueError
from .. import subcommands


class Command(BaseCommand):
    help = "Looks after the message queues."

    def add_arguments(self, parser: CommandParser) -> None:
        choices = parser.add_subparsers(dest="subcommand", required=True, metavar="subcommand")
        for name in subcommands.NAMES:
            module = subcommands.load(name)
            module.add_arguments(choices.add_parser(name, help=module.HELP, description=module.HELP))

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            subcommands.load(options["subcommand"]).handle(self, options)
        except NetraQueueError as error:
            raise CommandError(str(error)) from error
