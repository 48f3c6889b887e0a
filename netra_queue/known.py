"""What the store was asked not long ago: one question at a time, however many want to know the answer."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from .complaints import complain
from .exceptions import StoreUnavailable
from .stores import current_store
from .stores.base import Store

logger = logging.getLogger(__name__)

Value = TypeVar("Value")
CACHE_SECONDS = 10.0  # how old an answer may be, however often it is wanted
WAIT_SECONDS = 5.0  # how long whoever wants it waits for the store


class Known(Generic[Value]):
    """What the store said not longer than ``seconds`` ago; None: it cannot be had.

    It is asked in a thread: who wants to know may be on an event loop, which then gets what is known already.
    """

    def __init__(self, ask: Callable[[Store], Value], seconds: Callable[[], float] = lambda: CACHE_SECONDS) -> None:
        self._ask, self._seconds = ask, seconds
        self._lock = threading.Lock()
        self._value: Value | None = None
        self._asked_at: float | None = None
        self._asked_of: Store | None = None
        self._thread: threading.Thread | None = None

    @property
    def was_asked(self) -> bool:
        return self._asked_at is not None

    def get(self) -> Value | None:
        if self._is_fresh():
            return self._value
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._refresh, name="netra-known", daemon=True)
                self._thread.start()
            thread = self._thread
        if _is_on_event_loop():
            return self._value
        thread.join(WAIT_SECONDS)
        return None if thread.is_alive() else self._value

    def require(self) -> Value:
        """The same; raises StoreUnavailable if it cannot be had."""
        value = self.get()
        if value is None:
            raise StoreUnavailable("no answer within the time that is waited for it")
        return value

    def _is_fresh(self) -> bool:
        asked_at = self._asked_at
        is_same = self._asked_of is current_store()
        return is_same and asked_at is not None and time.monotonic() - asked_at < self._seconds()

    def _refresh(self) -> None:
        store = current_store()
        try:
            self._value = store.in_own_thread(lambda: self._ask(store))
        except Exception as error:
            self._value = None
            complain(logger, "what the store has is not known", "metrics_failed", error)
        self._asked_of, self._asked_at = store, time.monotonic()
        store.leave_thread()


def _is_on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
