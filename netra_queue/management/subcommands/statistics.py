"""``manage.py netra_queue statistics``."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ...core.message import Priority
from ...core.statistics import Bucket, Event, Figures, Gauge, Timing
from ...stores import current_store
from .sweep import positive_int

HELP = "Show what all processes have done, by time: events, times from sending to acknowledgement, connections."
COLUMNS = (Event.ACCEPTED, Event.TRANSMITTED, Event.ACKED, Event.EXPIRED, Event.DROPPED)
QUANTILES = (0.5, 0.95, 0.99)


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--minutes", type=positive_int, default=60, help="How far back (%(default)s).")
    parser.add_argument("--step", type=positive_int, default=300, help="Seconds in one line (%(default)s).")
    parser.add_argument("--json", action="store_true", help="Write one JSON document, with all that was counted.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    store, step = current_store(), options["step"]
    now = store.now()
    buckets = store.statistics(now - timedelta(minutes=options["minutes"]), now, step)
    if options["json"]:
        command.stdout.write(json.dumps([as_json(bucket, step) for bucket in buckets], indent=2))
        return
    names = "".join(f"{event.name.lower():>12}" for event in COLUMNS)
    command.stdout.write(f"{'from':<20}{names}{'ack p50':>10}{'p95':>8}{'p99':>8}{'connections':>13}")
    for bucket in buckets:
        command.stdout.write(as_text(bucket, step))


def as_text(bucket: Bucket, step: int) -> str:
    figures = bucket.figures
    counts = "".join(f"{figures.count(event):>12}" for event in COLUMNS)
    p50, p95, p99 = (_seconds(figures.timings[Timing.ACK].quantile(share)) for share in QUANTILES)
    return f"{bucket.start:%Y-%m-%d %H:%M:%S} {counts}{p50:>10}{p95:>8}{p99:>8}{_average(figures, step):>13.1f}"


def as_json(bucket: Bucket, step: int) -> dict[str, Any]:
    figures = bucket.figures
    return {
        "start": bucket.start.isoformat(),
        "seconds": step,
        "counts": {event.name.lower(): _counts(figures, event) for event in Event if figures.count(event)},
        "timings": {timing.name.lower(): _timing(figures, timing) for timing in Timing},
        "gauges": {gauge.name.lower(): round(figures.gauges[gauge] / step, 3) for gauge in Gauge},
    }


def _counts(figures: Figures, event: Event) -> Any:
    if not event.has_priority:
        return figures.count(event)
    return {p.name.lower(): figures.count(event, p) for p in Priority if figures.count(event, p)}


def _timing(figures: Figures, timing: Timing) -> dict[str, Any]:
    histogram = figures.timings[timing]
    quantiles = {f"p{share * 100:g}": histogram.quantile(share) for share in QUANTILES}
    return {"count": histogram.count, "total": round(histogram.total, 6), **quantiles}


def _average(figures: Figures, step: int) -> float:
    return figures.gauges[Gauge.CONNECTIONS] / step


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
