"""The part of a store's contract that shows operators all of it at once, at a cost that has a bound.

See ``base`` for what holds for all methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from .values import Ages, Overview, ServerLoad


class OverviewStore(ABC):
    """See ``Store``."""

    @abstractmethod
    def overview(self, limit: int, scan: int) -> Overview:
        """Totals and the ``limit`` largest queues, looking at ``scan`` rows of each kind at most."""

    @abstractmethod
    def ages(self, bounds: Sequence[float], scan: int) -> Ages:
        """How old the waiting messages are, in classes that end at these ascending bounds (seconds), the last at none.

        Of more than ``scan`` messages, the oldest ones are looked at.
        """

    @abstractmethod
    def loads(self, limit: int, scan: int) -> list[ServerLoad]:
        """Up to ``limit`` living servers, and how many connections each holds. No more than ``scan`` connections are
        counted, of all of them together."""
