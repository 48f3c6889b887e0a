"""How much queues held when this process last counted, so that not every send counts what a queue holds.

A queue that is far from full need not be counted again for an instant (``Policy.is_far_from_full``). While other
processes fill it from a quarter to the brim within that instant, this one may put in a 64th of the limit too much;
whoever counts next brings it back within its limits.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterable, Mapping

from ..core.policy import Growth, Policy

TRUST_SECONDS = 5.0
SEEN_QUEUES = 10_000
NEVER = (0.0, 0, 0, Growth(0, 0))

_lock = threading.Lock()
_seen: dict[tuple[str, int], tuple[float, int, int, Growth]] = {}  # trusted until; messages and size then; added since


def stale(using: str, queues: Iterable[int]) -> set[int]:
    """Those of these queues, by id, that this process has not counted for so long that it does not trust it."""
    now = time.monotonic()
    with _lock:
        return {id for id in queues if _seen.get((using, id), NEVER)[0] <= now}


def far_from_full(using: str, added: Mapping[int, tuple[Growth, Policy]]) -> set[int]:
    """Those of these queues, by id, that need not be counted; what is added to them is remembered."""
    now, far = time.monotonic(), set()
    with _lock:
        for id, (growth, policy) in added.items():
            if (entry := _seen.get((using, id))) is None:
                continue
            until, messages, size, before = entry
            since = Growth(before.messages + growth.messages, before.size + growth.size)
            if now < until and policy.is_far_from_full(messages, size, since=since):
                _seen[using, id] = (until, messages, size, since)
                far.add(id)
    return far


def note(using: str, totals: Iterable[tuple[int, tuple[int, int]]]) -> None:
    """These queues hold so many messages and bytes, as just counted. It is trusted for different times: those that were
    counted together are not to be counted together each time, with everybody waiting behind."""
    now = time.monotonic()
    with _lock:
        if len(_seen) > SEEN_QUEUES:
            _seen.clear()
        for id, (messages, size) in totals:
            _seen[using, id] = (now + TRUST_SECONDS * random.uniform(0.5, 1), messages, size, Growth(0, 0))


def forget() -> None:
    """Count all queues again the next time."""
    with _lock:
        _seen.clear()


def _begin_anew() -> None:
    """In a forked process: the lock may have been held by a thread that is not here."""
    global _lock
    _lock = threading.Lock()
    _seen.clear()


os.register_at_fork(after_in_child=_begin_anew)
