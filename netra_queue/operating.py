"""What operators change without a deploy: in force in every process within two seconds after the commit.

Nothing impossible comes into force: what would be is refused with NotConfigured, under the lock under which it would be
written. In a transaction of the caller's, changes belong to it. All raise StoreUnavailable; not for an event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from . import conf, controls, wakeup
from .core.controls import Controls, ForcedBreaker, PatternRule
from .exceptions import NotConfigured
from .stores import current_store

logger = logging.getLogger(__name__)

Change = Callable[[Controls], Controls]


def policy_changed(name: str, changes: Mapping[str, Any], inherited: Collection[str] = ()) -> Change:
    """These keys of the policy are set, and those are inherited again. The policy is made if there is none."""
    return lambda before: before.with_policy(name, changes, inherited)


def policy_removed(name: str) -> Change:
    """The policy is what the settings say."""
    return lambda before: before.without_policy(name)


def pattern_set(pattern: str, policy: str, place: int) -> Change:
    """Queues that match have this policy, unless a pattern of a lower place matches them, too."""
    return lambda before: before.with_rule(PatternRule(place, pattern, policy))


def pattern_removed(pattern: str) -> Change:
    """The pattern decides nothing any more."""
    return lambda before: before.without_rule(pattern)


def breaker_forced(forced: ForcedBreaker | None) -> Change:
    """The breakers of all processes are as ``forced`` says, or do again what the store shows."""
    return lambda before: replace(before, breaker=forced)


def switched(*, is_off: bool) -> Change:
    """The kill switch: off, every queue is plain Channels, and what waits stays where it is until it is on again."""
    return lambda before: replace(before, is_off=is_off)


def carry_out(change: Change) -> None:
    """Have a change in force everywhere. Raises NotConfigured, and changes nothing, when it makes something impossible
    that was possible before."""
    store = current_store()
    store.change_controls(lambda before: _possible(before, change(before)))
    store.after_commit(announce)


def problem_with(change: Change) -> str | None:
    """What ``carry_out`` would raise now, as a text; None: nothing."""
    before = current_store().controls() or Controls()
    try:
        _possible(before, change(before))
    except NotConfigured as error:
        return error.problem
    return None


def _possible(before: Controls, after: Controls) -> Controls:
    judged = [conf.judge(each) for each in (before, after)]
    was, is_now = ({**each.problems, **each.unknown} for each in judged)
    for what, problem in is_now.items():
        if was.get(what) != problem:
            raise NotConfigured(what, problem)
    return after


def announce() -> None:
    """Have all processes look, soon, for what operators have done: in a server, for what was done to its queues and
    connections, too. Returns at once; never raises."""
    controls.expire()
    wakeup.ring_controls(_servers)


def _servers() -> list[str]:
    store = current_store()
    return store.in_own_thread(store.servers)
