"""Which policy each queue has, remembered for an instant, so that a send does not ask the store for it each time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping

from . import conf
from .core.policy import Policy
from .exceptions import NotConfigured
from .stores.base import Store

logger = logging.getLogger(__name__)

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
    return {queue: named(entry[1] or "") for queue, entry in entries.items() if entry is not None}


def of(store: Store, queues: Collection[str]) -> dict[str, Policy]:
    """The queues' policies. Blocks while the store is asked. A queue that the store does not know has the default."""
    if (found := remembered(store, queues)) is not None:
        return found
    described = store.describe(queues)
    _remember(store, {queue: described.get(queue) for queue in queues})
    return {queue: named(described.get(queue, "")) for queue in queues}


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


def named(name: str) -> Policy:
    """The policy of this name; the default one if the settings have none of this name (any more)."""
    try:
        return conf.policy(name)
    except NotConfigured as error:
        if name in ("", "default"):
            raise
        logger.warning("%s; using the default policy", error, extra={"action": "policy_missing", "policy": name})
        return conf.policy("default")


def _remember(store: Store, names: Mapping[str, str | None]) -> None:
    until = time.monotonic() + REMEMBER_SECONDS
    with _lock:
        if len(_remembered) + len(names) > REMEMBERED_QUEUES:
            _remembered.clear()
        _remembered.update({(id(store), queue): (until, name) for queue, name in names.items()})
