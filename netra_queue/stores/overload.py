"""Extreme load: more messages in the store than MAX_STORED_MESSAGES. Then it takes no more, and gives as ever.

Each process looks for itself, with one of its sends, every CHECK_EVERY_SECONDS.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .. import conf
from ..exceptions import BreakerOpen
from ..threads import PerProcess

logger = logging.getLogger(__name__)

GROWING = {"append", "group_append"}
CHECK_EVERY_SECONDS = 2.0
ENOUGH = 0.9  # of the limit, from which on the store takes messages again


class Overload:
    """One process's. Thread-safe."""

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._look_at = 0.0
        self.is_on = False

    def check(self, holds_more_than: Callable[[int], bool]) -> None:
        """Before the store is to take more. Raises BreakerOpen when it holds too much, and what ``holds_more_than``
        raises."""
        limit = conf.get("MAX_STORED_MESSAGES")
        if limit is None:
            self.is_on = False
            return
        if time.monotonic() >= self._look_at and self._looking.acquire(blocking=False):
            try:
                self._look(limit, holds_more_than)
            finally:
                self._looking.release()
        if self.is_on:
            raise BreakerOpen(retry_after_seconds=CHECK_EVERY_SECONDS)

    def _look(self, limit: int, holds_more_than: Callable[[int], bool]) -> None:
        self._look_at = time.monotonic() + CHECK_EVERY_SECONDS
        was, self.is_on = self.is_on, holds_more_than(int(limit * ENOUGH) if self.is_on else limit)
        if was is not self.is_on:
            what = "takes no more" if self.is_on else "takes messages again"
            logger.warning("the store %s: the limit is %d messages", what, limit, extra={"action": "overload_changed"})


_overload = PerProcess(Overload)


def current_overload() -> Overload:
    """The process's, made on first use."""
    return _overload.get()


def forget() -> None:
    """Begin anew."""
    _overload.take()
