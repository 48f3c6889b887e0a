"""Statistics in the database: a row for each process and ten seconds, later one a minute, then one an hour.

Whoever rolls up holds the row of what has ever happened, so that one does it at a time. Ten-second rows are added to
that row when they go, so what has ever happened is that row and the ten-second rows that are left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from django.db import connections

from ..core.message import EPOCH
from ..core.statistics import BUCKET_SECONDS, Bucket, Figures, aligned
from ..models import Statistics
from .base import Store
from .connecting import own_transaction, run
from .rows import delete, skipping_locked
from .statistics_base import HOUR, KEPT, ROLL_UPS

EVER = 0


class DatabaseStatistics(Store):
    """See ``Store``."""

    using: str

    def record_statistics(self, process: str, buckets: Sequence[Bucket]) -> None:
        run(self.using, lambda: _put(self.using, BUCKET_SECONDS, process, buckets))

    def statistics(self, since: datetime, until: datetime, step_seconds: int) -> list[Bucket]:
        rows = Statistics.objects.using(self.using).filter(start__gte=since, start__lt=until).exclude(span=EVER)
        found = run(self.using, lambda: list(rows.values_list("start", "figures")))
        return _added_up(found, step_seconds)

    def statistics_total(self) -> Figures:
        rows = Statistics.objects.using(self.using).filter(span__in=[EVER, BUCKET_SECONDS])
        return _sum(run(self.using, lambda: list(rows.values_list("figures", flat=True))))

    def roll_up_statistics(self, limit: int) -> int:
        now = self.now()
        return run(self.using, lambda: _roll_up(self.using, limit, now))


def _sum(figures: Iterable[str]) -> Figures:
    total = Figures()
    for text in figures:
        total.add_json(text)
    return total


def _added_up(rows: Iterable[tuple[datetime, str]], seconds: int) -> list[Bucket]:
    """``core.statistics.added_up`` for rows, given as their start and figures."""
    found: dict[datetime, Figures] = defaultdict(Figures)
    for start, figures in rows:
        found[aligned(start, seconds)].add_json(figures)
    return [Bucket(start, found[start]) for start in sorted(found)]


def _put(using: str, span: int, process: str, buckets: Iterable[Bucket]) -> None:
    """These buckets' rows, whether they are there or not."""
    rows = [
        Statistics(span=span, start=bucket.start, process=process, figures=bucket.figures.as_json())
        for bucket in buckets
    ]
    unique = None if connections[using].vendor == "mysql" else ["span", "start", "process"]
    Statistics.objects.using(using).bulk_create(
        rows, update_conflicts=True, update_fields=["figures"], unique_fields=unique
    )


def _roll_up(using: str, limit: int, now: datetime) -> int:
    ever = Statistics(span=EVER, start=EPOCH, process="", figures=Figures().as_json())
    if not Statistics.objects.using(using).filter(span=EVER).exists():
        Statistics.objects.using(using).bulk_create([ever], ignore_conflicts=True)
    with own_transaction(using):
        mine = list(skipping_locked(Statistics.objects.using(using).filter(span=EVER), using))
        if not mine:
            return 0
        gone = 0
        for span, coarse, age in ROLL_UPS:
            gone += _merge(using, mine[0], span, coarse, aligned(now - age, coarse), limit - gone)
        return gone + delete(using, [row.pk for row in _older(using, HOUR, now - KEPT, limit - gone)], Statistics)


def _older(using: str, span: int, than: datetime, limit: int) -> list[Statistics]:
    rows = Statistics.objects.using(using).filter(span=span, start__lt=than).order_by("start", "pk")
    return list(rows.select_for_update()[:limit]) if limit > 0 else []


def _merge(using: str, ever: Statistics, span: int, coarse: int, before: datetime, limit: int) -> int:
    """Add up to ``limit`` rows of this span up into those of a coarser one. Returns how many went."""
    rows = _older(using, span, before, limit)
    if not rows:
        return 0
    mine = [(row.start, row.figures) for row in rows]
    starts = {aligned(start, coarse) for start, _ in mine}
    there = Statistics.objects.using(using).filter(span=coarse, start__in=starts).values_list("start", "figures")
    _put(using, coarse, "", _added_up([*mine, *there], coarse))
    if span == BUCKET_SECONDS:
        Statistics.objects.using(using).filter(pk=ever.pk).update(
            figures=_sum([ever.figures, *(row.figures for row in rows)]).as_json()
        )
    return delete(using, [row.pk for row in rows], Statistics)
