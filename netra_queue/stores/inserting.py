"""New messages' rows into their table: one statement with one parameter, whatever their number, where the database can.

PostgreSQL and SQLite take them as JSON. That costs half of what ``unnest`` with an array for each column does, and a
fifth of a statement with a parameter for each value.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connections

from ..models import Message

Key = tuple[str, int]  # a message's id, its line's
COLUMNS = (
    "queue_id, uid, priority, kind, payload, size, created_at, expires_at, body_id, traceparent, flags, not_before, "
    "deliveries"
)
_TYPES = {  # as in _values
    **{"q": "bigint", "u": "text", "p": "smallint", "k": "smallint", "t": "text", "s": "integer"},
    **{"c": "timestamptz", "e": "timestamptz", "b": "bigint", "w": "text", "f": "smallint", "n": "timestamptz"},
}
_POSTGRESQL = """
    INSERT INTO {table} ({columns})
    SELECT {names}, 0 FROM ROWS FROM (json_to_recordset(%s::json) AS ({typed})) WITH ORDINALITY
    ORDER BY ordinality RETURNING id, uid, queue_id"""
_SQLITE = """
    INSERT INTO {table} ({columns})
    SELECT {values}, 0 FROM json_each(%s) ORDER BY key RETURNING id, uid, queue_id"""


@dataclass(frozen=True, slots=True)
class Row:
    """A message that is to be inserted."""

    queue: int
    uid: str
    priority: int
    kind: int
    payload: str
    size: int
    created_at: datetime
    expires_at: datetime
    body: int | None
    traceparent: str | None
    flags: int
    not_before: datetime | None = None

    @property
    def key(self) -> Key:
        return self.uid, self.queue


def insert(using: str, rows: Sequence[Row]) -> dict[Key, int]:
    """Insert in this order. Returns the positions, which rise in it."""
    connection = connections[using]
    if len(rows) == 1 and connection.features.can_return_columns_from_insert:
        return _insert_one(using, rows[0])
    if connection.vendor == "postgresql":
        return _insert_json(using, _POSTGRESQL, json.dumps([_named(row) for row in rows], ensure_ascii=False))
    if connection.vendor == "sqlite" and connection.features.can_return_columns_from_insert:
        return _insert_json(using, _SQLITE, json.dumps([_listed(row, connection) for row in rows], ensure_ascii=False))
    return _insert_values(using, rows)


def _insert_one(using: str, row: Row) -> dict[Key, int]:
    connection = connections[using]
    table, values = connection.ops.quote_name(Message._meta.db_table), _listed(row, connection)
    with connection.cursor() as cursor:
        marks = ", ".join(["%s"] * len(values))
        cursor.execute(f"INSERT INTO {table} ({COLUMNS}) VALUES ({marks}, 0) RETURNING id", values)
        return {row.key: cursor.fetchone()[0]}


def _insert_json(using: str, statement: str, rows: str) -> dict[Key, int]:
    connection = connections[using]
    table = connection.ops.quote_name(Message._meta.db_table)
    parts = {
        "names": ", ".join(_TYPES),
        "typed": ", ".join(map(" ".join, _TYPES.items())),
        "values": ", ".join(f"json_extract(value, '$[{number}]')" for number in range(len(_TYPES))),
    }
    with connection.cursor() as cursor:
        cursor.execute(statement.format(table=table, columns=COLUMNS, **parts), [rows])
        return {(uid, queue): position for position, uid, queue in cursor.fetchall()}


def _values(row: Row) -> tuple[Any, ...]:
    created_at, expires_at = row.created_at.isoformat(), row.expires_at.isoformat()
    head = (row.queue, row.uid, row.priority, row.kind, row.payload, row.size)
    not_before = None if row.not_before is None else row.not_before.isoformat()
    return *head, created_at, expires_at, row.body, row.traceparent, row.flags, not_before


def _named(row: Row) -> dict[str, Any]:
    return dict(zip(_TYPES, _values(row), strict=True))


def _listed(row: Row, connection: Any) -> list[Any]:
    """With times as Django writes them, so that they compare."""
    values = list(_values(row))
    values[6:8] = map(connection.ops.adapt_datetimefield_value, (row.created_at, row.expires_at))
    values[-1] = connection.ops.adapt_datetimefield_value(row.not_before)
    return values


def _insert_values(using: str, rows: Sequence[Row]) -> dict[Key, int]:
    messages = [
        Message(
            queue_id=row.queue,
            uid=row.uid,
            priority=row.priority,
            kind=row.kind,
            payload=row.payload,
            size=row.size,
            created_at=row.created_at,
            expires_at=row.expires_at,
            body_id=row.body,
            traceparent=row.traceparent,
            flags=row.flags,
            not_before=row.not_before,
        )
        for row in rows
    ]
    inserted = Message.objects.using(using).bulk_create(messages)
    if connections[using].features.can_return_rows_from_bulk_insert:
        return {(row.uid, row.queue_id): row.pk for row in inserted}
    with connections[using].cursor() as cursor:  # MySQL: ids of one statement rise from this one on
        cursor.execute("SELECT LAST_INSERT_ID()")
        mine = Message.objects.using(using).filter(pk__gte=cursor.fetchone()[0])
    columns = mine.filter(uid__in={row.uid for row in rows}).values_list("uid", "queue_id", "id")
    return {(uid, queue): position for uid, queue, position in columns}
