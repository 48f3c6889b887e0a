"""The store on a Django database: PostgreSQL, SQLite, MariaDB and MySQL.

Transactions are short and never open while anything waits for a network. Rows of messages are taken in the order of
their ids, and rows that another transaction holds are skipped where they can be, so that acks, sweeps and senders do
not wait for each other in circles.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b

from django.db import connections, router, transaction

from .. import models
from ..core.connection import ReadRequest
from ..core.message import Draft, Losses, Message, Outcome, Payload, PayloadKind, Priority
from ..core.policy import Overflow, Policy
from ..exceptions import InvalidMessage, StoreUnavailable
from ..models import queue_id
from . import limits, overview, presence, upkeep
from .base import Appended, Batch, Due, Opened, Overview, Presence, QueueStat, Result, Server, Store
from .clock import DatabaseClock
from .connecting import database_time, in_own_thread, is_in_transaction, own_transaction, run

READS_PER_STATEMENT = 100
KEY_ATTEMPTS = 5


class DatabaseStore(Store):
    """``using``: the alias of the database; by default the one that the project's routers choose for our models."""

    transactional = True

    def __init__(self, using: str | None = None) -> None:
        self.using = using or router.db_for_write(models.Message)
        self._clock = DatabaseClock(lambda: database_time(self.using))

    def now(self) -> datetime:
        return run(self.using, self._clock.now)

    # --- threads -----------------------------------------------------------------------------------------------

    def in_own_thread(self, work: Callable[[], Result]) -> Result:
        return in_own_thread(self.using, work)

    def leave_thread(self) -> None:
        connections[self.using].close()

    def in_transaction(self) -> bool:
        return is_in_transaction(self.using)

    def after_commit(self, callback: Callable[[], None]) -> None:
        if self.in_transaction():
            transaction.on_commit(callback, using=self.using, robust=True)
        else:
            callback()

    # --- messages ----------------------------------------------------------------------------------------------

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
        with own_transaction(self.using, savepoint=may_reject):
            firsts = self._use_keys(drafts, now)
            fresh = [draft for draft in drafts if draft.id not in firsts]
            positions = self._insert(fresh, now)
            added = Counter(draft.queue for draft in fresh)
            removed = limits.enforce(self.using, added, policies, now, exact=exact) if fresh else set()
            self._release_keys([d for d in fresh if positions[d.id] in removed])
        return [_answer(draft, firsts, positions, removed) for draft in drafts]

    def _use_keys(self, drafts: Sequence[Draft], now: datetime) -> dict[str, str]:
        """Reserve the drafts' idempotency keys. Returns the first message's id for each draft that is a duplicate."""
        keyed = [draft for draft in drafts if draft.key is not None]
        firsts: dict[str, str] = {}
        for _ in range(KEY_ATTEMPTS):
            if not keyed:
                return firsts
            found = self._reserve(keyed, now)
            firsts |= {id: first for id, first in found.items() if first != id}
            keyed = [draft for draft in keyed if draft.id not in found]
        raise StoreUnavailable("an idempotency key changes hands all the time")

    def _reserve(self, keyed: Sequence[Draft], now: datetime) -> dict[str, str]:
        """The id of the message that has the key, for each draft's id.

        A draft is left out when its key's row went, or got another owner, between two of these statements: ask again.
        """
        used = models.UsedKey.objects.using(self.using)
        rows = sorted((_used_key(draft, now) for draft in keyed), key=_key_order)
        used.bulk_create(rows, ignore_conflicts=True)
        there = used.filter(queue_id__in={row.queue_id for row in rows}, digest__in={row.digest for row in rows})
        owners = {_key_order(row): row for row in there}
        found: dict[str, str] = {}
        for draft in keyed:
            wanted = _used_key(draft, now)
            row = owners.get(_key_order(wanted))
            if row is not None and (row.uid == draft.id or row.expires_at > now):
                found[draft.id] = row.uid
            elif row is not None and used.filter(pk=row.pk, uid=row.uid, expires_at__lte=now).update(
                uid=draft.id, expires_at=wanted.expires_at
            ):
                found[draft.id] = row.uid = draft.id
                row.expires_at = wanted.expires_at
        return found

    def _release_keys(self, dropped: Sequence[Draft]) -> None:
        for draft in dropped:
            if draft.key is not None:
                mine = models.UsedKey.objects.using(self.using).filter(uid=draft.id)
                mine.filter(queue_id=queue_id(draft.queue), digest=_digest(draft.key))._raw_delete(self.using)

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
                created_at=draft.sent_at or now,
                expires_at=(draft.sent_at or now) + timedelta(seconds=draft.ttl_seconds),
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
        chosen = self._choose_all(requests)
        found = self._fetch({position for positions, _ in chosen for position in positions})
        return [Batch(tuple(found[p] for p in positions if p in found), more) for positions, more in chosen]

    def _choose_all(self, requests: Sequence[tuple[str, ReadRequest]]) -> list[tuple[list[int], bool]]:
        """The positions for each request, and whether there may be more; each is a short walk along the index."""
        now = self.now()
        chosen: list[tuple[list[int], bool]] = []
        for start in range(0, len(requests), READS_PER_STATEMENT):
            chosen += self._choose(requests[start : start + READS_PER_STATEMENT], now)
        return chosen

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
        owners = {queue_id(name): name for name in positions}
        wanted = sorted({position for some in positions.values() for position in some})
        left: dict[str, set[int]] = defaultdict(set)
        for chunk in limits.chunks(wanted):
            rows = models.Message.objects.using(self.using).filter(queue_id__in=owners, pk__in=chunk).order_by("pk")
            with own_transaction(self.using):
                locked = limits.skipping_locked(rows, self.using).values_list("pk", "queue_id")
                taken = {position for position, queue in locked if position in positions[owners[queue]]}
                limits.delete(self.using, taken)
                if len(taken) < len(chunk):
                    for position, queue in rows.exclude(pk__in=taken).values_list("pk", "queue_id"):
                        left[owners[queue]].add(position)
        return {name: mine for name, some in left.items() if (mine := some & set(positions[name]))}

    def waiting(self, queues: Collection[str]) -> set[str]:
        requests = [(name, ReadRequest(1, 1, frozenset())) for name in sorted(queues)]
        chosen = run(self.using, lambda: self._choose_all(requests))
        return {name for (name, _), (positions, _) in zip(requests, chosen, strict=True) if positions}

    def losses(self, queues: Collection[str], told: Collection[int] = ()) -> dict[str, Losses]:
        ids = {queue_id(name): name for name in queues}
        return run(self.using, lambda: presence.losses(self.using, ids, told))

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

    def forget_keys(self, limit: int) -> int:
        now = self.now()
        return run(self.using, lambda: upkeep.forget_keys(self.using, limit, now))

    def due(self, limit: int) -> Due:
        now = self.now()
        return run(self.using, lambda: overview.due(self.using, limit, now))

    def purge(self, queue: str, limit: int, priority: Priority | None = None) -> int:
        now = self.now()
        return run(self.using, lambda: upkeep.purge(self.using, queue_id(queue), limit, priority, now))

    def stat(self, queue: str) -> QueueStat:
        return run(self.using, lambda: upkeep.stat(self.using, queue))

    def overview(self, limit: int, scan: int) -> Overview:
        now = self.now()
        return run(self.using, lambda: overview.overview(self.using, limit, scan, now))


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


def _used_key(draft: Draft, now: datetime) -> models.UsedKey:
    expires_at = now + timedelta(seconds=draft.ttl_seconds)
    digest = _digest(draft.key or "")
    return models.UsedKey(queue_id=queue_id(draft.queue), digest=digest, uid=draft.id, expires_at=expires_at)


def _key_order(row: models.UsedKey) -> tuple[int, str]:
    return row.queue_id, row.digest


def _digest(key: str) -> str:
    return blake2b(key.encode(), digest_size=16).hexdigest()
