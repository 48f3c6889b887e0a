"""The controls in force in this process: what the store had when it was asked last.

A bell (``expire``) and the time have it asked again: by the hub in a server, by the next send elsewhere. When nothing
has changed, that is one statement that reads one row by its key, for the whole process.

**If the store does not answer**, what it had last stays in force, and it is asked again ``REFRESH_SECONDS`` later.
Nobody waits for an answer that another thread is waiting for, except for the first one.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from .core.controls import Controls

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 1.8  # and a moment for the answer: what an operator changes is in force everywhere within two
NEVER = float("-inf")


class Source(Protocol):
    """What is asked of a store."""

    def controls(self, known: int | None = None) -> Controls | None: ...

    def in_transaction(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class InForce:
    """``generation``: a number that is another one whenever ``controls`` are."""

    controls: Controls
    generation: int
    source: Source | None = None


class _Room:
    def __init__(self, in_force: InForce) -> None:
        self.in_force = in_force
        self.asking = threading.Lock()
        self.asked_at = NEVER
        self.has_failed = False

    def ask(self, source: Source) -> None:
        """A bell meanwhile has it asked again: the answer may be from before what the bell is about."""
        before = self.in_force
        is_same = before.source is source
        self.asked_at = time.monotonic()
        try:
            found = source.controls(before.controls.version if is_same else None)
        except Exception as error:
            if source.in_transaction():
                self.asked_at = NEVER
                raise  # the caller's transaction has failed, and the caller has to know
            self._complain(error)
            found = None if is_same else Controls()
        else:
            self.has_failed = False
        if found is not None:
            self.in_force = InForce(found, before.generation + 1, source)

    def _complain(self, error: Exception) -> None:
        if not self.has_failed:
            reason = str(error) or type(error).__name__
            logger.warning("controls not read, the last ones stay: %s", reason, extra={"action": "controls_not_read"})
        self.has_failed = True


_room = _Room(InForce(Controls(), 0))


def in_force() -> InForce:
    """The controls in force, with their number. Does not block."""
    return _room.in_force


def current() -> Controls:
    """The controls in force. Does not block."""
    return _room.in_force.controls


def generation() -> int:
    """See ``InForce``."""
    return _room.in_force.generation


def is_stale(source: Source, seconds: float = REFRESH_SECONDS) -> bool:
    """Whether this store has not been asked for so long. Does not block."""
    room = _room
    return room.in_force.source is not source or time.monotonic() - room.asked_at >= seconds


def due_in(source: Source, seconds: float = REFRESH_SECONDS) -> float:
    """In how many seconds this store will not have been asked for so long; 0 if that is so now."""
    return 0.0 if is_stale(source, seconds) else max(0.0, _room.asked_at + seconds - time.monotonic())


def refresh(source: Source, seconds: float = REFRESH_SECONDS) -> None:
    """Ask the store unless it was asked less than so long ago. Blocks while it answers; not for an event loop.

    Raises only what the store raises within a transaction of the caller's.
    """
    if not is_stale(source, seconds):
        return
    room = _room
    is_first = room.in_force.source is not source
    if not room.asking.acquire(blocking=is_first):
        return
    try:
        if is_stale(source, seconds):
            room.ask(source)
    finally:
        room.asking.release()


def expire() -> None:
    """A bell: something may have changed."""
    _room.asked_at = NEVER


def forget() -> None:
    """Begin with nothing. What was made of the controls before is not to be used any more."""
    global _room
    _room = _Room(InForce(Controls(), _room.in_force.generation + 1))


def _begin_anew() -> None:
    """In a forked process: the lock may have been held by a thread that is not here. What is in force stays so."""
    global _room
    _room = _Room(_room.in_force)


os.register_at_fork(after_in_child=_begin_anew)
