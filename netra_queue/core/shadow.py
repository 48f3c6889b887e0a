"""What shadow mode has shown: what would have been replayed, and what clients really missed."""

from __future__ import annotations

from dataclasses import dataclass

from .statistics import Event, Figures


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowReport:
    """Messages, of all queues, in the time that was asked for. ``accepted`` is what it cost to keep."""

    accepted: int
    acked: int
    missed: int
    unconfirmed: int
    expired: int
    dropped: int

    @property
    def would_replay(self) -> int:
        """What clients that came back would have got."""
        return self.missed + self.unconfirmed

    @staticmethod
    def of(figures: Figures) -> ShadowReport:
        return ShadowReport(
            **{
                event.name.lower(): figures.count(event)
                for event in (
                    Event.ACCEPTED,
                    Event.ACKED,
                    Event.MISSED,
                    Event.UNCONFIRMED,
                    Event.EXPIRED,
                    Event.DROPPED,
                )
            }
        )
