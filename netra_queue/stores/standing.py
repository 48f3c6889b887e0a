"""What queues are to the store, in SQL: which policy is in force for one, and whether it is within the rollout.

For queries in which ``q`` is a queue's row, which may be missing, and ``m`` its membership of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections

from .. import conf
from ..core.controls import as_regex
from ..core.policy import Policy
from ..core.rollout import PLACES, Rollout
from ..models import group_id


@dataclass(frozen=True, slots=True)
class Sql:
    text: str
    parameters: tuple[Any, ...] = ()


def policy_in_force(using: str) -> Sql:
    """The policy of a queue: that of the first of the operators' patterns to match its name, or its row's."""
    rules = conf.judged().controls.rules
    if not rules:
        return Sql("q.policy")
    cases = [_when(_matches(using, rule.pattern), rule.policy) for rule in rules]
    return _case(cases, Sql("q.policy"))


def members_kept(using: str, group: str, policies: Sequence[Policy]) -> Sql:
    """The members of this group that are within the rollouts of their policies, as a condition."""
    mine = Sql("m.group_id = %s", (group_id(group),))
    if all(policy.rollout.is_everything for policy in policies):
        return mine
    name, default = policy_in_force(using), next(policy for policy in policies if policy.name == "default")
    subject = Sql(f"COALESCE({name.text}, '')", name.parameters)
    cases = []
    for policy in policies:
        inside = _includes(using, policy.rollout)
        cases.append(
            Sql(f"WHEN {subject.text} = %s THEN {inside.text}", (*subject.parameters, policy.name, *inside.parameters))
        )
    is_kept = _case(cases, _includes(using, default.rollout))
    return Sql(f"{mine.text} AND {is_kept.text} = 1", (*mine.parameters, *is_kept.parameters))


def _includes(using: str, rollout: Rollout) -> Sql:
    """As ``Rollout.includes``: 1 or 0. A queue's id is what its place is computed from."""
    cases = [Sql(f"WHEN MOD(m.queue_id, {PLACES}) < {rollout.places} THEN 1")]
    denied = [_when(_matches(using, pattern), 0) for pattern in rollout.deny]
    allowed = [_when(_matches(using, pattern), 1) for pattern in rollout.allow]
    return _case([*denied, *cases, *allowed], Sql("0"))


def _matches(using: str, pattern: str) -> Sql:
    is_postgresql = connections[using].vendor == "postgresql"
    operator = "~" if is_postgresql else "REGEXP"
    return Sql(f"q.name {operator} %s", (as_regex(pattern, is_atomic=not is_postgresql),))


def _when(condition: Sql, value: object) -> Sql:
    return Sql(f"WHEN {condition.text} THEN %s", (*condition.parameters, value))


def _case(cases: Iterable[Sql], otherwise: Sql) -> Sql:
    listed = [*cases, Sql(f"ELSE {otherwise.text}", otherwise.parameters)]
    parameters = tuple(value for case in listed for value in case.parameters)
    return Sql(f"(CASE {' '.join(case.text for case in listed)} END)", parameters)
