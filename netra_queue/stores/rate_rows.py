"""How the database store counts against rates, and finds what waits for its time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from django.db import connections
from django.db.models import Min

from ..core.rate import Taken, Want
from ..models import Message, RateBucket, queue_id
from .base import Store
from .connecting import own_transaction, run
from .rows import chunks


class DatabaseRates(Store):
    """See ``Store``."""

    using: str

    @property
    def admits_in_transaction(self) -> bool:  # type: ignore[override]  # a constant elsewhere
        """On SQLite, who has written has everybody else wait anyway: another connection could not count meanwhile."""
        return connections[self.using].vendor == "sqlite"

    def admit(self, wants: Sequence[Want]) -> list[Taken]:
        now = self.now().timestamp()
        if len(wants) == 1 and run(self.using, lambda: _took(self.using, wants[0], now)):
            return [wants[0].take(now, now)]
        return run(self.using, lambda: _admit(self.using, wants, now))

    def next_due(self, queues: Collection[str]) -> dict[str, datetime]:
        now, names = self.now(), {queue_id(name): name for name in queues}
        return run(self.using, lambda: _next_due(self.using, names, now))


def _took(using: str, want: Want, now: float) -> bool:
    """Whether the tokens were there, and the bucket has a row: then they are taken, in one statement."""
    connection, rate = connections[using], want.rate
    seconds = want.number * rate.seconds_each
    if want.number > rate.burst:  # see Taken.wait
        return False
    table = connection.ops.quote_name(RateBucket._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET full_at = CASE WHEN full_at > %s THEN full_at ELSE %s END + %s "
            f"WHERE id = %s AND full_at <= %s",
            [now, now, seconds, queue_id(want.bucket), now + rate.burst_seconds - seconds],
        )
        return bool(cursor.rowcount == 1)


def _admit(using: str, wants: Sequence[Want], now: float) -> list[Taken]:
    """The rows are locked in the order of their ids."""
    with own_transaction(using):
        full_at = _locked(using, {queue_id(want.bucket) for want in wants})
        takings = [want.take(full_at[queue_id(want.bucket)], now) for want in wants]
        if not any(want.missing_seconds(taken) for want, taken in zip(wants, takings, strict=True)):
            _write(using, {queue_id(want.bucket): taken.full_at for want, taken in zip(wants, takings, strict=True)})
    return takings


def _locked(using: str, ids: Collection[int]) -> dict[int, float]:
    rows = RateBucket.objects.using(using).order_by("pk").select_for_update()
    found: dict[int, float] = {}
    for chunk in chunks(sorted(ids)):
        there = dict(rows.filter(pk__in=chunk).values_list("pk", "full_at"))
        if missing := [RateBucket(id=id, full_at=0.0) for id in chunk if id not in there]:
            RateBucket.objects.using(using).bulk_create(missing, ignore_conflicts=True)
            there |= dict(rows.filter(pk__in=[row.pk for row in missing]).values_list("pk", "full_at"))
        found |= there
    return found


def _write(using: str, full_at: Mapping[int, float]) -> None:
    for id, moment in sorted(full_at.items()):
        RateBucket.objects.using(using).filter(pk=id).update(full_at=moment)


def _next_due(using: str, names: Mapping[int, str], now: datetime) -> dict[str, datetime]:
    found: dict[str, datetime] = {}
    for chunk in chunks(sorted(names)):
        rows = Message.objects.using(using).filter(queue_id__in=chunk, not_before__gt=now).order_by()
        due = rows.values_list("queue_id").annotate(Min("not_before"))
        found |= {names[id]: moment for id, moment in due}
    return found
