"""The circuit breaker around a store: whether a call may be made now.

    CLOSED --too many calls fail or take too long--> OPEN --its time is over--> HALF_OPEN --a probe ends well--> CLOSED
                                                      ^---------- a probe fails, or does not end ----------'

Nothing in here reads a clock: ``now`` is a monotonic time in seconds, given by the caller, who also sees to it that one
thread at a time is in here. A call that may be made gets a number; ``ended`` says what became of it.

**A call that hangs counts while it hangs**, not when it ends: a database that swallows everything would otherwise keep
the breaker closed for as long as nobody gets an answer. If no other call has ended well since it began, it is enough
by itself: few threads ask, and soon all of them hang. **Nothing is waited for without limit**: a probe that does not
end within the limit for slow calls counts as failed, whatever becomes of its thread. What calls of an earlier state
report when they end late changes nothing: they say how the store was.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

NEVER = float("inf")
PARTS = 10  # of a window, which moves by one of them


class BreakerState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When the breaker opens: of at least ``least_calls`` calls within ``window_seconds``, the share ``share`` failed
    or took longer than ``slow_seconds``. It stays open for ``open_seconds``, and twice as long (at most
    ``longest_open_seconds``) after each probe that fails, and when it opens again within a window of having closed.
    """

    window_seconds: float = 10.0
    least_calls: int = 5
    share: float = 0.5
    slow_seconds: float = 5.0
    open_seconds: float = 1.0
    longest_open_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Force:
    """An operator's word: the breaker is ``state`` (OPEN or CLOSED) until then, whatever the store does."""

    state: BreakerState
    until: float


@dataclass(slots=True)
class _Call:
    number: int
    started_at: float
    may_wait: bool


@dataclass(slots=True)
class _Outcomes:
    """Of the calls that ended within a tenth of the window."""

    since: float
    calls: int = 0
    failures: int = 0


@dataclass(slots=True)
class Breaker:
    """Closed to begin with. ``state`` is of the last call of a method that has ``now``."""

    limits: Limits = field(default_factory=Limits)
    state: BreakerState = BreakerState.CLOSED
    force: Force | None = None
    opened: int = 0  # how often it has opened
    _outcomes: deque[_Outcomes] = field(default_factory=deque)  # within the window, oldest first
    _running: dict[int, _Call] = field(default_factory=dict)  # of the present state
    _next_number: int = 1
    _open_until: float = 0.0
    _open_for: float = 0.0
    _closed_at: float = -NEVER
    _well_at: float = -NEVER  # when a call ended well last

    def begin(self, now: float, *, may_wait: bool = False) -> int | None:
        """A number for a call that may be made; None: it may not. ``may_wait``: it may wait for others' transactions,
        so that it says nothing about the store if it is slow.
        """
        self.look(now)
        if not self._admits(now):
            return None
        number, self._next_number = self._next_number, self._next_number + 1
        is_probe = self.state is BreakerState.HALF_OPEN
        self._running[number] = _Call(number, now, may_wait and not is_probe)
        return number

    def ended(self, number: int, now: float, *, failed: bool) -> None:
        """What became of a call. Nothing, if it has been counted already, or began before the state changed."""
        call = self._running.pop(number, None)
        if call is None:
            return
        failed = failed or self._is_slow(call, now)
        self._well_at = self._well_at if failed else now
        if self.state is BreakerState.HALF_OPEN:
            self._open(now) if failed else self._close(now)
        elif self.state is BreakerState.CLOSED:
            self._count(now, well=not failed)

    def look(self, now: float) -> None:
        """Time has passed: calls that hang are counted, an open breaker is tried again, an operator's word runs out."""
        if self.force is not None and now >= self.force.until:
            self.force = None
        if self.state is BreakerState.OPEN and now >= self._open_until:
            self._become(BreakerState.HALF_OPEN)
        for call in [call for call in self._running.values() if self._is_slow(call, now)]:
            if self.state is BreakerState.CLOSED and self._well_at < call.started_at:
                self._open(now)
            self.ended(call.number, now, failed=True)

    def retry_after(self, now: float) -> float:
        """In how many seconds a call may be worth it again; 0: now."""
        if self.is_forced(now):
            assert self.force is not None
            return max(0.0, self.force.until - now) if self.force.state is BreakerState.OPEN else 0.0
        if self.state is BreakerState.CLOSED:
            return 0.0
        if self.state is BreakerState.HALF_OPEN:
            return self.limits.open_seconds
        return max(0.0, self._open_until - now)

    def is_forced(self, now: float) -> bool:
        return self.force is not None and now < self.force.until

    def is_open(self, now: float) -> bool:
        """Whether a call would be refused now. Begins none, so that it may be asked before a call is even queued."""
        self.look(now)
        return not self._admits(now)

    def _admits(self, now: float) -> bool:
        if self.force is not None:
            return self.force.state is BreakerState.CLOSED
        return self.state is BreakerState.CLOSED or (self.state is BreakerState.HALF_OPEN and not self._running)

    def _is_slow(self, call: _Call, now: float) -> bool:
        return not call.may_wait and now - call.started_at > self.limits.slow_seconds

    def _count(self, now: float, *, well: bool) -> None:
        if not self._outcomes or now - self._outcomes[-1].since >= self.limits.window_seconds / PARTS:
            self._outcomes.append(_Outcomes(now))
        while self._outcomes[0].since <= now - self.limits.window_seconds:
            self._outcomes.popleft()
        self._outcomes[-1].calls += 1
        self._outcomes[-1].failures += not well
        calls = sum(some.calls for some in self._outcomes)
        failures = sum(some.failures for some in self._outcomes)
        if calls >= self.limits.least_calls and failures >= calls * self.limits.share:
            self._open(now)

    def _open(self, now: float) -> None:
        has_just_closed = now - self._closed_at < self.limits.window_seconds
        is_again = self.state is BreakerState.HALF_OPEN or has_just_closed
        doubled = min(self._open_for * 2, self.limits.longest_open_seconds)
        self._open_for = doubled if is_again else self.limits.open_seconds
        self._open_until = now + self._open_for
        self.opened += self.state is BreakerState.CLOSED
        self._become(BreakerState.OPEN)

    def _close(self, now: float) -> None:
        self._closed_at = now
        self._become(BreakerState.CLOSED)

    def _become(self, state: BreakerState) -> None:
        self.state = state
        self._outcomes.clear()
        self._running.clear()
