"""What the dashboard shows, put together from what the store was asked. docs/dashboard.md has the shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ..core.breaker import BreakerState
from ..core.controls import Controls
from ..core.message import Priority
from ..core.policy import Policy
from ..core.statistics import Bucket, Event, Figures, Gauge, Timing, aligned
from ..stores.base import Overview
from ..stores.values import Ages, ServerLoad

OBJECTIVE = 0.9995  # of the messages that end as delivered or lost, the share that is delivered
WRITTEN_SECONDS = 2  # after its end, every process has written a bucket
AGE_BOUNDS = (60, 600, 3600, 6 * 3600, 86_400)  # seconds

LOSSES = (Event.EXPIRED, Event.DROPPED, Event.DEAD)
SHADOWED = (Event.MISSED, Event.UNCONFIRMED)
ENDS = (Event.ACKED, Event.SUPERSEDED, *LOSSES, Event.WITHHELD, Event.LEFT_OUT, *SHADOWED, Event.MERGED)
RATES = (Event.ACCEPTED, Event.ACKED, Event.TRANSMITTED)  # shown by the second; all others by the step
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Range:
    """How far back, and how much time is one point. No range has more than 361 points."""

    name: str
    seconds: int
    step: int


RANGES = {
    each.name: each
    for each in (
        Range("15m", 900, 10),
        Range("1h", 3600, 10),
        Range("6h", 6 * 3600, 60),
        Range("24h", 86_400, 300),
        Range("7d", 7 * 86_400, 3600),
        Range("30d", 30 * 86_400, 7200),
    )
}
DEFAULT, MONTH = "1h", "30d"


def range_named(name: object) -> Range:
    """Raises ValueError for any other name, with those that there are."""
    found = RANGES.get(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"range: expected one of {', '.join(RANGES)}, got {str(name)[:40]!r}")
    return found


@dataclass(frozen=True, slots=True)
class History:
    """What all processes did in a range. ``until``: the end of the last ten seconds that all have written."""

    range: Range
    since: datetime
    until: datetime
    buckets: Sequence[Bucket]

    @staticmethod
    def span(range: Range, now: datetime) -> tuple[datetime, datetime]:
        """From where to where the store is to be asked."""
        until = aligned(now - timedelta(seconds=WRITTEN_SECONDS))
        return aligned(until - timedelta(seconds=range.seconds), range.step), until

    def total(self) -> Figures:
        total = Figures()
        for bucket in self.buckets:
            total.add(bucket.figures)
        return total


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The store, and this process, as they stood ``at`` that time of the store."""

    at: datetime
    overview: Overview
    ages: Ages
    loads: Sequence[ServerLoad]
    swept_at: datetime | None
    controls: Controls
    breaker: BreakerState
    policies: Sequence[Policy]


def assembled(history: History, month: Figures, state: State) -> dict[str, Any]:
    """All of it, such as JSON can hold. Times are in seconds since 1970."""
    total, steps = history.total(), _steps(history)
    return {
        "range": history.range.name,
        "step": history.range.step,
        "at": round(state.at.timestamp(), 3),
        "times": [int(start.timestamp()) for start, _, _ in steps],
        "series": _series(steps, state.overview.messages),
        "totals": {event.name.lower(): total.count(event) for event in Event},
        "latency": {timing.name.lower(): _quantiles(total, timing) for timing in Timing},
        "delivery": {"objective": OBJECTIVE, "range": delivery(total), "month": delivery(month)},
        "store": _store(state),
        "ages": _ages(state.ages),
        "servers": [_load(load, state.at) for load in state.loads],
        "worst": [
            {
                "queue": stat.queue,
                "messages": stat.messages,
                "bytes": stat.size,
                "oldest_seconds": _seconds_since(stat.oldest_at, state.at),
            }
            for stat in state.overview.largest
        ],
        "upkeep": {"swept_at": _timestamp(state.swept_at), "expired": state.overview.expired},
        "breaker": breaker(state.breaker, state.controls, state.at),
        "is_off": state.controls.is_off,
        "rollout": _rollout(state.policies),
    }


def breaker(state: BreakerState, controls: Controls, now: datetime) -> dict[str, Any]:
    """Of the process that answers. ``forced_until``: null unless operators have forced it."""
    forced = controls.breaker
    until = forced.until if forced is not None and forced.until > now else None
    return {"state": state.value, "forced_until": _timestamp(until)}


def _rollout(policies: Iterable[Policy]) -> list[dict[str, Any]]:
    """Of the policies that do not have all of their queues durable."""
    return [
        {
            "policy": policy.name,
            "percent": policy.rollout.percent,
            "allow": len(policy.rollout.allow),
            "deny": len(policy.rollout.deny),
            "is_shadow": policy.rollout.is_shadow,
        }
        for policy in policies
        if policy.rollout.is_shadow or not policy.rollout.is_everything
    ]


def delivery(figures: Figures) -> dict[str, Any]:
    """As the alerts have it: what was superseded, merged, withheld or left out is neither delivered nor lost.

    ``budget_left``: the share of the losses that OBJECTIVE allows that is left; below 0 when more were lost.
    """
    delivered, lost = figures.count(Event.ACKED), sum(figures.count(event) for event in LOSSES)
    ended = delivered + lost
    if not ended:
        return {"delivered": 0, "lost": 0, "ratio": None, "budget_left": None}
    return {
        "delivered": delivered,
        "lost": lost,
        "ratio": round(delivered / ended, 6),
        "budget_left": round(1 - lost / ended / (1 - OBJECTIVE), 4),
    }


# --- over time -----------------------------------------------------------------------------------------------------

_Step = tuple[datetime, float, Figures]  # its beginning, for how many seconds, and what happened in it


def _steps(history: History) -> list[_Step]:
    """Every step of the range, those in which nothing happened as well. The last one may have only begun."""
    found = {bucket.start: bucket.figures for bucket in history.buckets}
    length, steps = timedelta(seconds=history.range.step), []
    start = history.since
    while start < history.until:
        seconds = (min(start + length, history.until) - start).total_seconds()
        steps.append((start, seconds, found.get(start, Figures())))
        start += length
    return steps


def _series(steps: Sequence[_Step], messages: int) -> dict[str, list[float | None]]:
    series: dict[str, list[float | None]] = {"depth": [*_depths(steps, messages)]}
    for event in Event:
        counts = [(figures.count(event), seconds) for _, seconds, figures in steps]
        by_second = event in RATES
        series[event.name.lower()] = [round(count / seconds, 3) if by_second else count for count, seconds in counts]
    series["ratio"] = [delivery(figures)["ratio"] for _, _, figures in steps]
    for timing in Timing:
        found = [_quantiles(figures, timing) for _, _, figures in steps]
        series |= {f"{timing.name.lower()}_{name}": [each[name] for each in found] for name in QUANTILES}
    for gauge in Gauge:
        series[gauge.name.lower()] = [round(figures.gauges[gauge] / seconds, 1) for _, seconds, figures in steps]
    return series


def _depths(steps: Iterable[_Step], messages: int) -> list[int]:
    """How many messages waited at the end of each step: what waits now, less what has come since, and what has gone."""
    depths: list[int] = []
    for _, _, figures in reversed([*steps]):
        depths.append(max(messages, 0))
        messages += sum(figures.count(event) for event in ENDS) - figures.count(Event.ACCEPTED)
    return depths[::-1]


def _quantiles(figures: Figures, timing: Timing) -> dict[str, float | None]:
    histogram = figures.timings[timing]
    found = {name: histogram.quantile(share) for name, share in QUANTILES.items()}
    return {name: None if value is None else round(value, 4) for name, value in found.items()}


# --- as it stands --------------------------------------------------------------------------------------------------


def _store(state: State) -> dict[str, Any]:
    found = state.overview
    return {
        "messages": found.messages,
        "bytes": found.size,
        "oldest_seconds": _seconds_since(found.oldest_at, state.at),
        "queues": found.queues,
        "connections": found.connections,
        "servers": found.servers,
        "dead_letters": found.letters,
        "is_complete": found.complete,
    }


def _ages(ages: Ages) -> dict[str, Any]:
    by_priority: Mapping[Priority, Sequence[int]] = ages.counts
    return {
        "bounds": [*AGE_BOUNDS],
        "by_priority": {priority.name.lower(): [*by_priority[priority]] for priority in Priority},
        "is_complete": ages.complete,
    }


def _load(load: ServerLoad, now: datetime) -> dict[str, Any]:
    return {
        "host": load.server.host,
        "pid": load.server.pid,
        "connections": load.connections,
        "heard_seconds": _seconds_since(load.heartbeat_at, now),
    }


def _seconds_since(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else round(max(0.0, (now - moment).total_seconds()), 1)


def _timestamp(moment: datetime | None) -> float | None:
    return None if moment is None else round(moment.timestamp(), 3)
