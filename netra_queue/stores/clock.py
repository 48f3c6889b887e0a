"""The database's time, without asking the database for it each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

REFRESH_SECONDS = 60.0


class DatabaseClock:
    """Tells the time that ``ask`` tells, asking once a minute and counting on with the monotonic clock in between.

    Servers' clocks that differ, or that are set while the process runs, do not reach expiry or heartbeats this way.
    Thread-safe, and without a lock that a fork could find held.
    """

    def __init__(self, ask: Callable[[], datetime]) -> None:
        self._ask = ask
        self._known: tuple[datetime, float] | None = None  # what was answered, and when by the monotonic clock

    def now(self) -> datetime:
        if self._known is not None:
            base, asked_at = self._known
            elapsed = time.monotonic() - asked_at
            if elapsed < REFRESH_SECONDS:
                return base + timedelta(seconds=elapsed)
        base = self._ask()
        self._known = base, time.monotonic()
        return base
