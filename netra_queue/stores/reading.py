"""How the database store gives messages: one statement for all requests, each of them a short walk along the index.

Whether an operator has paused a queue is looked up by its key in the same statement, which gives nothing of it then.
Short payloads come with it. Long ones, and those that several messages share, are fetched for what is given out only.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db import connections

from .. import models
from ..core.actions import ReadRequest
from ..core.message import EPOCH, Message, Payload, PayloadKind, Priority, base_of
from ..models import queue_id
from . import functions, pausing, transmitting
from .pausing import FOREVER
from .rows import chunks
from .values import Batch

READS_PER_STATEMENT = 100
STEPS_PAST = 8
KINDS = {kind.value: kind for kind in PayloadKind}  # quicker than to call the enums, once per message
PRIORITIES = {priority.value: priority for priority in Priority}
SHORT_BYTES = 2_048  # a payload of at most this size is read with its row
ORM_COLUMNS = ("id", "priority", "size", "deliveries", "uid", "kind", "created_at", "flags", "traceparent")
COLUMNS = (  # the same, and the payload where it is short and the message's own
    "id, priority, size, deliveries, uid, kind, {created_at}, flags, traceparent, "
    "CASE WHEN size <= {short} AND body_id IS NULL THEN payload END AS payload"
)
MICROSECONDS = "(extract(epoch FROM created_at) * 1000000)::bigint AS created_at"  # parsed in a fifth of a time's time

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
    return [batch if batch.messages else batch._replace(more=False) for batch in batches] if busy else batches


def _read(
    using: str, requests: Sequence[Request], now: datetime, pauses: Sequence[float]
) -> tuple[list[Batch], set[int]]:
    """Also returns the positions of those that were left out because they are in other hands."""
    given, paused = _rows(using, requests, now)
    chosen = [_within(rows, request) for rows, (_, request) in zip(given, requests, strict=True)]
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
    for number, until in paused.items():
        batches[number] = Batch((), more=False, is_paused=True, resumes_at=None if until == FOREVER else until)
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
    return queue, wanted._replace(excluded=wanted.excluded.union(busy))


def waiting(using: str, queues: Iterable[str], now: datetime) -> set[str]:
    """Those of these queues that hold a message that has not expired."""
    requests = [(name, ReadRequest(1, 1, frozenset())) for name in sorted(queues)]
    found, _ = _rows(using, requests, now, short_bytes=0)
    return {name for (name, _), rows in zip(requests, found, strict=True) if rows}


def fetch(using: str, positions: Collection[int]) -> dict[int, Message]:
    """These messages, with their payloads."""
    found: dict[int, _Row] = {}
    for chunk in chunks(sorted(positions)):
        rows = models.Message.objects.using(using).filter(pk__in=chunk).values_list(*ORM_COLUMNS)
        found |= {row.position: row for row in (_Row(*columns) for columns in rows)}
    return _messages(using, found)


class _Row(NamedTuple):
    """A message's row; without its payload where that is long or shared. ``created_at``: see ``_as_moment``."""

    position: int
    priority: int
    size: int
    deliveries: int
    uid: str
    kind: int
    created_at: int | str | datetime
    flags: int
    traceparent: str | None = None
    payload: str | None = None


def _messages(using: str, rows: Mapping[int, _Row]) -> dict[int, Message]:
    """A message that went meanwhile is left out."""
    payloads = _payloads(using, [position for position, row in rows.items() if row.payload is None])
    return {
        position: Message(
            position,
            row.uid,
            Payload(KINDS[row.kind], text, row.size),
            PRIORITIES[row.priority],
            _as_moment(row.created_at),
            row.deliveries,
            row.traceparent,
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


def _rows(
    using: str, requests: Sequence[Request], now: datetime, short_bytes: int = SHORT_BYTES
) -> tuple[list[list[_Row]], dict[int, datetime]]:
    """The next rows for each request, in the order of delivery, up to its limit of messages; by the numbers of requests
    whose queues are paused, until when."""
    found: list[list[_Row]] = [[] for _ in requests]
    pauses: dict[int, datetime] = {}
    for start in range(0, len(requests), READS_PER_STATEMENT):
        for number, row in _some_rows(using, requests[start : start + READS_PER_STATEMENT], now, short_bytes):
            if isinstance(row, datetime):
                pauses[start + number] = max(row, pauses.get(start + number, row))
            else:
                found[start + number].append(row)
    for rows in found:
        rows.sort(key=_in_order)
    return found, pauses


def _some_rows(
    using: str, requests: Sequence[Request], now: datetime, short_bytes: int
) -> Iterator[tuple[int, _Row | datetime]]:
    """Of a queue that is paused, the end of its pause."""
    connection = connections[using]
    table = connection.ops.quote_name(models.Message._meta.db_table)
    created_at = MICROSECONDS if connection.vendor == "postgresql" else "created_at"
    columns = COLUMNS.format(short=int(short_bytes), created_at=created_at)
    moment = connection.ops.adapt_datetimefield_value(now)
    parameters: list[Any]
    if functions.are_in(using):
        statement, parameters = f"SELECT * FROM {functions.READ}(%s, %s, %s)", [_wanted(requests), short_bytes, moment]
    elif connection.vendor == "postgresql":
        statement, parameters = _lateral(using, table, columns, requests, moment)
    else:
        statement, parameters = _union(using, table, columns, requests, moment)
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        for found in cursor.fetchall():
            number, until = found[:2]
            if found[2] is not None:
                yield number, _Row._make(found[2:])
            elif connection.vendor == "postgresql":
                yield from [(number, until)] if until is not None else []
            else:
                yield from ((n, _as_moment(until)) for n, (name, _) in enumerate(requests) if number in _ids(name))


def _wanted(requests: Sequence[Request]) -> str:
    """All of them in one parameter: PostgreSQL takes far longer to plan a statement that grows with them."""
    wanted = [
        {"n": number, "q": own, "b": base, "l": request.limit, "x": _as_ranges(request.excluded)}
        for number, (name, request) in enumerate(requests)
        for own, base in (_ids(name),)
    ]
    return json.dumps(wanted)


def _lateral(using: str, table: str, columns: str, requests: Sequence[Request], moment: Any) -> tuple[str, list[Any]]:
    """What the function does.

    Both constant limits tell the planner how little this is: where a queue is long it reckoned with a tenth of it for
    each of a hundred requests, and spent 10 ms on compiling the statement (its JIT), each time. IS TRUE keeps it from
    the index of expiry, which has all queues' messages.
    """
    queues = connections[using].ops.quote_name(models.Queue._meta.db_table)
    most = max(request.limit for _, request in requests)
    statement = (
        f"SELECT r.n, CASE WHEN q.id IS NOT NULL THEN coalesce(q.paused_until, %s) END, m.* "
        f"FROM (SELECT * FROM json_to_recordset(%s::json) "
        f"AS given(n int, q bigint, b bigint, l int, x int8multirange) LIMIT {len(requests)}) AS r "
        f"LEFT JOIN {queues} q ON q.id IN (r.q, r.b) AND {pausing.condition(using)} "
        f"LEFT JOIN LATERAL (SELECT * FROM (SELECT {columns} FROM {table} WHERE q.id IS NULL AND queue_id = r.q "
        f"AND (expires_at > %s) IS TRUE AND (not_before IS NULL OR not_before <= %s) AND NOT id <@ r.x "
        f"ORDER BY priority, id LIMIT r.l) AS next LIMIT {most:d}) AS m ON true"
    )
    return statement, [FOREVER, _wanted(requests), moment, moment, moment]


def _ids(name: str) -> tuple[int, int]:
    """Those of a queue, or of a line and its queue: what may be paused."""
    return queue_id(name), queue_id(base_of(name))


def _as_ranges(positions: Iterable[int]) -> str:
    """Exactly these, as PostgreSQL writes a set of ranges: what is in flight mostly follows one another, and a row is
    looked up in a few ranges sooner than in a list of hundreds."""
    ranges: list[list[int]] = []
    for position in sorted(positions):
        if ranges and ranges[-1][1] == position:
            ranges[-1][1] += 1
        else:
            ranges.append([position, position + 1])
    return "{" + ",".join(f"[{first},{beyond})" for first, beyond in ranges) + "}"


def _union(using: str, table: str, columns: str, requests: Sequence[Request], moment: Any) -> tuple[str, list[Any]]:
    """A part for each request, and one for the pauses of all their queues, which gives the ids of these as numbers."""
    ops = connections[using].ops
    pauses = f"FROM {ops.quote_name(models.Queue._meta.db_table)} q WHERE {pausing.condition(using)} AND q.id IN"
    parts = [_part(number, table, columns, pauses, name, request) for number, (name, request) in enumerate(requests)]
    ids = sorted({id for name, _ in requests for id in _ids(name)})
    blank = ", ".join(["NULL"] * (len(ORM_COLUMNS) + 1))
    parts.append(f"SELECT q.id, coalesce(q.paused_until, %s), {blank} {pauses} ({','.join(map(str, ids))})")
    times = [moment] * (3 * len(requests))
    return " UNION ALL ".join(parts), [*times, ops.adapt_datetimefield_value(FOREVER), moment]


def _part(number: int, table: str, columns: str, pauses: str, name: str, request: ReadRequest) -> str:
    """One request's messages, unless its queue is paused. Only integers of ours are written into it."""
    excluded = ",".join(map(str, sorted(request.excluded)))
    without = f" AND id NOT IN ({excluded})" if excluded else ""
    return (
        f"SELECT * FROM (SELECT {number} AS request, NULL AS until, {columns} FROM {table} "
        f"WHERE queue_id = {queue_id(name)} AND expires_at > %s{without} "
        f"AND NOT EXISTS (SELECT 1 {pauses} {_ids(name)}) "
        f"AND (not_before IS NULL OR not_before <= %s) "
        f"ORDER BY priority, id LIMIT {int(request.limit)}) AS r{number}"
    )


def _in_order(row: _Row) -> tuple[int, int]:
    return row.priority, row.position


def _as_moment(value: int | str | datetime) -> datetime:
    """PostgreSQL gives microseconds, SQLite text, and MariaDB and MySQL a time of UTC that does not say so."""
    if isinstance(value, int):
        return EPOCH + timedelta(microseconds=value)
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
