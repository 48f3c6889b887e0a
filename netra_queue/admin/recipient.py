"""All of one recipient on one page: its queue and its devices' lines, who is connected, what waits and what was lost.

In a number of statements that does not grow with the devices, none of which reads a whole queue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Min, Sum

from .. import details, policies
from ..core.message import Priority, client_of
from ..core.policy import Policy
from ..details import Described
from ..models import DeadLetter, Loss, Message, Queue
from ..stores import collapsing, current_store
from ..stores.values import Connected
from .figures import DEPTH_LIMIT, at_most, bounded, bounded_counts, oldest_of

MOST_LINES = 100  # shown; the ones seen last first
MOST_CONNECTIONS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class LineShown:
    """A queue or one of its lines. ``waiting`` by priority; figures are exact up to ``DEPTH_LIMIT`` a priority.

    ``acked_at``: the last ack that the store knows of, of its connections and of those that have left.
    """

    queue: Queue
    client: str
    policy: Policy
    waiting: dict[str, str]
    size: int
    oldest_at: datetime | None
    is_connected: bool
    acked_at: datetime | None
    superseded: int
    dead_letters: str


@dataclass(frozen=True, slots=True)
class LossShown:
    queue: str
    reason: str
    priority: str
    count: int
    since: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionShown:
    """``window``, ``unacked`` and ``acked_at`` as its server said at ``told_at``; ``is_answer``: just now.

    Without that: the policy's window, how many may have no ack at most (those that wait, up to it), and nothing.
    """

    connection: Connected
    is_answer: bool
    window: int
    unacked: int
    acked_at: datetime | None
    told_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipient:
    lines: list[LineShown]
    connections: list[ConnectionShown]
    losses: list[LossShown]
    has_more_lines: bool
    priorities: list[str]


def recipient(queue: Queue) -> Recipient:
    """Of a device's line, only that."""
    rows = [queue]
    if not client_of(queue.name):
        rows += Queue.objects.filter(parent_id=queue.pk).order_by("-seen_at", "pk")[: MOST_LINES + 1]
    shown = rows[: MOST_LINES + 1]
    using = queue._state.db or "default"
    described = details.described(current_store(), [row.name for row in shown], MOST_CONNECTIONS)
    lines = _lines(using, shown, described)
    return Recipient(
        lines=lines,
        connections=_connections(lines, described),
        losses=_losses(shown),
        has_more_lines=len(rows) > len(shown),
        priorities=[priority.name.lower() for priority in Priority],
    )


def _lines(using: str, rows: Sequence[Queue], described: Sequence[Described]) -> list[LineShown]:
    ids = [row.pk for row in rows]
    waiting, oldest = _waiting(ids), oldest_of(ids)
    superseded = collapsing.superseded(using, ids)
    letters = bounded_counts(DeadLetter, "queue_id", ids, DEPTH_LIMIT + 1)
    connected = {each.connection.queue for each in described}
    return [
        LineShown(
            queue=row,
            client=client_of(row.name),
            policy=policies.chosen(row.name, row.policy, is_resolved=row.is_resolved).policy,
            waiting={name: at_most(count, DEPTH_LIMIT) for name, (count, _size) in waiting[row.pk].items()},
            size=sum(size for _count, size in waiting[row.pk].values()),
            oldest_at=oldest.get(row.pk),
            is_connected=row.name in connected,
            acked_at=_last_ack(row, described),
            superseded=superseded.get(row.pk, 0),
            dead_letters=at_most(letters.get(row.pk, 0), DEPTH_LIMIT),
        )
        for row in rows
    ]


def _waiting(ids: Sequence[int]) -> dict[int, dict[str, tuple[int, int]]]:
    """By queue and priority: how many messages, and their bytes."""
    found: dict[int, dict[str, tuple[int, int]]] = defaultdict(dict)
    for priority in Priority:
        condition = f"priority = {priority.value} AND queue_id"
        sums = "COUNT(*), COALESCE(SUM(size), 0)"
        for id, count, size in bounded(Message, condition, ids, DEPTH_LIMIT + 1, sums, "size"):
            found[id][priority.name.lower()] = (count, int(size))
    return found


def _last_ack(row: Queue, described: Sequence[Described]) -> datetime | None:
    said = [each.detail.acked_at for each in described if each.detail and each.connection.queue == row.name]
    return max(filter(None, (*said, row.acked_at)), default=None)


def _connections(lines: Sequence[LineShown], described: Sequence[Described]) -> list[ConnectionShown]:
    by_name = {line.queue.name: line for line in lines}
    return [_connection(by_name[each.connection.queue], each) for each in described]


def _connection(line: LineShown, described: Described) -> ConnectionShown:
    window, unacked = line.policy.window, _most_unacked(line)
    acked_at = told_at = None
    if (detail := described.detail) is not None:
        window, unacked, acked_at, told_at = detail.window, detail.unacked, detail.acked_at, detail.told_at
    return ConnectionShown(
        connection=described.connection,
        is_answer=described.is_answer,
        window=window,
        unacked=unacked,
        acked_at=acked_at,
        told_at=told_at,
    )


def _most_unacked(line: LineShown) -> int:
    counts = [int(text) if text.isdigit() else DEPTH_LIMIT + 1 for text in line.waiting.values()]
    return min(sum(counts), line.policy.window)


def _losses(rows: Sequence[Queue]) -> list[LossShown]:
    names = {row.pk: row.name for row in rows}
    found = Loss.objects.filter(queue_id__in=names).order_by().values_list("queue_id", "reason", "priority")
    return [
        LossShown(names[id], reason, Priority(priority).name.lower(), int(count), since)
        for id, reason, priority, count, since in sorted(found.annotate(Sum("count"), Min("since")))
    ]
