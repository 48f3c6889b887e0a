"""Which series are drawn together, and what they are called."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """``series``: names of the figures' series, each with its label. ``unit``: how values are written."""

    id: str
    title: Any
    note: Any
    unit: str
    series: dict[str, Any]


CHARTS = (
    Chart(
        id="depth",
        title=_("Waiting messages"),
        note=_("In all queues, at the end of each step."),
        unit="count",
        series={"depth": _("waiting")},
    ),
    Chart(
        id="ages",
        title=_("How long messages have waited"),
        note=_("Now, by age."),
        unit="count",
        series={"ages": _("messages")},
    ),
    Chart(
        id="rates",
        title=_("In and out"),
        note=_("Messages a second; to two devices is two messages."),
        unit="rate",
        series={"accepted": _("accepted"), "acked": _("acknowledged"), "transmitted": _("transmitted")},
    ),
    Chart(
        id="delivery",
        title=_("Delivery ratio"),
        note=_("Of the messages that were delivered or lost, those that were delivered."),
        unit="share",
        series={"ratio": _("delivered"), "objective": _("objective")},
    ),
    Chart(
        id="losses",
        title=_("Lost messages"),
        note=_("By reason, in each step."),
        unit="count",
        series={"expired": _("expired"), "dropped": _("dropped"), "dead": _("dead")},
    ),
    Chart(
        id="ack",
        title=_("From sending to acknowledgement"),
        note=_("Of clients that were connected. Within a factor of two."),
        unit="seconds",
        series={"ack_p50": "p50", "ack_p95": "p95", "ack_p99": "p99"},
    ),
    Chart(
        id="live",
        title=_("From connecting to live"),
        note=_("How long replays take. Within a factor of two."),
        unit="seconds",
        series={"live_p50": "p50", "live_p95": "p95", "live_p99": "p99"},
    ),
    Chart(
        id="connections",
        title=_("Connections"),
        note=_("Averages of each step, over all servers."),
        unit="count",
        series={
            "connections": _("connected"),
            "in_flight": _("deliveries in flight"),
            "own_sends": _("own sends in memory"),
        },
    ),
    Chart(
        id="refused",
        title=_("Refused sends"),
        note=_("Sends that raised an error, in each step."),
        unit="count",
        series={
            "rejected_full": _("queue full"),
            "rejected_too_large": _("too large"),
            "rejected_unavailable": _("store unavailable"),
        },
    ),
    Chart(
        id="bells",
        title=_("Channel layer"),
        note=_("Bells that were missed and found by the poll, in each step."),
        unit="count",
        series={"bell_missed": _("bells missed")},
    ),
    Chart(
        id="upkeep",
        title=_("Sweeps and breakers"),
        note=_("In each step, in all processes."),
        unit="count",
        series={"swept": _("sweeps"), "breaker_opened": _("breakers opened")},
    ),
)


def as_json() -> list[dict[str, Any]]:
    """For the page's script, in the language of whoever looks."""
    return [
        {**asdict(chart), "title": str(chart.title), "note": str(chart.note)}
        | {"series": {name: str(label) for name, label in chart.series.items()}}
        for chart in CHARTS
    ]
