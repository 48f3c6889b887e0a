"""How the database store talks to a Django database: own transactions, retries, errors, dead connections."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from django.db import Error, InterfaceError, OperationalError, connections, transaction

from ..exceptions import StoreUnavailable
from ..models import ServerProcess

Result = TypeVar("Result")
ATTEMPTS = 5
# PostgreSQL: serialization failure, deadlock. MySQL: deadlock, lock wait timeout. SQLite says it in words.
_TRANSIENT_CODES = {"40001", "40P01", 1213, 1205, 1020}


def is_in_transaction(using: str) -> bool:
    """Whether the calling thread has a transaction open on this database."""
    return connections[using].in_atomic_block


@contextmanager
def own_transaction(using: str, *, savepoint: bool = False) -> Iterator[None]:
    """A transaction of ours, or the caller's if there is one; with ``savepoint``, an error in it undoes only our part.

    SQLite fails at once, whatever its timeout, when a transaction that began by reading wants to write after another
    one has written. So ours begins with a write there, even though it changes nothing.
    """
    is_outermost = not is_in_transaction(using)
    with transaction.atomic(using=using, savepoint=savepoint):
        if is_outermost and connections[using].vendor == "sqlite":
            ServerProcess.objects.using(using).filter(pk="").update(pid=0)
        yield


def run(using: str, work: Callable[[], Result]) -> Result:
    """Do ``work``; unless it is part of the caller's transaction, repeat it after a deadlock, a busy database, or a
    connection that turned out to be dead.

    A repeated append whose first commit was not answered may store a message twice, under the same id: clients drop
    such repeats. Raises StoreUnavailable when the database cannot be reached or stays busy.
    """
    for attempt in range(1, ATTEMPTS + 1):
        before = connections[using].connection
        try:
            return work()
        except (OperationalError, InterfaceError) as error:
            was_dead = not is_in_transaction(using) and _was_dead(using, before)
            may_repeat = _is_transient(error) or (was_dead and attempt == 1)
            if is_in_transaction(using) or attempt == ATTEMPTS or not may_repeat:
                raise StoreUnavailable(str(error).strip()) from error
            time.sleep(random.uniform(0, 0.02 * 2**attempt))
    raise AssertionError("unreachable")


def drop_dead_connection(using: str) -> bool:
    """Close the thread's connection if it cannot be used any more. Returns whether it had to be."""
    connection = connections[using]
    if connection.connection is None or connection.is_usable():
        return False
    connection.close()
    return True


def _was_dead(using: str, before: object) -> bool:
    """Whether the connection that the thread had is gone: replaced in Django's rollback, or unusable and closed here."""
    if before is None:
        return False
    return connections[using].connection is not before or drop_dead_connection(using)


def _is_transient(error: Error) -> bool:
    cause = error.__cause__
    code = getattr(cause, "sqlstate", None) or (cause.args[0] if cause is not None and cause.args else None)
    return code in _TRANSIENT_CODES or "database is locked" in str(error) or "table is locked" in str(error)


def in_own_thread(using: str, work: Callable[[], Result]) -> Result:
    """Run a unit of work in a thread of ours. Its connection stays open between units, whatever CONN_MAX_AGE says
    (that counts requests, of which these threads have none), unless it comes from a pool or an error broke it.
    """
    connection = connections[using]
    try:
        return work()
    finally:
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
