"""Copies of messages for the operator, made in the transaction that removes them, where their policies say so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta

from django.db import connections
from django.db.models import F

from .. import conf
from ..core.message import LossReason
from ..core.policy import Policy
from ..models import Body, DeadLetter, Message, Queue
from .rows import Held, chunks

COPIED = ("queue_id", "uid", "priority", "kind", "size", "deliveries", "created_at", "expires_at")


def set_aside(using: str, messages: Collection[Held], reason: LossReason, now: datetime) -> None:
    """Copy those of these messages whose queues' policies keep what goes for this reason. They are still there.

    Payloads stay in the database. No queue is looked up unless some policy keeps such messages.
    """
    if not messages or not keeps(reason):
        return
    policies = _policies(using, {held.queue for held in messages})
    kept: dict[float, list[int]] = defaultdict(list)
    for held in messages:
        policy = policies[held.queue]
        if reason in policy.dead_letters:
            kept[policy.dead_letter_seconds].append(held.position)
    for seconds, positions in kept.items():
        for chunk in chunks(sorted(positions)):
            _copy(using, chunk, reason, now, now + timedelta(seconds=seconds))


def keeps(reason: LossReason) -> bool:
    """Whether any policy keeps what goes for this reason."""
    return any(reason in policy.dead_letters for policy in conf.policies())


def _policies(using: str, queues: Iterable[int]) -> dict[int, Policy]:
    ids = sorted(queues)
    known: dict[int, Policy] = {}
    for chunk in chunks(ids):
        rows = Queue.objects.using(using).filter(pk__in=chunk).values_list("pk", "name", "policy")
        known |= {id: conf.policy_of(name, policy) for id, name, policy in rows}
    return {id: known[id] if id in known else conf.policy("default") for id in ids}


def _copy(using: str, positions: Sequence[int], reason: LossReason, now: datetime, keep_until: datetime) -> None:
    """One statement. Only integers of ours are written into it."""
    connection = connections[using]
    quote, adapt = connection.ops.quote_name, connection.ops.adapt_datetimefield_value
    columns = ", ".join(map(quote, (*COPIED, "payload", "reason", "died_at", "keep_until")))
    values = ", ".join(f"m.{quote(column)}" for column in COPIED)
    body = f"LEFT JOIN {quote(Body._meta.db_table)} AS b ON b.id = m.body_id"
    source, condition = _source(using, quote(Message._meta.db_table), positions)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {quote(DeadLetter._meta.db_table)} ({columns}) "
            f"SELECT {values}, COALESCE(b.payload, m.payload), %s, %s, %s FROM {source} {body} {condition}",
            [reason.value, adapt(now), adapt(keep_until)],
        )


def count_delivery(using: str, positions: Iterable[int], by: int) -> None:
    """Add to ``deliveries`` of these messages, whose rows this transaction has locked."""
    for chunk in chunks(sorted(positions)):
        Message.objects.using(using).filter(pk__in=chunk).update(deliveries=F("deliveries") + by)


def _source(using: str, table: str, positions: Sequence[int]) -> tuple[str, str]:
    """These rows of the messages, as ``m``: what to take them from, and the condition.

    MariaDB and MySQL look each row up by its key only when they are made to (see ``rows.delete``). In a caller's
    transaction of REPEATABLE READ they lock what they look at here.
    """
    if connections[using].vendor != "mysql":
        return f"{table} AS m", f"WHERE m.id IN ({','.join(str(int(position)) for position in positions)})"
    wanted = " UNION ALL ".join(f"SELECT {int(position)} AS id" for position in positions)
    return f"({wanted}) AS wanted STRAIGHT_JOIN {table} AS m FORCE INDEX FOR JOIN (PRIMARY) ON m.id = wanted.id", ""
