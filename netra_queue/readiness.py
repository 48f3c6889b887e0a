"""What was found of this process's parts a moment ago, for pages that anybody may ask for.

The probes run in a thread with an event loop of its own, at most once a second however many ask: they are of no use as
a way to load the database, and what they wait for holds no server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import Future

from . import health
from .health import Health, Report
from .threads import PerProcess

logger = logging.getLogger(__name__)

CACHE_SECONDS = 1.0
WAIT_SECONDS = 2 * health.LIMIT_SECONDS  # nothing that is probed is waited for as long


class Latest:
    """The newest report of this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._future: Future[Report] | None = None
        self._ended_at = 0.0
        self._was_ready = True

    def get(self) -> Future[Report]:
        """A report that is under way or not older than CACHE_SECONDS. Cancelling it has no effect."""
        with self._lock:
            is_old = self._future is None or (self._future.done() and self._age() >= CACHE_SECONDS)
            if self._future is None or is_old:
                self._future = self._begin()
            return self._future

    def _age(self) -> float:
        return time.monotonic() - self._ended_at

    def _begin(self) -> Future[Report]:
        future: Future[Report] = Future()
        future.set_running_or_notify_cancel()
        threading.Thread(target=self._run, args=(future,), name="netra-readiness", daemon=True).start()
        return future

    def _run(self, future: Future[Report]) -> None:
        try:
            asyncio.run(self._examine(future))
        except Exception as error:
            if not future.done():
                future.set_exception(error)

    async def _examine(self, future: Future[Report]) -> None:
        """The answer is given before the loop ends: tasks that do not let themselves be cancelled hold that up."""
        report = await health.examine()
        self._tell(report)
        self._ended_at = time.monotonic()
        future.set_result(report)

    def _tell(self, report: Report) -> None:
        """In the log, as the page says no more than that."""
        if report.is_ready == self._was_ready:
            return
        self._was_ready = report.is_ready
        if report.is_ready:
            logger.info("ready again", extra={"action": "ready_again"})
        else:
            wrong = [f"{one.name}: {one.text}" for one in report.findings if one.health is Health.FAILED]
            logger.warning("not ready: %s", "; ".join(wrong), extra={"action": "not_ready"})


_latest = PerProcess(Latest)


async def report() -> Report | None:
    """How this process is, or was a second ago; None: that cannot be found out in time. For any event loop."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            return await asyncio.wrap_future(_latest.get().get())
    except Exception:  # no thread can be started, or the probes hang
        return None


def forget() -> None:
    """Begin anew, as if nobody had asked."""
    _latest.take()
    health.forget()
