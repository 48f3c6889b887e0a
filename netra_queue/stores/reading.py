"""How the database store gives messages: one statement for all requests, each of them a short walk along the index.

Short payloads come with it. Long ones, and those that several messages share, are fetched for what is given out only.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.db import connections

from .. import models
from ..core.connection import ReadRequest
from ..core.message import Message, Payload, PayloadKind, Priority
from ..models import queue_id
from . import transmitting
from .rows import chunks
from .values import Batch

READS_PER_STATEMENT = 100
STEPS_PAST = 8
KINDS = {kind.value: kind for kind in PayloadKind}  # quicker than to call the enums, once per message
PRIORITIES = {priority.value: priority for priority in Priority}
SHORT_BYTES = 2_048  # a payload of at most this size is read with its row
ORM_COLUMNS = ("id", "priority", "size", "deliveries", "uid", "kind", "created_at", "flags")
AGE = ORM_COLUMNS.index("created_at")
COLUMNS = (  # the same, and the payload where it is short and the message's own
    "id, priority, size, deliveries, uid, kind, created_at, flags, "
    "CASE WHEN size <= {short} AND body_id IS NULL THEN payload END AS payload"
)

Request = tuple[str, ReadRequest]  # the queue, and what is wanted of it


def read(using: str, requests: Sequence[Request], now: datetime) -> list[Batch]:
    """One Batch a request.

    Before collapsing and tracked ones are given out for the first time, that is noted. Those that a sender has in hand
    are read past; where that finds nothing in a few steps, there is nothing more for now, so that nobody asks at once.
    """
    batches, busy = _read(using, requests, now, transmitting.PAUSES_SECONDS)
    for _ in range(STEPS_PAST if busy else 0):
        stuck = [number for number, batch in enumerate(batches) if batch.more and not batch.messages]
        if not stuck:
            break
        found, others = _read(using, [_past(requests[number], busy) for number in stuck], now, ())
        busy |= others
        for number, batch in zip(stuck, found, strict=True):
            batches[number] = batch
    return [batch if batch.messages else Batch((), more=False) for batch in batches] if busy else batches


def _read(
    using: str, requests: Sequence[Request], now: datetime, pauses: Sequence[float]
) -> tuple[list[Batch], set[int]]:
    """Also returns the positions of those that were left out because they are in other hands."""
    chosen = [_within(rows, request) for rows, (_, request) in zip(_rows(using, requests, now), requests, strict=True)]
    found = _messages(using, {row.position: row for rows, _ in chosen for row in rows})
    flags = {row.position: row.flags for rows, _ in chosen for row in rows if transmitting.first_time(row.flags)}
    noted = _noted(requests, chosen, flags)
    busy = transmitting.mark(using, noted, now, pauses) if noted else set()
    for position in busy:
        del found[position]
    batches = [
        Batch(
            tuple(found[row.position] for row in rows if row.position in found),
            more,
            frozenset(row.position for row in rows if row.position in flags) if request.is_tentative else frozenset(),
        )
        for (_, request), (rows, more) in zip(requests, chosen, strict=True)
    ]
    return batches, busy


def _noted(
    requests: Sequence[Request], chosen: Sequence[tuple[list[_Row], bool]], flags: dict[int, int]
) -> dict[int, int]:
    """Those of these flags whose messages somebody gets for certain."""
    if not flags or not any(request.is_tentative for _, request in requests):
        return flags
    certain = {
        row.position for (_, r), (rows, _) in zip(requests, chosen, strict=True) if not r.is_tentative for row in rows
    }
    return {position: flag for position, flag in flags.items() if position in certain}


def _past(request: Request, busy: Collection[int]) -> Request:
    queue, wanted = request
    return queue, replace(wanted, excluded=wanted.excluded.union(busy))


def waiting(using: str, queues: Iterable[str], now: datetime) -> set[str]:
    """Those of these queues that hold a message that has not expired."""
    requests = [(name, ReadRequest(1, 1, frozenset())) for name in sorted(queues)]
    found = _rows(using, requests, now, short_bytes=0)
    return {name for (name, _), rows in zip(requests, found, strict=True) if rows}


def fetch(using: str, positions: Collection[int]) -> dict[int, Message]:
    """These messages, with their payloads."""
    found: dict[int, _Row] = {}
    for chunk in chunks(sorted(positions)):
        rows = models.Message.objects.using(using).filter(pk__in=chunk).values_list(*ORM_COLUMNS)
        found |= {row.position: row for row in (_Row(*columns) for columns in rows)}
    return _messages(using, found)


@dataclass(frozen=True, slots=True)
class _Row:
    """A message's row; without its payload where that is long or shared."""

    position: int
    priority: int
    size: int
    deliveries: int
    uid: str
    kind: int
    created_at: datetime
    flags: int
    payload: str | None = None


def _messages(using: str, rows: Mapping[int, _Row]) -> dict[int, Message]:
    """A message that went meanwhile is left out."""
    payloads = _payloads(using, [position for position, row in rows.items() if row.payload is None])
    return {
        position: Message(
            position=position,
            id=row.uid,
            payload=Payload(KINDS[row.kind], text, row.size),
            priority=PRIORITIES[row.priority],
            created_at=row.created_at,
            deliveries=row.deliveries,
        )
        for position, row in rows.items()
        if (text := payloads.get(position) if row.payload is None else row.payload) is not None
    }


def _payloads(using: str, positions: Sequence[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in chunks(sorted(positions)):
        rows = models.Message.objects.using(using).filter(pk__in=chunk).values_list("id", "payload", "body__payload")
        found |= {position: text if shared is None else shared for position, text, shared in rows}
    return found


def _rows(using: str, requests: Sequence[Request], now: datetime, short_bytes: int = SHORT_BYTES) -> list[list[_Row]]:
    """The next rows for each request, in the order of delivery, up to its limit of messages."""
    found: list[list[_Row]] = [[] for _ in requests]
    for start in range(0, len(requests), READS_PER_STATEMENT):
        for number, row in _some_rows(using, requests[start : start + READS_PER_STATEMENT], now, short_bytes):
            found[start + number].append(row)
    for rows in found:
        rows.sort(key=lambda row: (row.priority, row.position))
    return found


def _some_rows(using: str, requests: Sequence[Request], now: datetime, short_bytes: int) -> Iterator[tuple[int, _Row]]:
    connection = connections[using]
    table = connection.ops.quote_name(models.Message._meta.db_table)
    columns = COLUMNS.format(short=int(short_bytes))
    moment = connection.ops.adapt_datetimefield_value(now)
    if connection.vendor == "postgresql":
        statement, parameters = _lateral(table, columns, requests, moment)
    else:
        parts = [_part(number, table, columns, name, request) for number, (name, request) in enumerate(requests)]
        statement, parameters = " UNION ALL ".join(parts), [moment] * len(parts)
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        for number, *columns in cursor.fetchall():
            columns[AGE] = _as_moment(columns[AGE])
            yield number, _Row(*columns)


def _lateral(table: str, columns: str, requests: Sequence[Request], moment: Any) -> tuple[str, list[Any]]:
    """All requests in one parameter: PostgreSQL takes far longer to plan a statement that grows with them."""
    wanted = [
        {"n": number, "q": queue_id(name), "l": request.limit, "x": sorted(request.excluded)}
        for number, (name, request) in enumerate(requests)
    ]
    statement = (
        f"SELECT r.n, m.* FROM json_to_recordset(%s::json) AS r(n int, q bigint, l int, x bigint[]) "
        f"CROSS JOIN LATERAL (SELECT {columns} FROM {table} "
        f"WHERE queue_id = r.q AND expires_at > %s AND id <> ALL(r.x) ORDER BY priority, id LIMIT r.l) AS m"
    )
    return statement, [json.dumps(wanted), moment]


def _part(number: int, table: str, columns: str, name: str, request: ReadRequest) -> str:
    """One request's part of the statement. Only integers of ours are written into it; the time is a parameter."""
    excluded = ",".join(map(str, sorted(request.excluded)))
    without = f" AND id NOT IN ({excluded})" if excluded else ""
    return (
        f"SELECT * FROM (SELECT {number} AS request, {columns} FROM {table} "
        f"WHERE queue_id = {queue_id(name)} AND expires_at > %s{without} "
        f"ORDER BY priority, id LIMIT {int(request.limit)}) AS r{number}"
    )


def _as_moment(value: Any) -> datetime:
    """SQLite gives text, and MariaDB and MySQL a time of UTC that does not say so."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _within(rows: Sequence[_Row], request: ReadRequest) -> tuple[list[_Row], bool]:
    """The rows that fit the request's bytes (the last one may exceed them), and whether there may be more.

    Cut before anything is noted of them: one that travels alone, or what is behind it, stays.
    """
    fitting: list[_Row] = []
    size, is_alone = 0, False
    for row in rows:
        alone = request.alone_from is not None and row.deliveries >= request.alone_from
        if size >= request.max_bytes or is_alone or (alone and fitting):
            return fitting, True
        fitting.append(row)
        size, is_alone = size + row.size, alone
    return fitting, len(rows) >= request.limit
