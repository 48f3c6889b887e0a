"""What becomes of alerts: rules and a situation in, the next page of the book out.

    (nothing) --above for long enough--> OPEN --somebody says so--> ACKNOWLEDGED
                                           `----------below for long enough---------> RESOLVED

An alert that is resolved stays so. When its rule is above again, that is another alert.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from statistics import median

from .alert_rules import LOWER, Rule
from .situation import Situation

GAP = timedelta(minutes=5)  # without an evaluation for so long, nobody knows that something was so all the time
SAMPLE = timedelta(minutes=5)  # how often the number of servers is written down,
SAMPLES_KEPT = timedelta(hours=6)  # and for how long


class AlertState(Enum):
    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """``number``: the store's; None until it is written. ``value``: what its rule measured last."""

    name: str
    opened_at: datetime
    value: float
    detail: str
    state: AlertState = AlertState.OPEN
    acknowledged_at: datetime | None = None
    acknowledged_by: str = ""
    resolved_at: datetime | None = None
    number: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """What one evaluation leaves for the next one.

    ``alerts``: those that are not resolved, one of a name, and those that this change has resolved. ``since``: of a
    rule without an alert, from when on it has been above; of one with an alert, from when on it has been below.
    ``servers``: how many there were, and when.
    """

    evaluated_at: datetime | None = None
    alerts: tuple[Alert, ...] = ()
    since: Mapping[str, datetime] = field(default_factory=dict)
    servers: tuple[tuple[datetime, int], ...] = ()

    @property
    def going_on(self) -> tuple[Alert, ...]:
        return tuple(alert for alert in self.alerts if alert.state is not AlertState.RESOLVED)

    def acknowledged(self, numbers: Collection[int], by: str, at: datetime) -> Book:
        """Those of these alerts that are open are acknowledged."""
        return replace(self, alerts=tuple(_acknowledged(alert, numbers, by, at) for alert in self.alerts))


def _acknowledged(alert: Alert, numbers: Collection[int], by: str, at: datetime) -> Alert:
    if alert.number not in numbers or alert.state is not AlertState.OPEN:
        return alert
    return replace(alert, state=AlertState.ACKNOWLEDGED, acknowledged_by=by, acknowledged_at=at)


@dataclass(frozen=True, slots=True)
class Change:
    """``before``: None of an alert that has been opened."""

    alert: Alert
    before: AlertState | None


def changes(before: Book, after: Book) -> list[Change]:
    """Which alerts are in another state than they were."""
    were = {alert.name: alert.state for alert in before.going_on}
    return [Change(now, were.get(now.name)) for now in after.alerts if were.get(now.name) is not now.state]


def evaluate(book: Book, situation: Situation, rules: Sequence[Rule]) -> Book:
    """What these rules make of the situation. One that is not newer than the last one changes nothing."""
    at, last = situation.at, book.evaluated_at
    if last is not None and at <= last:
        return book
    since = book.since if last is not None and at - last <= GAP else {}
    servers = _sampled(book.servers, situation)
    situation = replace(situation, usual_servers=median(count for _, count in servers))
    there = {alert.name: alert for alert in book.going_on}
    judged = [_judge(rule, situation, there.pop(rule.name, None), since.get(rule.name)) for rule in rules]
    gone = [_resolved(replace(alert, detail="Its rule is switched off."), at) for alert in there.values()]
    return Book(
        evaluated_at=at,
        alerts=(*(alert for alert, _ in judged if alert is not None), *gone),
        since={rule.name: when for rule, (_, when) in zip(rules, judged, strict=True) if when is not None},
        servers=servers,
    )


def _sampled(samples: tuple[tuple[datetime, int], ...], situation: Situation) -> tuple[tuple[datetime, int], ...]:
    kept = tuple((at, count) for at, count in samples if at > situation.at - SAMPLES_KEPT)
    if kept and situation.at - kept[-1][0] < SAMPLE:
        return kept
    return (*kept, (situation.at, situation.servers))


def _judge(
    rule: Rule, situation: Situation, alert: Alert | None, since: datetime | None
) -> tuple[Alert | None, datetime | None]:
    """The rule's alert, and since when it has been on its way to another state; None: it is not, or is there."""
    value, at = rule.measure(situation), situation.at
    if alert is None:
        if value <= rule.above:
            return None, None
        if at - (since or at) < timedelta(seconds=rule.for_seconds):
            return None, since or at
        return Alert(name=rule.name, opened_at=at, value=value, detail=rule.detail(value, situation)), None
    if value <= rule.above * LOWER:
        if at - (since or at) < timedelta(seconds=rule.keep_seconds):
            return alert, since or at
        return _resolved(alert, at), None
    return replace(alert, value=value, detail=rule.detail(value, situation)), None


def _resolved(alert: Alert, at: datetime) -> Alert:
    return replace(alert, state=AlertState.RESOLVED, resolved_at=at)
