"""What was counted in this process since a test asked for the last time."""

from __future__ import annotations

from netra_queue.core.message import Priority
from netra_queue.core.statistics import Event, Figures, Gauge
from netra_queue.counting import adder


def take() -> Figures:
    """Everything, and begin anew."""
    taken = adder.take()
    return taken[0] if taken is not None else Figures()


def counted(figures: Figures | None = None) -> dict[str, int]:
    """By event, those that happened."""
    found = take() if figures is None else figures
    return {event.name.lower(): found.count(event) for event in Event if found.count(event)}


def of_priority(figures: Figures, event: Event) -> dict[Priority, int]:
    return {priority: n for priority in Priority if (n := figures.count(event, priority))}


def make(event: Event = Event.ACKED, number: int = 1, *, connections: float = 0) -> Figures:
    figures = Figures()
    figures.counts[event][Priority.NORMAL if event.has_priority else 0] = number
    figures.gauges[Gauge.CONNECTIONS] = connections
    return figures
