"""What subcommands have in common: how they say what they did, how far they are, and that there was nothing to do.

Exit status: 0 done; 1 nothing matched, or a problem was found; 2 it was called wrongly (``misuse``).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from ... import maintenance
from ...operators import Progress
from ...validation import check_address

BAR_WIDTH = 30
BAR_EVERY_SECONDS = 0.1


def misuse(text: str) -> CommandError:
    """For what the operator has to say differently."""
    return CommandError(text, returncode=2)


def add_dry_run(parser: CommandParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="Only say how many there are.")


def add_json(parser: CommandParser) -> None:
    parser.add_argument("--json", action="store_true", help="Write one JSON document.")


def add_yes(parser: CommandParser) -> None:
    parser.add_argument("--yes", action="store_true", help="Do not ask.")


def confirm(question: str, options: dict[str, Any]) -> None:
    """Ask the operator, unless with ``--yes`` or for a dry run. Raises CommandError for any answer but "yes"."""
    if options["yes"] or options["dry_run"]:
        return
    if not sys.stdin.isatty():
        raise misuse(f"{question} There is nobody to ask: say --yes.")
    if input(f"{question} Type yes: ").strip().lower() != "yes":
        raise CommandError("Nothing was done.")


def tell(command: BaseCommand, options: dict[str, Any], count: int, text: str, **more: Any) -> None:
    """Say what was done to ``count``, as text or as JSON. Raises CommandError when that was nothing."""
    if options.get("json"):
        document = {"count": count, "dry_run": bool(options.get("dry_run")), **more}
        command.stdout.write(json.dumps(document, indent=2))
    else:
        command.stdout.write(text)
    if not count:
        raise CommandError("Nothing matched.")


def known(names: Sequence[str]) -> Sequence[str]:
    """The same. Raises CommandError for a queue that the store has never heard of."""
    for name in names:
        if not maintenance.is_known(check_address(name)):
            raise CommandError(f"There is no queue {name!r}.")
    return names


def moment(text: str) -> datetime:
    """The type of an argument: a time, in the project's time zone unless it names one."""
    try:
        found = parse_datetime(text)
    except ValueError:
        found = None
    if found is None:
        raise argparse.ArgumentTypeError(f"expected a time such as 2026-01-31T12:00 or 2026-01-31T12:00Z, got {text}")
    return found if timezone.is_aware(found) else timezone.make_aware(found)


@contextmanager
def bar(command: BaseCommand, *, is_wanted: bool = True) -> Iterator[Progress]:
    """A bar on a terminal's standard error that is gone afterwards; elsewhere nothing."""
    if not is_wanted or not command.stderr.isatty():
        yield lambda done, total: None
        return
    shown_at = float("-inf")

    def show(done: int, total: int) -> None:
        nonlocal shown_at
        if (now := time.monotonic()) - shown_at >= BAR_EVERY_SECONDS:
            shown_at = now
            command.stderr.write(f"\r{_drawn(done, total)}", _plain, ending="")
            command.stderr.flush()

    try:
        yield show
    finally:
        command.stderr.write(f"\r{'':<{BAR_WIDTH + 40}}\r", _plain, ending="")


def _plain(text: str) -> str:
    return text


def _drawn(done: int, total: int) -> str:
    if total <= 0:
        return f"{done} done"
    filled = BAR_WIDTH * done // total
    return f"[{'#' * filled}{' ' * (BAR_WIDTH - filled)}] {done} of {total}, {100 * done // total} %"
