"""Functions in the database, for what is done most often: PostgreSQL keeps their plans.

To plan a send's two statements, or a read, takes it as long as to carry them out. Migration 0014 makes the functions;
a database that was made without migrations, for tests, has none, and is told the statements each time.
"""

from __future__ import annotations

from django.db import connections

PUT_ONE, READ = "netra_queue_put_one", "netra_queue_read"

_has_them: dict[tuple[str, str], bool] = {}  # by alias and name of the database


def are_in(using: str) -> bool:
    """Whether this database has them. It is asked once."""
    connection = connections[using]
    if connection.vendor != "postgresql":
        return False
    database = using, str(connection.settings_dict["NAME"])
    if database not in _has_them:
        with connection.cursor() as cursor:
            visible = "proname IN (%s, %s) AND pg_function_is_visible(oid)"
            cursor.execute(f"SELECT count(DISTINCT proname) FROM pg_proc WHERE {visible}", [PUT_ONE, READ])
            _has_them[database] = cursor.fetchone()[0] == 2
    return _has_them[database]
