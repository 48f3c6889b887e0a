"""New messages' rows into their table: one statement of few parameters, however many they are, where that can be.

PostgreSQL takes a column in which the rows differ as an array, and one in which they are alike, as most are, as one
value: half of what JSON costs, and a fifth of a statement with a parameter for each value. SQLite takes JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections

from ..models import Message

Key = tuple[str, int]  # a message's id, its line's
COLUMNS = (
    "queue_id, uid, priority, kind, payload, size, created_at, expires_at, body_id, traceparent, flags, not_before, "
    "deliveries"
)
_TYPES = (  # as in Row
    *("bigint", "text", "smallint", "smallint", "text", "integer", "timestamptz", "timestamptz", "bigint", "text"),
    *("smallint", "timestamptz"),
)
_SQLITE = """
    INSERT INTO {table} ({columns})
    SELECT {values}, 0 FROM json_each(%s) ORDER BY key RETURNING id, uid, queue_id"""


class Row(NamedTuple):
    """A message that is to be inserted. In the order of COLUMNS."""

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
        return _insert_columns(using, rows)
    if connection.vendor == "sqlite" and connection.features.can_return_columns_from_insert:
        return _insert_json(using, rows)
    return _insert_values(using, rows)


def _insert_one(using: str, row: Row) -> dict[Key, int]:
    connection = connections[using]
    table, values = connection.ops.quote_name(Message._meta.db_table), _listed(row, connection)
    with connection.cursor() as cursor:
        marks = ", ".join(["%s"] * len(values))
        cursor.execute(f"INSERT INTO {table} ({COLUMNS}) VALUES ({marks}, 0) RETURNING id", values)
        return {row.key: cursor.fetchone()[0]}


def _insert_columns(using: str, rows: Sequence[Row]) -> dict[Key, int]:
    """PostgreSQL's. It numbers rows in the order in which they are selected."""
    values: list[str] = []
    alike: list[Any] = []
    names: list[str] = []  # of the columns in which the rows differ
    typed: list[str] = []
    arrays: list[str] = []
    for number, (column, of) in enumerate(zip(zip(*rows, strict=True), _TYPES, strict=True)):
        if column[1:] == column[:-1]:
            values.append(f"%s::{of}")
            alike.append(column[0])
        else:
            values.append(f"c{number}")
            names.append(f"c{number}")
            typed.append(f"%s::{of}[]")
            arrays.append(_array(column))
    connection = connections[using]
    table = connection.ops.quote_name(Message._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} ({COLUMNS}) SELECT {', '.join(values)}, 0 "
            f"FROM unnest({', '.join(typed)}) WITH ORDINALITY AS given({', '.join(names)}, place) "
            f"ORDER BY place RETURNING id",
            [*alike, *arrays],
        )
        positions = sorted(position for (position,) in cursor.fetchall())
    return {row.key: position for row, position in zip(rows, positions, strict=True)}


def _array(values: Iterable[Any]) -> str:
    """As PostgreSQL writes an array."""
    return "{" + ",".join(map(_element, values)) + "}"


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, int):
        return str(value)
    text = value if isinstance(value, str) else value.isoformat()
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _insert_json(using: str, rows: Sequence[Row]) -> dict[Key, int]:
    connection = connections[using]
    table = connection.ops.quote_name(Message._meta.db_table)
    values = ", ".join(f"json_extract(value, '$[{number}]')" for number in range(len(_TYPES)))
    given = json.dumps([_listed(row, connection) for row in rows], ensure_ascii=False)
    with connection.cursor() as cursor:
        cursor.execute(_SQLITE.format(table=table, columns=COLUMNS, values=values), [given])
        return {(uid, queue): position for position, uid, queue in cursor.fetchall()}


def _listed(row: Row, connection: Any) -> list[Any]:
    """With times as Django writes them, so that they compare."""
    values = list(row)
    for number in (6, 7, 11):
        values[number] = connection.ops.adapt_datetimefield_value(values[number])
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
