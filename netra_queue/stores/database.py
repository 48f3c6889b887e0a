"""The store on a Django database: PostgreSQL, SQLite, MariaDB and MySQL.

Transactions are short and never open while anything waits for a network. Rows of messages are taken in the order of
their ids, and rows that another transaction holds are skipped where they can be, so that acks, sweeps and senders do
not wait for each other in circles.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b

from django.db import connections, router, transaction
from django.db.models import Exists, OuterRef

from .. import models
from ..core.connection import ReadRequest
from ..core.message import Draft, Losses, Message, Outcome, Payload, PayloadKind, Priority
from ..core.policy import Overflow, Policy
from ..exceptions import InvalidMessage
from ..models import queue_id
from . import limits, presence, upkeep
from .base import Appended, Batch, Opened, Presence, QueueStat, Server, Store
from .clock import DatabaseClock
from .connecting import database_time, is_in_transaction, own_transaction, run

READS_PER_STATEMENT = 100


class DatabaseStore(Store):
    """``using``: the alias of the database; by default the one that the project's routers choose for our models."""

    transactional = True

    def __init__(self, using: str | None = None) -> None:
        self.using = using or router.db_for_write(models.Message)
        self._clock = DatabaseClock(lambda: database_time(self.using))

    def now(self) -> datetime:
        return run(self.using, self._clock.now)

    # --- messages ----------------------------------------------------------------------------------------------

    def in_transaction(self) -> bool:
        return is_in_transaction(self.using)

    def describe(self, queues: Collection[str]) -> dict[str, str]:
        rows = models.Queue.objects.using(self.using).filter(pk__in=[queue_id(name) for name in queues])
        columns = rows.values_list("id", "name", "policy")
        found = run(self.using, lambda: {id: (name, policy) for id, name, policy in columns.all()})
        for name in queues:
            other, _ = found.get(queue_id(name), (name, ""))
            if other != name:
                raise InvalidMessage("queue name", expected=f"one that does not share its id with {other!r}", got=name)
        return dict(found.values())

    def ensure(self, queues: Collection[str]) -> None:
        now = self.now()
        rows = [
            models.Queue(id=queue_id(name), name=name, created_at=now, idle_since=now)
            for name in sorted(queues, key=queue_id)
        ]
        run(self.using, lambda: models.Queue.objects.using(self.using).bulk_create(rows, ignore_conflicts=True))
        self.describe(queues)

    def append(self, drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> list[Appended]:
        if not drafts:
            return []
        now = self.now()
        return run(self.using, lambda: self._append(drafts, policies, now, exact=not self.in_transaction()))

    def _append(
        self, drafts: Sequence[Draft], policies: Mapping[str, Policy], now: datetime, *, exact: bool
    ) -> list[Appended]:
        may_reject = any(policy.overflow is Overflow.REJECT for policy in policies.values())
        with own_transaction(self.using), transaction.atomic(using=self.using, savepoint=may_reject and not exact):
            firsts = self._use_keys(drafts, now)
            fresh = [draft for draft in drafts if draft.id not in firsts]
            positions = self._insert(fresh, now)
            added = Counter(draft.queue for draft in fresh)
            removed = limits.enforce(self.using, added, policies, now, exact=exact) if fresh else set()
            self._release_keys([d.id for d in fresh if d.key is not None and positions[d.id] in removed])
        return [_answer(draft, firsts, positions, removed) for draft in drafts]

    def _use_keys(self, drafts: Sequence[Draft], now: datetime) -> dict[str, str]:
        """Reserve the drafts' idempotency keys. Returns the first message's id for each draft that is a duplicate."""
        keyed = [(queue_id(d.queue), _digest(d.key), d) for d in drafts if d.key is not None]
        if not keyed:
            return {}
        rows = [
            models.UsedKey(queue_id=queue, digest=digest, uid=d.id, expires_at=now + timedelta(seconds=d.ttl_seconds))
            for queue, digest, d in sorted(keyed, key=lambda k: k[:2])
        ]
        used = models.UsedKey.objects.using(self.using)
        used.bulk_create(rows, ignore_conflicts=True)
        found = used.filter(queue_id__in={k[0] for k in keyed}, digest__in={k[1] for k in keyed})
        owners = {(row.queue_id, row.digest): row for row in found}
        firsts: dict[str, str] = {}
        for queue, digest, draft in keyed:
            row = owners.get((queue, digest))
            if row is None or (row.uid != draft.id and not self._take_over(row, draft, now)):
                firsts[draft.id] = row.uid if row else draft.id
        return firsts

    def _take_over(self, row: models.UsedKey, draft: Draft, now: datetime) -> bool:
        """Use a key again whose time has run out. Only one of several senders can."""
        if row.expires_at > now:
            return False
        until = now + timedelta(seconds=draft.ttl_seconds)
        stale = models.UsedKey.objects.using(self.using).filter(pk=row.pk, uid=row.uid, expires_at__lte=now)
        if not stale.update(uid=draft.id, expires_at=until):
            return False
        row.uid, row.expires_at = draft.id, until
        return True

    def _release_keys(self, uids: Sequence[str]) -> None:
        if uids:
            models.UsedKey.objects.using(self.using).filter(uid__in=uids).delete()

    def _insert(self, drafts: Sequence[Draft], now: datetime) -> dict[str, int]:
        """Insert in order. Returns the positions by message id."""
        rows = [
            models.Message(
                queue_id=queue_id(draft.queue),
                uid=draft.id,
                priority=int(draft.priority),
                kind=int(draft.payload.kind),
                payload=draft.payload.text,
                size=draft.payload.size,
                created_at=now,
                expires_at=now + timedelta(seconds=draft.ttl_seconds),
            )
            for draft in drafts
        ]
        inserted = models.Message.objects.using(self.using).bulk_create(rows)
        if connections[self.using].features.can_return_rows_from_bulk_insert:
            return {row.uid: row.pk for row in inserted}
        ids = {queue_id(draft.queue) for draft in drafts}
        mine = models.Message.objects.using(self.using).filter(queue_id__in=ids, uid__in=[d.id for d in drafts])
        return dict(mine.values_list("uid", "id"))

    def read(self, requests: Sequence[tuple[str, ReadRequest]]) -> list[Batch]:
        return run(self.using, lambda: self._read(requests))

    def _read(self, requests: Sequence[tuple[str, ReadRequest]]) -> list[Batch]:
        """Two statements: which messages (all requests at once, payloads untouched), then those messages."""
        now = self.now()
        chosen: list[tuple[list[int], bool]] = []
        for start in range(0, len(requests), READS_PER_STATEMENT):
            chosen += self._choose(requests[start : start + READS_PER_STATEMENT], now)
        found = self._fetch({position for positions, _ in chosen for position in positions})
        return [Batch(tuple(found[p] for p in positions if p in found), more) for positions, more in chosen]

    def _choose(self, requests: Sequence[tuple[str, ReadRequest]], now: datetime) -> list[tuple[list[int], bool]]:
        connection = connections[self.using]
        table = connection.ops.quote_name(models.Message._meta.db_table)
        parts = [_choose_sql(number, table, name, request) for number, (name, request) in enumerate(requests)]
        parameters = [connection.ops.adapt_datetimefield_value(now)] * len(requests)
        with connection.cursor() as cursor:
            cursor.execute(" UNION ALL ".join(parts), parameters)
            rows = sorted(cursor.fetchall())
        by_request: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, _, position, size in rows:
            by_request[number].append((position, size))
        return [_within(by_request[number], request) for number, (_, request) in enumerate(requests)]

    def _fetch(self, positions: Collection[int]) -> dict[int, Message]:
        columns = ("id", "uid", "kind", "payload", "size", "priority", "created_at")
        found: dict[int, Message] = {}
        for chunk in limits.chunks(sorted(positions)):
            rows = models.Message.objects.using(self.using).filter(pk__in=chunk).values_list(*columns)
            for position, uid, kind, text, size, priority, created_at in rows:
                payload = Payload(PayloadKind(kind), text, size)
                found[position] = Message(
                    position=position, id=uid, payload=payload, priority=Priority(priority), created_at=created_at
                )
        return found

    def ack(self, positions: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
        return run(self.using, lambda: self._ack(positions))

    def _ack(self, positions: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
        wanted = sorted({position for some in positions.values() for position in some})
        mine = models.Message.objects.using(self.using).filter(queue_id__in=[queue_id(name) for name in positions])
        left: set[int] = set()
        for chunk in limits.chunks(wanted):
            with own_transaction(self.using):
                rows = limits.skipping_locked(mine.filter(pk__in=chunk).order_by("pk"), self.using)
                taken = list(rows.values_list("pk", flat=True))
                limits.delete(self.using, taken)
                if len(taken) < len(chunk):
                    left |= set(mine.filter(pk__in=set(chunk) - set(taken)).values_list("pk", flat=True))
        return {name: still for name, some in positions.items() if (still := left & set(some))}

    def waiting(self, queues: Collection[str]) -> set[str]:
        def work() -> set[str]:
            unexpired = models.Message.objects.filter(queue_id=OuterRef("pk"), expires_at__gt=self.now())
            known = models.Queue.objects.using(self.using)
            names: set[str] = set()
            for chunk in limits.chunks([queue_id(name) for name in queues]):
                names |= set(known.filter(Exists(unexpired), pk__in=chunk).values_list("name", flat=True))
            return names

        return run(self.using, work)

    def losses(self, queues: Collection[str]) -> dict[str, Losses]:
        ids = {queue_id(name): name for name in queues}
        return run(self.using, lambda: presence.losses(self.using, ids))

    def settle(self, queue: str, records: Collection[int]) -> None:
        rows = models.Loss.objects.using(self.using).filter(queue_id=queue_id(queue), pk__in=list(records))
        run(self.using, rows.delete)

    # --- connections -------------------------------------------------------------------------------------------

    def attach(self, presence_: Presence, policy: Policy) -> Opened:
        now = self.now()
        return run(self.using, lambda: presence.attach(self.using, presence_, policy, now))

    def detach(self, presences: Collection[Presence]) -> None:
        now = self.now()
        run(self.using, lambda: presence.detach(self.using, presences, now))

    def holders(self, queues: Collection[str]) -> dict[str, list[str]]:
        now = self.now()
        return run(self.using, lambda: presence.holders(self.using, queues, now))

    def heartbeat(self, server: Server) -> bool:
        now = self.now()
        return run(self.using, lambda: presence.heartbeat(self.using, server, now))

    def retire(self, server: Server) -> None:
        run(self.using, lambda: presence.retire(self.using, server))

    # --- upkeep ------------------------------------------------------------------------------------------------

    def sweep(self, limit: int) -> int:
        now = self.now()
        return run(self.using, lambda: upkeep.sweep(self.using, limit, now))

    def reap(self) -> int:
        now = self.now()
        return run(self.using, lambda: presence.reap(self.using, now))

    def forget_idle(self, limit: int) -> int:
        now = self.now()
        return run(self.using, lambda: upkeep.forget_idle(self.using, limit, now))

    def purge(self, queue: str, limit: int, priority: Priority | None = None) -> int:
        now = self.now()
        return run(self.using, lambda: upkeep.purge(self.using, queue_id(queue), limit, priority, now))

    def stat(self, queue: str) -> QueueStat:
        return run(self.using, lambda: upkeep.stat(self.using, queue))


def _answer(
    draft: Draft, firsts: Mapping[str, str], positions: Mapping[str, int], removed: Collection[int]
) -> Appended:
    if draft.id in firsts:
        return Appended(firsts[draft.id], Outcome.DUPLICATE)
    if positions[draft.id] in removed:
        return Appended(draft.id, Outcome.DROPPED)
    return Appended(draft.id, Outcome.QUEUED, positions[draft.id])


def _choose_sql(number: int, table: str, name: str, request: ReadRequest) -> str:
    """One request's part of the statement. Only integers of ours are written into it; the time is a parameter."""
    excluded = ",".join(map(str, sorted(request.excluded)))
    without = f" AND id NOT IN ({excluded})" if excluded else ""
    return (
        f"SELECT * FROM (SELECT {number} AS request, priority, id, size FROM {table} "
        f"WHERE queue_id = {queue_id(name)} AND expires_at > %s{without} "
        f"ORDER BY priority, id LIMIT {int(request.limit)}) AS r{number}"
    )


def _within(rows: Sequence[tuple[int, int]], request: ReadRequest) -> tuple[list[int], bool]:
    """The positions that fit the request's bytes (the last one may exceed them), and whether there may be more."""
    positions: list[int] = []
    size = 0
    for position, bytes_ in rows:
        if size >= request.max_bytes:
            return positions, True
        positions.append(position)
        size += bytes_
    return positions, len(rows) >= request.limit


def _digest(key: str) -> str:
    return blake2b(key.encode(), digest_size=16).hexdigest()
