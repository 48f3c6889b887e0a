"""How the database store talks to a Django database: own transactions, retries, errors, dead connections."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from django.db import Error, InterfaceError, InternalError, OperationalError, connections, transaction

from ..exceptions import StoreUnavailable
from ..models import ServerProcess

Result = TypeVar("Result")
ATTEMPTS = 5
# PostgreSQL: serialization failure, deadlock. MySQL: deadlock, lock wait timeout. SQLite says it in words.
_TRANSIENT_CODES = {"40001", "40P01", 1213, 1205, 1020}
# What a former primary answers after a failover. The last two of MySQL: read-only transaction, read-only mode.
_READ_ONLY_CODES = {"25006", 1290, 1792, 1836}


def is_in_transaction(using: str) -> bool:
    """Whether the calling thread has a transaction open on this database."""
    return connections[using].in_atomic_block


@contextmanager
def own_transaction(using: str, *, savepoint: bool = False) -> Iterator[None]:
    """A transaction of ours, or the caller's if there is one; with ``savepoint``, an error in it undoes only our part.

    SQLite fails at once, whatever its timeout, when a transaction that began by reading wants to write after another
    one has written. So ours begins with a write there, even though it changes nothing. Elsewhere ours has to see what
    others have committed meanwhile, whatever the project's own transactions see.
    """
    is_outermost = not is_in_transaction(using)
    with transaction.atomic(using=using, savepoint=savepoint):
        if is_outermost and connections[using].vendor == "sqlite":
            ServerProcess.objects.using(using).filter(pk="").update(pid=0)
        elif is_outermost and foreign_isolation(using) is not None:
            with connections[using].cursor() as cursor:  # on all of them, this has to be a transaction's first word
                cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        yield


def foreign_isolation(using: str) -> str | None:
    """The isolation level that the database's OPTIONS ask for; None: READ COMMITTED, or SQLite."""
    connection = connections[using]
    options = connection.settings_dict.get("OPTIONS", {})
    if connection.vendor not in ("postgresql", "mysql") or "isolation_level" not in options:
        return None
    level = options["isolation_level"]
    if not level:
        return "the server's default"  # REPEATABLE READ on MariaDB and MySQL, unless somebody changed it
    name = str(getattr(level, "name", level)).lower().replace("_", " ")  # psycopg has an enum of numbers
    return None if name in ("read committed", "2") else name


def run(using: str, work: Callable[[], Result]) -> Result:
    """Do ``work``; unless it is part of the caller's transaction, repeat it after a deadlock, a busy database, or on a
    new connection when the one it had turned out to be dead or, after a failover, read-only.

    What a first attempt has committed without getting an answer, a repeated one does again: work that must not be done
    twice has to look for that (``append`` does). Raises StoreUnavailable when the database cannot be reached, cannot be
    written, or stays busy.
    """
    for attempt in range(1, ATTEMPTS + 1):
        before: object = None
        try:
            if not is_in_transaction(using):
                connections[using].ensure_connection()
            before = connections[using].connection
            return work()
        except (OperationalError, InterfaceError, InternalError) as error:
            if isinstance(error, InternalError) and not _is_read_only(error):
                raise
            is_lost = not is_in_transaction(using) and _has_lost_connection(using, before, error)
            may_repeat = is_lost or _is_transient(error)
            if is_in_transaction(using) or attempt == ATTEMPTS or not may_repeat:
                raise StoreUnavailable(str(error).strip()) from error
            time.sleep(random.uniform(0, 0.02 * 2**attempt))
    raise AssertionError("unreachable")


def afterwards(using: str, work: Callable[[], object]) -> None:
    """Have ``work`` done once the caller's transaction has committed, on its own account.

    It is repeated as ``run`` does; an error reaches the log only. If the process ends before that, it is never done.
    """
    on_commit(using, lambda: run(using, work))


def on_commit(using: str, work: Callable[[], object]) -> None:
    """Have ``work`` done once the transaction has committed; at once without one. An error reaches the log only."""

    def done() -> None:  # Django logs a failure with its __qualname__, which a partial has not
        work()

    transaction.on_commit(done, using=using, robust=True)


def drop_dead_connection(using: str) -> bool:
    """Close the thread's connection if it cannot be used any more. Returns whether it had to be."""
    connection = connections[using]
    if connection.connection is None or connection.is_usable():
        return False
    connection.close()
    return True


def _has_lost_connection(using: str, before: object, error: Error) -> bool:
    """Whether the thread had this connection and cannot go on with it; it is closed then, here or in Django's rollback.

    A pool may hand out several dead ones, one after the other.
    """
    if before is not None and connections[using].connection is not before:
        return True
    if _is_read_only(error):
        connections[using].close()
        return True
    return drop_dead_connection(using)


def _code(error: Error) -> object:
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) or (cause.args[0] if cause is not None and cause.args else None)


def _is_transient(error: Error) -> bool:
    return _code(error) in _TRANSIENT_CODES or "database is locked" in str(error) or "table is locked" in str(error)


def _is_read_only(error: Error) -> bool:
    return _code(error) in _READ_ONLY_CODES


def in_own_thread(using: str, work: Callable[[], Result]) -> Result:
    """Run a unit of work in a thread of ours. Its connection stays open between units, whatever CONN_MAX_AGE says
    (that counts requests, of which these threads have none), unless it comes from a pool or an error broke it.
    """
    connection = connections[using]
    try:
        return work()
    finally:
        connection.queries_log.clear()  # with DEBUG, Django keeps 9,000 statements with their payloads
        if "pool" in connection.settings_dict.get("OPTIONS", {}):
            connection.close()
        elif connection.errors_occurred:
            connection.errors_occurred = False
            drop_dead_connection(using)


def database_time(using: str) -> datetime:
    """The database server's clock; for SQLite, which has none, this machine's."""
    connection = connections[using]
    query = {"postgresql": "SELECT clock_timestamp()", "mysql": "SELECT UTC_TIMESTAMP(6)"}.get(connection.vendor)
    if query is None:
        return datetime.now(UTC)
    with connection.cursor() as cursor:
        cursor.execute(query)
        moment: datetime = cursor.fetchone()[0]
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
