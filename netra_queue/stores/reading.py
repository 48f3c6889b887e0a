"""How the database store gives messages: which ones, along the index, and then those, with their payloads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

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

Request = tuple[str, ReadRequest]  # the queue, and what is wanted of it


def read(using: str, requests: Sequence[Request], now: datetime) -> list[Batch]:
    """Two statements: which messages (all requests at once, payloads untouched), then those messages.

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
    chosen = choose(using, requests, now)
    flags: dict[int, int] = {}
    found = fetch(using, {position for positions, _ in chosen for position in positions}, flags)
    noted = _noted(requests, chosen, flags)
    busy = transmitting.mark(using, noted, now, pauses) if noted else set()
    for position in busy:
        del found[position]
    batches = [
        Batch(
            tuple(found[p] for p in positions if p in found),
            more,
            frozenset(flags).intersection(positions) if request.is_tentative else frozenset(),
        )
        for (_, request), (positions, more) in zip(requests, chosen, strict=True)
    ]
    return batches, busy


def _noted(
    requests: Sequence[Request], chosen: Sequence[tuple[list[int], bool]], flags: dict[int, int]
) -> dict[int, int]:
    """Those of these flags whose messages somebody gets for certain."""
    if not flags or not any(request.is_tentative for _, request in requests):
        return flags
    certain = {
        p for (_, r), (positions, _) in zip(requests, chosen, strict=True) if not r.is_tentative for p in positions
    }
    return {position: flag for position, flag in flags.items() if position in certain}


def _past(request: Request, busy: Collection[int]) -> Request:
    queue, wanted = request
    return queue, replace(wanted, excluded=wanted.excluded.union(busy))


def choose(using: str, requests: Sequence[Request], now: datetime) -> list[tuple[list[int], bool]]:
    """The positions for each request, and whether there may be more; each is a short walk along the index."""
    chosen: list[tuple[list[int], bool]] = []
    for start in range(0, len(requests), READS_PER_STATEMENT):
        chosen += _choose_some(using, requests[start : start + READS_PER_STATEMENT], now)
    return chosen


def _choose_some(using: str, requests: Sequence[Request], now: datetime) -> list[tuple[list[int], bool]]:
    connection = connections[using]
    table = connection.ops.quote_name(models.Message._meta.db_table)
    parts = [_choose_sql(number, table, name, request) for number, (name, request) in enumerate(requests)]
    parameters = [connection.ops.adapt_datetimefield_value(now)] * len(requests)
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts), parameters)
        rows = sorted(cursor.fetchall())
    by_request: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for number, _, position, size, deliveries in rows:
        by_request[number].append((position, size, deliveries))
    return [_within(by_request[number], request) for number, (_, request) in enumerate(requests)]


def fetch(using: str, positions: Collection[int], flags: dict[int, int] | None = None) -> dict[int, Message]:
    """``flags`` gets an entry for each message of which the first transmission is noted."""
    columns = ("id", "uid", "kind", "payload", "body__payload", "size", "priority", "created_at", "deliveries", "flags")
    found: dict[int, Message] = {}
    for chunk in chunks(sorted(positions)):
        rows = models.Message.objects.using(using).filter(pk__in=chunk).values_list(*columns)
        for position, uid, kind, text, shared, size, priority, created_at, deliveries, flag in rows:
            if flags is not None and transmitting.first_time(flag):
                flags[position] = flag
            found[position] = Message(
                position=position,
                id=uid,
                payload=Payload(PayloadKind(kind), text if shared is None else shared, size),
                priority=Priority(priority),
                created_at=created_at,
                deliveries=deliveries,
            )
    return found


def _choose_sql(number: int, table: str, name: str, request: ReadRequest) -> str:
    """One request's part of the statement. Only integers of ours are written into it; the time is a parameter."""
    excluded = ",".join(map(str, sorted(request.excluded)))
    without = f" AND id NOT IN ({excluded})" if excluded else ""
    return (
        f"SELECT * FROM (SELECT {number} AS request, priority, id, size, deliveries FROM {table} "
        f"WHERE queue_id = {queue_id(name)} AND expires_at > %s{without} "
        f"ORDER BY priority, id LIMIT {int(request.limit)}) AS r{number}"
    )


def _within(rows: Sequence[tuple[int, int, int]], request: ReadRequest) -> tuple[list[int], bool]:
    """The positions that fit the request's bytes (the last one may exceed them), and whether there may be more.

    Cut before anything is noted of them: one that travels alone, or what is behind it, stays.
    """
    positions: list[int] = []
    size, is_alone = 0, False
    for position, bytes_, deliveries in rows:
        alone = request.alone_from is not None and deliveries >= request.alone_from
        if size >= request.max_bytes or is_alone or (alone and positions):
            return positions, True
        positions.append(position)
        size, is_alone = size + bytes_, alone
    return positions, len(rows) >= request.limit
