"""``manage.py netra_queue purge <queue> …`` and ``purge --all``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ... import operators
from ...core.message import Priority
from .telling import add_dry_run, add_json, add_yes, bar, confirm, known, misuse, tell

HELP = "Remove the messages of queues and their devices. They count as dropped, and clients are told."


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("queue", nargs="*", help="A queue's name, for example user.42, or that of one device's line.")
    parser.add_argument("--all", action="store_true", help="All queues.")
    parser.add_argument(
        "--priority",
        action="append",
        choices=[priority.name.lower() for priority in Priority],
        help="Only messages of this priority; may be given several times.",
    )
    parser.add_argument(
        "--only-expired", action="store_true", help="Only those whose time is over: they count as expired."
    )
    add_dry_run(parser)
    add_json(parser)
    add_yes(parser)


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    queues, dry_run = options["queue"], options["dry_run"]
    if bool(queues) == options["all"]:
        raise misuse("purge: expected names of queues, or --all.")
    known(queues)
    which = "all queues" if options["all"] else queues[0] if len(queues) == 1 else f"{len(queues)} queues"
    if options["all"]:
        confirm("Remove messages of all queues?", options)
    names = [name.lower() for name in options["priority"] or ()]
    count, is_done = _purge(command, options, [Priority[name.upper()] for name in names])
    what = "expired messages" if options["only_expired"] else "messages"
    with_priority = f" with priority {', '.join(names)}" if names else ""
    more = "" if is_done else "; there are more, run it again"
    text = f"{what} of {which}{with_priority}: {count} {'would be ' if dry_run else ''}removed{more}"
    tell(command, options, count, text, is_done=is_done)


def _purge(command: BaseCommand, options: dict[str, Any], priorities: list[Priority]) -> tuple[int, bool]:
    """Returns how many were removed, and whether that were all; other transactions may hold some."""

    def purge(progress: operators.Progress | None, *, dry_run: bool) -> int:
        return operators.purge(
            operators.all_queues() if options["all"] else options["queue"],
            priorities=priorities or None,
            only_expired=options["only_expired"],
            dry_run=dry_run,
            progress=progress,
        )

    with bar(command) as progress:
        count = purge(progress, dry_run=options["dry_run"])
    return count, options["dry_run"] or purge(None, dry_run=True) == 0
