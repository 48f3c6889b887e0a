"""Rates of the store in memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from ..core.rate import Taken, Want
from .memory_state import MemoryState


class MemoryRates(MemoryState):
    """See ``Store``."""

    def admit(self, wants: Sequence[Want]) -> list[Taken]:
        with self._lock:
            now = self.now().timestamp()
            takings = [want.take(self._full_at.get(want.bucket, now), now) for want in wants]
            if not any(want.missing_seconds(taken) for want, taken in zip(wants, takings, strict=True)):
                self._full_at |= {want.bucket: taken.full_at for want, taken in zip(wants, takings, strict=True)}
            return takings

    def next_due(self, queues: Collection[str]) -> dict[str, datetime]:
        with self._lock:
            now = self.now()
            waiting = {name: [row.not_before for row in self._peek(name).rows] for name in queues}
            due = {name: [at for at in of if at is not None and at > now] for name, of in waiting.items()}
            return {name: min(of) for name, of in due.items() if of}
