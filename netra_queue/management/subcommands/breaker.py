"""``manage.py netra_queue breaker``."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ... import controls, operating, policies
from ...core.controls import ForcedBreaker
from .telling import misuse

HELP = "Force the breakers of all processes open or closed for a while, or have them do again what the store shows."
MINUTES = 15.0
MOST_MINUTES = 24 * 60.0


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("word", nargs="?", choices=["open", "closed", "auto"], help="Without it: what is forced now.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"For how long (default {MINUTES:g}).")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    store, word, minutes = policies.fresh_store(), options["word"], options["minutes"]
    if not 0 < minutes <= MOST_MINUTES:
        raise misuse(f"--minutes: expected above 0 and at most {MOST_MINUTES:g}, got {minutes:g}.")
    if word is not None:
        until = store.now() + timedelta(minutes=minutes)
        forced = None if word == "auto" else ForcedBreaker(is_open=word == "open", until=until)
        operating.carry_out(operating.breaker_forced(forced))
        controls.refresh(store)
    command.stdout.write(_described(controls.current().breaker))


def _described(forced: ForcedBreaker | None) -> str:
    if forced is None:
        return "The breakers do what the store shows."
    return (
        f"The breakers are forced {'open' if forced.is_open else 'closed'} until {forced.until:%Y-%m-%d %H:%M:%S} UTC."
    )
