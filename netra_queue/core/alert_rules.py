"""The rules of the alerts, as values. Those of deploy/prometheus/netra_queue.rules.yml, under the same names.

A rule measures a situation. What it measures is compared with ``above``: more than that opens the alert, once it has
been so for ``for_seconds``; up to LOWER of it, for ``keep_seconds``, resolves it. In between, everything stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from .situation import Situation
from .statistics import Event, Gauge, Timing

LOWER = 0.9  # share of the threshold: what swings around it does not open the alert again and again
MINUTE, HOUR, DAY = 60, 3600, 86_400
PREFIX = "NetraQueue"

LOST = (Event.EXPIRED, Event.DROPPED, Event.DEAD)
ENDED = (Event.ACKED, *LOST)
FEWEST_LOSSES = 10  # fewer wake nobody
FEWEST_TIMES = 20  # of fewer, the slowest of a hundred says nothing
SPIKE = 4  # times the average of the day before
# A factor, a long window that shows that it matters, and a short one that shows that it goes on.
FAST = ((14.4, HOUR, 5 * MINUTE), (6, 6 * HOUR, 30 * MINUTE))
SLOW = ((3, DAY, 2 * HOUR), (1, 3 * DAY, 6 * HOUR))


class Severity(Enum):
    """CRITICAL: somebody has to look now. WARNING: on the next working day."""

    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """``detail``: one sentence on what was measured."""

    name: str
    summary: str
    measure: Callable[[Situation], float]
    detail: Callable[[float, Situation], str]
    above: float = 0.0
    for_seconds: float = 10 * MINUTE
    keep_seconds: float = 0.0
    severity: Severity = Severity.WARNING

    @property
    def key(self) -> str:
        """NetraQueueOldestWaiting: oldest_waiting. So it is called in the settings, and so is its runbook."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.name.removeprefix(PREFIX)).lower()

    @property
    def runbook(self) -> str:
        return f"docs/runbooks/{self.key}.md"


def _lost_ratio(situation: Situation, seconds: float) -> float:
    ended = situation.count(ENDED, seconds)
    return situation.count(LOST, seconds) / ended if ended else 0.0


def _burning(windows: Sequence[tuple[float, float, float]], losses_seconds: float) -> Callable[[Situation], float]:
    """Which ratio of losses the objective would have to allow for this to be no alert."""

    def measure(situation: Situation) -> float:
        if situation.count(LOST, losses_seconds) < FEWEST_LOSSES:
            return 0.0
        return max(
            min(_lost_ratio(situation, long), _lost_ratio(situation, short)) / factor for factor, long, short in windows
        )

    return measure


def _spike(*events: Event) -> Callable[[Situation], float]:
    """How many there were in 15 minutes, if that is much more than usual."""

    def measure(situation: Situation) -> float:
        recent = situation.count(events, 15 * MINUTE)
        usual = situation.count(events, DAY, until_seconds=15 * MINUTE) * 15 * MINUTE / DAY
        return recent if recent > SPIKE * usual else 0.0

    return measure


def _counted(seconds: float, *events: Event) -> Callable[[Situation], float]:
    return lambda situation: situation.count(events, seconds)


def _slowest(timing: Timing) -> Callable[[Situation], float]:
    """What 99 of 100 did not exceed in ten minutes."""

    def measure(situation: Situation) -> float:
        times = situation.times(timing, 10 * MINUTE)
        return (times.quantile(0.99) or 0.0) if times.count >= FEWEST_TIMES else 0.0

    return measure


def _not_written(situation: Situation) -> float:
    """Buckets that came late within an hour; or that no process has written any while there are connections."""
    merged = situation.count((Event.BUCKET_MERGED,), HOUR)
    was_seen = any(bucket.figures.gauges[Gauge.CONNECTIONS] for bucket in situation.during(15 * MINUTE))
    return max(merged, 1.0 if situation.connections and not was_seen else 0.0)


def _missing_servers(situation: Situation) -> float:
    return max(situation.usual_servers - situation.servers, 0.0) if situation.servers else 0.0


def _duration(seconds: float) -> str:
    for unit, name in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.3g} seconds"


def _lost(_: float, situation: Situation) -> str:
    last = ", ".join(f"{_lost_ratio(situation, s):.3%} in {name}" for s, name in ((HOUR, "an hour"), (DAY, "a day")))
    return f"Of the messages that ended, so many were lost: {last}."


def _full(value: float, situation: Situation) -> str:
    named = ", ".join(situation.near_limit[:3])
    return f"{value:.0f} queues hold at least 80 % of what their policies allow, such as {named or 'none'}."


RULES: tuple[Rule, ...] = (
    Rule(
        name="NetraQueueSendsRefused",
        summary="Sends raise errors",
        measure=_counted(10 * MINUTE, Event.REJECTED_UNAVAILABLE, Event.REJECTED_TOO_LARGE),
        detail=lambda value, _: f"{value:.0f} sends in ten minutes found no store, or were too large.",
        for_seconds=2 * MINUTE,
    ),
    Rule(
        name="NetraQueueStatisticsNotWritten",
        summary="Statistics are not written",
        measure=_not_written,
        detail=lambda *_: "Processes could not write for ten minutes and more, or have connections and write nothing.",
    ),
    Rule(
        name="NetraQueueBreakerOpen",
        summary="The breaker around the store has opened",
        measure=_counted(10 * MINUTE, Event.BREAKER_OPENED),
        detail=lambda value, _: f"Breakers opened, or stayed open after a try, {value:.0f} times in ten minutes.",
        for_seconds=MINUTE,
    ),
    Rule(
        name="NetraQueueOldestWaiting",
        summary="A message waits longer than the objective allows",
        measure=lambda situation: situation.oldest_seconds,
        detail=lambda value, _: f"The oldest waiting message is {_duration(value)} old.",
        above=DAY,
        for_seconds=15 * MINUTE,
        keep_seconds=15 * MINUTE,
    ),
    Rule(
        name="NetraQueueErrorBudgetFast",
        summary="Messages are lost so fast that the month's error budget is gone within days",
        measure=_burning(FAST, 6 * HOUR),
        detail=_lost,
        above=0.0005,
        for_seconds=2 * MINUTE,
        severity=Severity.CRITICAL,
    ),
    Rule(
        name="NetraQueueErrorBudgetSlow",
        summary="The delivery ratio is below 99.95 %",
        measure=_burning(SLOW, 3 * DAY),
        detail=_lost,
        above=0.0005,
        for_seconds=15 * MINUTE,
    ),
    Rule(
        name="NetraQueueQueuesNearLimit",
        summary="Many queues are nearly full",
        measure=lambda situation: len(situation.near_limit),
        detail=_full,
        above=10,
        keep_seconds=10 * MINUTE,
    ),
    Rule(
        name="NetraQueueOverflow",
        summary="Queues overflow more than usual",
        measure=_spike(Event.DROPPED, Event.REJECTED_FULL),
        detail=lambda value, _: f"{value:.0f} messages were dropped or refused in 15 minutes.",
        above=100,
        for_seconds=5 * MINUTE,
        keep_seconds=10 * MINUTE,
    ),
    Rule(
        name="NetraQueueExpiry",
        summary="Messages expire more than usual",
        measure=_spike(Event.EXPIRED),
        detail=lambda value, _: f"{value:.0f} messages expired in 15 minutes.",
        above=100,
        for_seconds=5 * MINUTE,
        keep_seconds=10 * MINUTE,
    ),
    Rule(
        name="NetraQueueDeadLetters",
        summary="Messages make their clients fail",
        measure=_counted(HOUR, Event.DEAD),
        detail=lambda value, _: f"{value:.0f} messages were set aside within an hour, after too many deliveries.",
        for_seconds=MINUTE,
    ),
    Rule(
        name="NetraQueueDeliverySlow",
        summary="Connected clients get their messages late",
        measure=_slowest(Timing.ACK),
        detail=lambda value, _: f"One of a hundred messages to connected clients is acknowledged after {value:.3g} s.",
        above=2,
        keep_seconds=10 * MINUTE,
    ),
    Rule(
        name="NetraQueueSweepNotRun",
        summary="Expired messages are not removed",
        measure=lambda situation: situation.expired_seconds,
        detail=lambda value, _: f"A message that expired {_duration(value)} ago is still there.",
        above=30 * MINUTE,
        for_seconds=5 * MINUTE,
        keep_seconds=5 * MINUTE,
    ),
    Rule(
        name="NetraQueueSweepLate",
        summary="The sweep has stopped",
        measure=lambda situation: situation.seconds_since(Event.SWEPT),
        detail=lambda value, _: (
            f"No process has swept expired messages for {_duration(value)}. It is due every minute."
        ),
        above=30 * MINUTE,
        for_seconds=5 * MINUTE,
    ),
    Rule(
        name="NetraQueueNoServers",
        summary="No server process is alive",
        measure=lambda situation: 0.0 if situation.servers else 1.0,
        detail=lambda *_: "Nobody is connected; what is sent waits.",
        for_seconds=5 * MINUTE,
        keep_seconds=2 * MINUTE,
        severity=Severity.CRITICAL,
    ),
    Rule(
        name="NetraQueueServersStale",
        summary="Fewer server processes are alive than usual",
        measure=_missing_servers,
        detail=lambda _, now: f"{now.servers} server processes are alive; mostly there were {now.usual_servers:g}.",
        keep_seconds=5 * MINUTE,
    ),
    Rule(
        name="NetraQueueReconnectSlow",
        summary="Clients that come back wait long for what they missed",
        measure=_slowest(Timing.LIVE),
        detail=lambda value, _: f"One of a hundred connections takes {value:.3g} s until its replay is over.",
        above=1,
        keep_seconds=10 * MINUTE,
    ),
    Rule(
        name="NetraQueueBellsMissed",
        summary="The channel layer loses bells",
        measure=lambda situation: situation.count((Event.BELL_MISSED,), 10 * MINUTE) / (10 * MINUTE),
        detail=lambda value, _: f"Polls find {value:.2g} times a second what no bell has told of.",
        above=0.1,
        keep_seconds=10 * MINUTE,
    ),
)
KEYS = {rule.key: rule for rule in RULES}
