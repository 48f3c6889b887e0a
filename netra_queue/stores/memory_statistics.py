"""Statistics of the store in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime

from ..core.statistics import BUCKET_SECONDS, Bucket, Figures, added_up, aligned
from .base import Store
from .statistics_base import HOUR, KEPT, ROLL_UPS

_Key = tuple[int, datetime, str]  # span, start, process


class MemoryStatistics(Store):
    """See ``Store``."""

    def __init__(self) -> None:
        self._statistics: dict[_Key, Figures] = {}
        self._ever = Figures()
        self._statistics_lock = threading.Lock()

    def record_statistics(self, process: str, buckets: Sequence[Bucket]) -> None:
        with self._statistics_lock:
            for bucket in buckets:
                self._statistics[BUCKET_SECONDS, bucket.start, process] = _copy(bucket.figures)

    def statistics(self, since: datetime, until: datetime, step_seconds: int) -> list[Bucket]:
        with self._statistics_lock:
            rows = [Bucket(start, figures) for (_, start, _), figures in self._statistics.items()]
            return added_up((row for row in rows if since <= row.start < until), step_seconds)

    def statistics_total(self) -> Figures:
        with self._statistics_lock:
            total = _copy(self._ever)
            for (span, _, _), figures in self._statistics.items():
                if span == BUCKET_SECONDS:
                    total.add(figures)
            return total

    def roll_up_statistics(self, limit: int) -> int:
        now, gone = self.now(), 0
        with self._statistics_lock:
            for span, coarse, age in ROLL_UPS:
                for key in self._older(span, aligned(now - age, coarse))[: limit - gone]:
                    figures = self._statistics.pop(key)
                    self._statistics.setdefault((coarse, aligned(key[1], coarse), ""), Figures()).add(figures)
                    if span == BUCKET_SECONDS:
                        self._ever.add(figures)
                    gone += 1
            for key in self._older(HOUR, now - KEPT)[: limit - gone]:
                del self._statistics[key]
                gone += 1
        return gone

    def _older(self, span: int, than: datetime) -> list[_Key]:
        return sorted(key for key in self._statistics if key[0] == span and key[1] < than)


def _copy(figures: Figures) -> Figures:
    copy = Figures()
    copy.add(figures)
    return copy
