"""Which policy each queue has, remembered for an instant, so that a send does not ask the store for it each time.

What was chosen for a queue, by its consumer or by POLICY_RESOLVER, is remembered here; what operators have set is in
``controls``, and asked for on the same occasions. Together they say which policy is in force.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice

from . import conf, controls
from .core.policy import Policy
from .core.rollout import Standing
from .stores import current_store
from .stores.base import Store

REMEMBER_SECONDS = 2.0
REMEMBERED_QUEUES = 10_000
ASKED_TOGETHER = 200
NEVER = 0.0, None

_lock = threading.Lock()
_used: set[tuple[int, str]] = set()  # (store, queue)
_remembered: dict[tuple[int, str], tuple[float, str | None]] = {}  # (store, queue) -> (until, policy; None: unknown)


def remembered(store: Store, queues: Collection[str]) -> dict[str, Policy] | None:
    """The queues' policies, or None if the store has to be asked. Does not block."""
    if controls.is_stale(store):
        return None
    if controls.current().is_off:  # the store is asked for nothing, and nothing depends on what would be chosen
        return last_known(store, queues)
    now = time.monotonic()
    names: dict[str, str] = {}
    with _lock:
        for queue in queues:
            until, name = _remembered.get((id(store), queue), NEVER)
            if name is None or until < now:
                return None
            names[queue] = name
            _used.add((id(store), queue))
    return {queue: conf.policy_of(queue, name) for queue, name in names.items()}


def learn(store: Store, queue: str, name: str) -> None:
    """A connection has come to this queue, for which this policy was chosen."""
    _remember(store, {queue: name})


def last_known(store: Store, queues: Collection[str]) -> dict[str, Policy]:
    """The queues' policies as far as this process remembers which were chosen. Does not block."""
    with _lock:
        names = {queue: _remembered.get((id(store), queue), NEVER)[1] for queue in queues}
    return {queue: conf.policy_of(queue, name or "") for queue, name in names.items()}


def of(store: Store, queues: Collection[str]) -> dict[str, Policy]:
    """The queues' policies. Blocks while the store is asked. A queue that the store does not know has the default."""
    controls.refresh(store)
    if (found := remembered(store, queues)) is not None:
        return found
    asked = {*queues, *_due_soon(store)}
    described = store.describe(asked)
    _remember(store, {queue: described.get(queue) for queue in asked})
    return {queue: conf.policy_of(queue, described.get(queue, "")) for queue in queues}


def _due_soon(store: Store) -> list[str]:
    """What was used since it was asked for, and would have to be asked for soon: one question is for all of them."""
    soon = time.monotonic() + REMEMBER_SECONDS / 2
    with _lock:
        used = list(islice(_used, ASKED_TOGETHER))
        _used.difference_update(used)
        return [queue for of, queue in used if of == id(store) and _remembered.get((of, queue), NEVER)[0] < soon]


def unknown(store: Store, queues: Collection[str]) -> list[str]:
    """Those of these queues that the store did not know when it was asked, or was not asked for. Does not block."""
    with _lock:
        return [queue for queue in queues if _remembered.get((id(store), queue), NEVER)[1] is None]


def make_known(store: Store, queues: Collection[str]) -> None:
    """Have the store know these queues, so that operators see them, and senders can take turns at a full one."""
    if new := unknown(store, queues):
        store.ensure(new)
        _remember(store, store.describe(new))


def fresh_store() -> Store:
    """The process's store, with the policies that are in force now. Blocks while it is asked for them."""
    store = current_store()
    controls.refresh(store)
    return store


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Which policy is in force for a queue, why, as the end of a sentence, and what the queue is to the store."""

    policy: Policy
    reason: str
    standing: Standing


def chosen(queue: str, name: str, *, is_resolved: bool) -> Chosen:
    """``name``: what was chosen for the queue when a client connected last (``QueueStat``)."""
    rule = conf.rule_for(queue)
    if rule is not None:
        wanted, reason = rule.policy, f"an operator's pattern, {rule.pattern}"
    elif name in ("", "default"):
        wanted, reason = "default", "nothing else was chosen"
    else:
        wanted, reason = name, "POLICY_RESOLVER" if is_resolved else "the consumer's queue_policy"
    policy = conf.policy_or_default(wanted)
    missing = f", which names {wanted!r}; there is no such policy" if policy.name != wanted else ""
    return Chosen(policy=policy, reason=reason + missing, standing=conf.standing_of(queue, policy))


def forget() -> None:
    """Ask the store again next time."""
    with _lock:
        _remembered.clear()
        _used.clear()
    controls.forget()


def _begin_anew() -> None:
    """In a forked process: the lock may have been held by a thread that is not here."""
    global _lock, _remembered, _used
    _lock, _remembered, _used = threading.Lock(), {}, set()


os.register_at_fork(after_in_child=_begin_anew)


def _remember(store: Store, names: Mapping[str, str | None]) -> None:
    until = time.monotonic() + REMEMBER_SECONDS
    with _lock:
        if len(_remembered) + len(names) > REMEMBERED_QUEUES:
            _remembered.clear()
            _used.clear()
        _remembered.update({(id(store), queue): (until, name) for queue, name in names.items()})
