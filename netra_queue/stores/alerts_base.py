"""The part of a store's contract that is about alerts, and about what they look at beside the rest.

See ``base`` for what holds for all methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import timedelta

from ..core.alerting import Alert, Book
from .values import QueueStat

ALERTS_KEPT = timedelta(days=90)  # after they were resolved
ALERTS_REMOVED = 100  # at most with one change


class AlertStore(ABC):
    """See ``Store``."""

    @abstractmethod
    def change_alerts(self, change: Callable[[Book], Book]) -> tuple[Book, Book]:
        """Put what ``change`` makes of the book in its place. Returns what was there, and what is there then.

        What ``change`` is given has the alerts that are not resolved; those that it adds get their numbers here. One
        change at a time: nobody else makes one until this one is written, in a transactional store until the caller's
        transaction has ended. ``change`` may be called more than once; when it raises, nothing has changed. Some of
        the alerts that were resolved ALERTS_KEPT ago go.
        """

    @abstractmethod
    def alerts(self, limit: int) -> list[Alert]:
        """The newest ``limit`` alerts, the newest first, resolved ones as well."""

    @abstractmethod
    def fullest(self, messages: int, size: int, limit: int, scan: int) -> list[QueueStat]:
        """Up to ``limit`` queues and lines that hold so many messages, or bytes, or more; the largest first.

        Of each, its name, policy, messages and size. Looks at the oldest ``scan`` messages at most, as ``overview``.
        """
