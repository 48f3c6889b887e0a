"""The lines of a queue in the database: one for each device, and the queue itself for clients without an id.

A line is in use while it has a connection, and for the policy's LINE_SECONDS after the last one. What is sent to a
queue goes to all lines in use; without any it waits in the queue itself, and the first line to appear takes it over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connections
from django.db.models import Exists, OuterRef, QuerySet

from .. import conf
from ..core.message import Fate, base_of, client_of
from ..core.policy import Policy
from ..core.statistics import Event
from ..models import CollapseSlot, Flag, LiveConnection, Loss, Message, Queue, queue_id
from . import accounting, collapsing
from .connecting import own_transaction
from .removal import remove
from .rows import CHUNK, chunks, delete, hold, lock, lock_queues, skipping_locked
from .values import Line


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a queue that clients have used, as a line of ``base``."""

    id: int
    base: int
    name: str
    seen_at: datetime
    is_connected: bool

    def is_in_use(self, policy: Policy, now: datetime) -> bool:
        return self.is_connected or self.seen_at > now - timedelta(seconds=policy.line_seconds)


@dataclass(frozen=True, slots=True)
class Targets:
    """Where messages go. ``lines``: by queue (or line), in order of name. ``servers``: those that hold each line; also
    dead ones, until they are reaped."""

    lines: Mapping[str, tuple[str, ...]]
    servers: Mapping[str, tuple[str, ...]]


def targets(using: str, queues: Collection[str], policies: Mapping[str, Policy], now: datetime) -> Targets:
    """The lines that what is sent to each of these queues (or lines) goes to, and who is to hear of it."""
    since: dict[datetime, list[str]] = defaultdict(list)
    for name in queues:
        since[now - timedelta(seconds=policies[name].line_seconds)].append(name)
    lines: dict[str, set[str]] = defaultdict(set)
    servers: dict[str, tuple[str, ...]] = {}
    for moment, names in since.items():
        for chunk in chunks(names):
            for line, server in _in_use(using, chunk, moment):
                if base_of(line) in chunk:
                    lines[base_of(line)].add(line)
                if server is not None:
                    servers[line] = (*servers.get(line, ()), server)
    return Targets({name: tuple(sorted(lines[name])) if name in lines else (name,) for name in queues}, servers)


def _in_use(using: str, names: Sequence[str], since: datetime) -> list[tuple[str, str | None]]:
    """The lines in use of these queues, a queue itself being one of its lines, and lines that are named themselves.

    Each with the id of a server that holds it, once for each of them, or None. One statement, by hand: every send asks
    this, and most of its time is for planning, which takes twice as long with subqueries and the servers' table.
    """
    connection = connections[using]
    queue, live = (connection.ops.quote_name(model._meta.db_table) for model in (Queue, LiveConnection))
    ids = ",".join(str(queue_id(name)) for name in names)
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT DISTINCT q.name, c.server_id FROM {queue} q LEFT JOIN {live} c ON c.queue_id = q.id "
            f"WHERE (q.parent_id IN ({ids}) OR q.id IN ({ids})) AND q.seen_at IS NOT NULL "
            f"AND (q.seen_at > %s OR c.id IS NOT NULL)",
            [connection.ops.adapt_datetimefield_value(since)],
        )
        return list(cursor.fetchall())


def destination(using: str, line: str, policy: Policy, now: datetime) -> tuple[str, ...]:
    """Where a message that was in this line may go again: there, or to the lines in use instead of it."""
    base = base_of(line)
    in_use = targets(using, [base], {base: policy}, now).lines[base]
    return (line,) if line in in_use else in_use


def _by_base(queues: QuerySet[Queue], column: str, ids: Sequence[int]) -> dict[int, list[_Row]]:
    found: dict[int, list[_Row]] = defaultdict(list)
    connected = Exists(LiveConnection.objects.filter(queue_id=OuterRef("pk")))
    for chunk in chunks(ids):
        rows = queues.filter(**{f"{column}__in": chunk, "seen_at__isnull": False}).annotate(is_connected=connected)
        for id, base, name, seen_at, is_connected in rows.values_list("id", column, "name", "seen_at", "is_connected"):
            found[base].append(_Row(id, base, name, seen_at, is_connected))
    return found


def lines(using: str, queue: str) -> list[Line]:
    """The devices' lines of a queue that have been used and not been forgotten, the one seen last first."""
    rows = _by_base(Queue.objects.using(using), "parent_id", [queue_id(queue)])[queue_id(queue)]
    rows.sort(key=lambda row: (row.is_connected, row.seen_at), reverse=True)
    return [Line(row.name, row.seen_at, row.is_connected) for row in rows]


def arrive(using: str, lines: Mapping[str, Policy], now: datetime) -> set[str]:
    """Clients have come for these lines, of each queue one: make room for it, and let it take over what waits for any.

    In the caller's transaction, which has locked the queues' rows. Returns the lines for which there is no room: all
    those that the policy allows are connected.
    """
    others = _by_base(Queue.objects.using(using), "parent_id", [base_id(line) for line in lines])
    plans = {line: _gone(line, others[base_id(line)], policy, now) for line, policy in lines.items()}
    there = {line: plan for line, plan in plans.items() if plan is not None}
    lock_queues(using, [*there, *(row.name for gone, _ in there.values() for row in gone)])
    for line, (gone, fate) in there.items():
        for row in gone:
            forget(using, row.name, fate, lines[line], now)
    waited_for = _with_something(using, {base_id(line) for line in there})
    for line in there:
        if base_id(line) in waited_for:
            _take_over(using, line, lines[line], now)
    return lines.keys() - there.keys()


def _gone(line: str, others: Sequence[_Row], policy: Policy, now: datetime) -> tuple[list[_Row], Fate] | None:
    """The lines that are to be forgotten when this one comes, and how what they hold ends; None: it may not come."""
    idle = sorted((row for row in others if not row.is_connected and row.name != line), key=lambda row: row.seen_at)
    surplus = len({row.name for row in others} | {line}) - policy.max_lines
    if surplus > len(idle):
        return None
    if not any(row.is_in_use(policy, now) for row in others):
        return idle, Fate.EXPIRED  # what waits for lines that nobody uses is for this one
    return idle[: max(0, surplus)], Fate.DROPPED


def _with_something(using: str, bases: Collection[int]) -> set[int]:
    """Those of these queues that hold something for the first line that comes."""
    found: set[int] = set()
    for chunk in chunks(sorted(bases)):
        for model in (Message, Loss, CollapseSlot):
            rows = model._default_manager.using(using).filter(queue_id__in=chunk)
            found.update(rows.order_by().values_list("queue_id", flat=True).distinct())
    return found


def base_id(line: str) -> int:
    return queue_id(base_of(line))


def take_over(using: str, line: str, policy: Policy, now: datetime) -> int:
    """Move what waits in the queue itself to this line of it, unless clients use the queue itself as their line.

    Also what the queue has lost, so that somebody is told. Each message is taken once: whoever locks it first has it.
    A line that was forgotten while it is connected takes nothing.
    """
    is_known = Queue.objects.using(using).filter(pk=queue_id(line), seen_at__isnull=False).exists()
    return _take_over(using, line, policy, now) if is_known else 0


def _take_over(using: str, line: str, policy: Policy, now: datetime) -> int:
    base = base_id(line)
    shared = _by_base(Queue.objects.using(using), "id", [base])[base]
    if any(row.is_in_use(policy, now) for row in shared):
        return 0
    with own_transaction(using):
        if shared and _has_line_in_use(using, base, policy, now):  # it was a line itself: the others have had the same
            rows = Message.objects.using(using).filter(queue_id=base, body_id__isnull=False).order_by("pk")
            remove(using, hold(rows, using), Fate.EXPIRED, now)
        return _move(using, base, queue_id(line), now)


def _has_line_in_use(using: str, base: int, policy: Policy, now: datetime) -> bool:
    """Whether the queue has a line in use, apart from itself."""
    return any(row.is_in_use(policy, now) for row in _by_base(Queue.objects.using(using), "parent_id", [base])[base])


def _move(using: str, source: int, target: int, now: datetime) -> int:
    moved = 0
    with own_transaction(using):
        losses = Loss.objects.using(using).filter(queue_id=source).order_by("pk")
        _move_rows(losses, using, target)
        _remove_doubles(using, source, target)
        while count := _move_rows(Message.objects.using(using).filter(queue_id=source).order_by("pk"), using, target):
            moved += count
        collapsing.move(using, source, target, now)
    return moved


def _remove_doubles(using: str, source: int, target: int) -> None:
    """What both of them have is wanted once. It is no end of the message: a copy of it stays."""
    same = Message.objects.filter(queue_id=target, body_id=OuterRef("body_id"))
    doubles = Message.objects.using(using).filter(Exists(same), queue_id=source, body_id__isnull=False)
    held = lock(using, doubles.values_list("pk", flat=True))
    collapsing.forget_positions(using, source, [p for p, one in held.items() if one.flags & Flag.COLLAPSING])
    delete(using, held)
    accounting.count(using, Event.MERGED, [one.priority for one in held.values()])


def _move_rows(rows: QuerySet[Message] | QuerySet[Loss], using: str, target: int) -> int:
    mine = list(skipping_locked(rows, using).values_list("pk", flat=True)[:CHUNK])
    return rows.model._default_manager.using(using).filter(pk__in=mine).update(queue_id=target) if mine else 0


def forget(
    using: str, line: str, fate: Fate, policy: Policy, now: datetime, *, unless_seen_after: datetime | None = None
) -> int:
    """The line is in use no more. What it holds goes, or back into the queue itself if that has no other line.

    Returns the number of messages that are gone. In the caller's transaction or its own; may be repeated. Lines of one
    queue come and go one after the other: of two that are forgotten, neither takes the other for what is left.
    """
    if not client_of(line):
        return 0
    id, base = queue_id(line), base_id(line)
    with own_transaction(using):
        lock_queues(using, [base_of(line)])
        rows = Queue.objects.using(using).filter(pk=id, seen_at__isnull=False)
        rows = rows if unless_seen_after is None else rows.filter(seen_at__lte=unless_seen_after)
        if not rows.update(seen_at=None, idle_since=now):
            return 0
        shared = _by_base(Queue.objects.using(using), "id", [base])[base]
        is_last = not _has_line_in_use(using, base, policy, now)
        if is_last and not any(row.is_in_use(policy, now) for row in shared):
            _move(using, id, base, now)
            return 0
        messages = Message.objects.using(using).filter(queue_id=id).order_by("pk")
        return remove(using, hold(messages, using), fate, now)


def expire_lines(using: str, limit: int, now: datetime) -> int:
    """Forget up to ``limit`` lines whose clients have not come back in time. Returns how many were due."""
    due = old_lines(using, limit, now)
    for name, policy in due:
        oldest = now - timedelta(seconds=policy.line_seconds)
        forget(using, name, Fate.EXPIRED, policy, now, unless_seen_after=oldest)
    return len(due)


def old_lines(using: str, limit: int, now: datetime) -> list[tuple[str, Policy]]:
    """The lines that are in use no more and have not been forgotten, each with its policy, longest idle first."""
    connected = Exists(LiveConnection.objects.filter(queue_id=OuterRef("pk")))
    rows = Queue.objects.using(using).filter(~connected, parent_id__isnull=False, seen_at__isnull=False)
    shortest = now - timedelta(seconds=min(policy.line_seconds for policy in conf.policies()))
    old = rows.filter(idle_since__lte=shortest).order_by("idle_since", "pk")
    found: list[tuple[str, Policy]] = []
    for name, policy_name, seen_at in old.values_list("name", "policy", "seen_at").iterator(CHUNK):
        policy = conf.policy_of(name, policy_name)
        if seen_at is not None and seen_at <= now - timedelta(seconds=policy.line_seconds):
            found.append((name, policy))
        if len(found) == limit:
            break
    return found
