"""The database's time, without asking the database for it each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

REFRESH_SECONDS = 60.0


class DatabaseClock:
    """Tells the time that ``ask`` tells, asking once a minute and counting on with the monotonic clock in between.

    Servers' clocks that differ, or that are set while the process runs, do not reach expiry or heartbeats this way.
    Thread-safe.
    """

    def __init__(self, ask: Callable[[], datetime]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._base = datetime.min.replace(tzinfo=UTC)
        self._asked_at = -REFRESH_SECONDS

    def now(self) -> datetime:
        elapsed = time.monotonic() - self._asked_at
        if elapsed >= REFRESH_SECONDS:
            base = self._ask()
            with self._lock:
                self._base, self._asked_at = base, time.monotonic()
            return base
        with self._lock:
            return self._base + timedelta(seconds=time.monotonic() - self._asked_at)
