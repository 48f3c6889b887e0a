"""The circuit breaker of this process, around its store.

Every method of the contract goes through it, whatever thread calls it; those that do no work on the store (which thread
does what, and when a transaction has committed) do not. While it is open, a call raises BreakerOpen at once, and
touches neither the store nor the caller's transaction. See ``core.breaker`` for when it opens and closes.

A store that fails is one that raises StoreUnavailable. A refusal (a full queue, a bad name) is an answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from .. import conf, controls
from ..core.breaker import Breaker, BreakerState, Force, Limits
from ..core.statistics import Event
from ..counting import adder
from ..exceptions import BreakerOpen, StoreUnavailable
from ..signals import breaker_changed
from ..threads import PerProcess
from . import overload
from .base import Store
from .overload import GROWING, current_overload

logger = logging.getLogger(__name__)

UNGUARDED = {"in_own_thread", "leave_thread", "after_commit", "in_transaction"}
MAY_WAIT = {"append", "group_append", "subscribe", "unsubscribe", "requeue", "hand_over", "attach", "attach_all"}
CONTROLS = {"controls", "change_controls", "servers", "now"}  # with which operators take back what they forced,
CONTROLS |= {"connected", "details"}  # and what they look at meanwhile
Change = tuple[BreakerState, BreakerState]  # before, and now
_inside = threading.local()


class Guard:
    """One process's breaker. Thread-safe. What operators have forced goes before what the store shows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._breaker = Breaker(Limits(slow_seconds=conf.get("BREAKER_SLOW_SECONDS")))
        self._told = BreakerState.CLOSED

    @property
    def state(self) -> BreakerState:
        """As calls meet it."""
        with self._lock:
            return self._state(self._now())

    def check(self) -> None:
        """Raises BreakerOpen if the store has shown that a call would not be answered now.

        For those who would otherwise queue up for a thread. What operators have forced is for the calls themselves.
        """
        with self._lock:
            now = self._now()
            is_open = self._breaker.is_open(now) and self._breaker.force is None
            after, change = self._breaker.retry_after(now), self._change(now)
        _tell(change)
        if is_open:
            raise BreakerOpen(retry_after_seconds=after)

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Around a call of this method of the store. Raises BreakerOpen instead when it may not be made."""
        with self._lock:
            now = self._now()
            change = self._change(now)
            if name in CONTROLS and self._breaker.force is not None:
                self._breaker.force = replace(self._breaker.force, state=BreakerState.CLOSED)
            number, after = self._breaker.begin(now, may_wait=name in MAY_WAIT), self._breaker.retry_after(now)
        _tell(change)
        if number is None:
            raise BreakerOpen(retry_after_seconds=after)
        failed = True
        try:
            yield
            failed = False
        except Exception as error:
            failed = isinstance(error, StoreUnavailable) and not isinstance(error, BreakerOpen)
            raise
        finally:
            with self._lock:
                self._breaker.ended(number, time.monotonic(), failed=failed)
                change = self._change(self._now())
            _tell(change)

    def _now(self) -> float:
        """With the breaker as operators have it at this moment."""
        now, forced = time.monotonic(), controls.current().breaker
        if forced is None:
            self._breaker.force = None
        else:
            state = BreakerState.OPEN if forced.is_open else BreakerState.CLOSED
            self._breaker.force = Force(state, now + (forced.until - datetime.now(UTC)).total_seconds())
        self._breaker.look(now)
        return now

    def _state(self, now: float) -> BreakerState:
        force = self._breaker.force
        return force.state if force is not None and now < force.until else self._breaker.state

    def _change(self, now: float) -> Change | None:
        """What it was and what it is, if nobody has been told of that yet. With the lock."""
        state, before = self._state(now), self._told
        self._told = state
        return None if state is before else (before, state)


def _tell(change: Change | None) -> None:
    if change is None:
        return
    before, state = change
    if state is BreakerState.OPEN:
        adder.add(Event.BREAKER_OPENED)
    text, name = "the breaker around the message store is %s", state.value.replace("_", " ")
    if BreakerState.HALF_OPEN in change and state is not BreakerState.CLOSED:
        logger.debug(text, name, extra={"action": "breaker_tried", "state": state.value})
    else:
        logger.warning(text, name, extra={"action": "breaker_changed", "state": state.value})
    breaker_changed.send_robust(sender=None, state=state, before=before)


_guard = PerProcess(Guard)


def current_guard() -> Guard:
    """The process's, made on first use."""
    return _guard.get()


def forget() -> None:
    """Begin anew, closed."""
    _guard.take()
    overload.forget()


def with_breaker(kind: type[Store]) -> type[Store]:
    """This kind of store, with the process's breaker around the methods of the contract."""
    names = [name for name in dir(Store) if not name.startswith("_") and callable(getattr(Store, name))]
    methods = {name: _guarded(kind, name) for name in names if name not in UNGUARDED}
    return type(kind.__name__, (kind,), {**methods, "__module__": kind.__module__, "__doc__": kind.__doc__})


def _guarded(kind: type[Store], name: str) -> Callable[..., Any]:
    @wraps(getattr(kind, name))
    def call(*arguments: Any, **options: Any) -> Any:
        method = getattr(kind, name)
        if getattr(_inside, "is_so", False):  # one method calls another: that is one call
            return method(*arguments, **options)
        with current_guard().call(name):
            _inside.is_so = True
            try:
                if name in GROWING:
                    current_overload().check(arguments[0].holds_more_than)
                return method(*arguments, **options)
            finally:
                _inside.is_so = False

    return call
