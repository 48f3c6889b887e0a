"""Which policy each queue has, remembered for an instant, so that a send does not ask the store for it each time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Mapping

from . import conf
from .core.policy import Policy
from .stores.base import Store

REMEMBER_SECONDS = 2.0
REMEMBERED_QUEUES = 10_000

_lock = threading.Lock()
_remembered: dict[tuple[int, str], tuple[float, str | None]] = {}  # (store, queue) -> (until, policy; None: unknown)


def remembered(store: Store, queues: Collection[str]) -> dict[str, Policy] | None:
    """The queues' policies, or None if the store has to be asked. Does not block."""
    now = time.monotonic()
    with _lock:
        entries = {queue: _remembered.get((id(store), queue)) for queue in queues}
    if any(entry is None or entry[0] < now or entry[1] is None for entry in entries.values()):
        return None
    return {queue: conf.policy_or_default(entry[1] or "") for queue, entry in entries.items() if entry is not None}


def of(store: Store, queues: Collection[str]) -> dict[str, Policy]:
    """The queues' policies. Blocks while the store is asked. A queue that the store does not know has the default."""
    if (found := remembered(store, queues)) is not None:
        return found
    described = store.describe(queues)
    _remember(store, {queue: described.get(queue) for queue in queues})
    return {queue: conf.policy_or_default(described.get(queue, "")) for queue in queues}


def make_known(store: Store, queues: Collection[str]) -> None:
    """Have the store know these queues, so that operators see them, and senders can take turns at a full one."""
    with _lock:
        unknown = [queue for queue in queues if (_remembered.get((id(store), queue)) or (0.0, None))[1] is None]
    if unknown:
        store.ensure(unknown)
        _remember(store, store.describe(unknown))


def forget() -> None:
    """Ask the store again next time."""
    with _lock:
        _remembered.clear()


def _begin_anew() -> None:
    """In a forked process: the lock may have been held by a thread that is not here."""
    global _lock, _remembered
    _lock, _remembered = threading.Lock(), {}


os.register_at_fork(after_in_child=_begin_anew)


def _remember(store: Store, names: Mapping[str, str | None]) -> None:
    until = time.monotonic() + REMEMBER_SECONDS
    with _lock:
        if len(_remembered) + len(names) > REMEMBERED_QUEUES:
            _remembered.clear()
        _remembered.update({(id(store), queue): (until, name) for queue, name in names.items()})
