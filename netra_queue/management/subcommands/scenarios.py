"""``manage.py netra_queue scenarios``."""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections, router
from django.db.migrations.executor import MigrationExecutor

from ...models import Message
from ...testing import shutdown

HELP = "Play the nine scenarios of a lost connection against a server on a free loopback port, on this database."
SERVERS = ("daphne", "uvicorn")
COLUMNS = ("sent", "received", "lost", "repeated", "out_of_order")


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--server", choices=SERVERS, default="daphne", help="The ASGI server (%(default)s).")
    parser.add_argument("--raw", action="store_true", help="With a client that does not speak netra-queue.v1.")
    parser.add_argument("--only", type=int, metavar="N", help="Play scenario N alone.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    try:
        from ..scenarios import plays, server
    except ImportError as error:
        raise CommandError(f"{error}: pip install 'netra-queue[scenarios]'") from error
    _require_tables()
    server.configure()
    names = [name for number, name in enumerate(plays.PLAYS, 1) if options["only"] in (None, number)]
    command.stdout.write(f"{'scenario':<28}" + "".join(f"{column:>14}" for column in COLUMNS) + f"{'seconds':>10}")
    try:
        with tempfile.TemporaryFile() as log, server.running(options["server"], log=log) as running:
            results = asyncio.run(_play(command, names, plays.Stage(running, options["raw"])))
    finally:
        shutdown()
    if failed := sum(bool(result.problems) for result in results):
        raise CommandError(f"{failed} of {len(results)} scenarios do not hold")


def _require_tables() -> None:
    alias = router.db_for_write(Message)
    executor = MigrationExecutor(connections[alias])
    if executor.migration_plan(executor.loader.graph.leaf_nodes("netra_queue")):
        raise CommandError(f"The database {alias!r} lacks tables of netra_queue: run `manage.py migrate` first.")


async def _play(command: BaseCommand, names: list[str], stage: Any) -> list[Any]:
    from ..scenarios import plays

    results = []
    for name in names:
        result = await plays.play(name, stage)
        counts = "".join(f"{getattr(result, column):>14}" for column in COLUMNS)
        command.stdout.write(f"{name:<28}{counts}{result.seconds:>10.2f}  {'FAILED' if result.problems else 'ok'}")
        for problem in result.problems:
            command.stderr.write(f"    {problem}")
        results.append(result)
    return results
