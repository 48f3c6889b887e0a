"""When expired messages were swept last, by any process: from the statistics, which is where it is counted."""

from __future__ import annotations

from datetime import datetime, timedelta

from .core.statistics import BUCKET_SECONDS, Event, aligned
from .stores.base import Store
from .stores.statistics_base import HOUR, KEPT

LATE = timedelta(minutes=15)  # a process that could not write has what it counted for at least ten minutes


class LastSweep:
    """Looks no further back than where there may be something new, so that asking again costs little."""

    def __init__(self) -> None:
        self._store: Store | None = None
        self._found: datetime | None = None
        self._looked_at: datetime | None = None

    def ask(self, store: Store) -> datetime | None:
        """The beginning of the bucket it was counted in, so up to BUCKET_SECONDS early; of a minute or an hour, if that
        was rolled up before it was found. None: not since statistics are kept. Raises what the store raises."""
        if store is not self._store:
            self._store, self._found, self._looked_at = store, None, None
        now = store.now()
        since = aligned(now - KEPT) if self._looked_at is None else self._looked_at - LATE
        newest = _newest(store, max(since, self._found or since), now + timedelta(seconds=BUCKET_SECONDS))
        self._looked_at, self._found = now, newest or self._found
        return self._found


def _newest(store: Store, since: datetime, until: datetime) -> datetime | None:
    """First in which hour, then when in it."""
    newest = None
    for step in (HOUR, BUCKET_SECONDS):
        swept = [bucket.start for bucket in store.statistics(since, until, step) if bucket.figures.count(Event.SWEPT)]
        if not swept:
            return newest
        newest = swept[-1]
        since = max(since, newest)
    return newest
