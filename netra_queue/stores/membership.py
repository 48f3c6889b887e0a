"""Durable groups in the database: who is subscribed, and how that stays as it is until a sender has committed.

    sender:       shared lock on the group's row ----> reads its members ----> commit
    subscription: exclusive lock on the group's row -> one row more or less -> commit

So whoever is subscribed when a sender commits was found by it. Senders do not wait for each other, and a subscription
that is there already waits for nobody. SQLite has one writer at a time, and needs no locks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime

from django.db import connections
from django.db.models import OuterRef, Subquery

from ..exceptions import InvalidMessage, StoreUnavailable
from ..models import Group, LiveConnection, Membership, Queue, group_id, queue_id
from .connecting import own_transaction
from .presence import lease
from .rows import chunks, delete, skipping_locked

LOCK_ATTEMPTS = 5
SHARED = {"postgresql": " FOR SHARE", "mysql": " LOCK IN SHARE MODE"}
EXCLUSIVE = {"postgresql": " FOR UPDATE", "mysql": " FOR UPDATE"}


def subscribe(using: str, queues: Collection[str], group: str, now: datetime) -> int:
    id, added = group_id(group), 0
    for chunk in chunks(sorted({queue_id(name) for name in queues})):
        if not _missing(using, id, chunk):
            continue
        with own_transaction(using):
            lock_group(using, group, now, EXCLUSIVE)
            rows = [Membership(group_id=id, queue_id=queue, created_at=now) for queue in _missing(using, id, chunk)]
            Membership.objects.using(using).bulk_create(rows, ignore_conflicts=True)
            added += len(rows)
    return added


def unsubscribe(using: str, queues: Collection[str], group: str, now: datetime) -> int:
    removed = 0
    for chunk in chunks(sorted({queue_id(name) for name in queues})):
        rows = Membership.objects.using(using).filter(group_id=group_id(group), queue_id__in=chunk)
        if not rows.exists():
            continue
        with own_transaction(using):
            lock_group(using, group, now, EXCLUSIVE)
            removed += delete(using, list(rows.values_list("pk", flat=True)), Membership)
    return removed


def _missing(using: str, group: int, queues: Sequence[int]) -> list[int]:
    there = Membership.objects.using(using).filter(group_id=group, queue_id__in=queues)
    return sorted(set(queues) - set(there.values_list("queue_id", flat=True)))


def lock_group(using: str, group: str, now: datetime, kind: dict[str, str]) -> None:
    """Lock the group's row until the transaction ends. A row that is missing is made: the first subscription, too, has
    to wait for those who have looked for members.

    Raises InvalidMessage for a name that cannot live beside one that is there.
    """
    row = Group(id=group_id(group), name=group, created_at=now)
    for _ in range(LOCK_ATTEMPTS):
        name = _lock_row(using, row.id, kind)
        if name == group:
            return
        if name is not None:
            raise InvalidMessage("group name", expected=f"one that does not share its id with {name!r}", got=group)
        Group.objects.using(using).bulk_create([row], ignore_conflicts=True)
    raise StoreUnavailable("a group comes and goes all the time")


def _lock_row(using: str, id: int, kind: dict[str, str]) -> str | None:
    """The group's name; None: there is no such row."""
    connection = connections[using]
    table = connection.ops.quote_name(Group._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT name FROM {table} WHERE id = %s{kind.get(connection.vendor, '')}", [id])
        found = cursor.fetchone()
    return None if found is None else str(found[0])


def members(using: str, group: str, limit: int) -> list[str]:
    """A queue that was forgotten as idle stays subscribed, and is named by ``#`` and its id."""
    rows = Membership.objects.using(using).filter(group_id=group_id(group)).order_by("queue_id")
    ids = list(rows.values_list("queue_id", flat=True)[:limit])
    names: dict[int, str] = {}
    for chunk in chunks(ids):
        names |= dict(Queue.objects.using(using).filter(pk__in=chunk).values_list("pk", "name"))
    return [names.get(id, f"#{id}") for id in ids]


def holders(using: str, groups: Collection[str], now: datetime) -> dict[str, list[str]]:
    """One statement: the connections of queues that are members, and of lines of such queues."""
    ids = [group_id(group) for group in groups]
    live = LiveConnection.objects.using(using).filter(server__heartbeat_at__gt=lease(now))
    shared = live.filter(queue__memberships__group_id__in=ids).values_list("server_id", "queue__name")
    lines = live.filter(queue__parent__memberships__group_id__in=ids).values_list("server_id", "queue__name")
    found: dict[str, list[str]] = defaultdict(list)
    for server, name in shared.union(lines):
        found[server].append(name)
    return {server: sorted(names) for server, names in found.items()}


def forget_empty(using: str, limit: int, cutoff: datetime) -> int:
    """Remove up to ``limit`` groups without members that were made before ``cutoff``. Those in use are left alone."""
    a_member = Subquery(Membership.objects.filter(group_id=OuterRef("pk")).values("pk")[:1])  # as in idle_queues
    empty = Group.objects.using(using).filter(created_at__lt=cutoff).alias(a_member=a_member).filter(a_member=None)
    removed = 0
    for chunk in chunks(list(empty.order_by("pk").values_list("pk", flat=True)[:limit])):
        with own_transaction(using):
            rows = Group.objects.using(using).filter(pk__in=chunk).order_by("pk")
            locked = list(skipping_locked(rows, using).values_list("pk", flat=True))
            removed += delete(using, list(empty.filter(pk__in=locked).values_list("pk", flat=True)), Group)
    return removed
