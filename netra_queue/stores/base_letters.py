"""The part of a store's contract that is about dead letters: messages that were set aside for an operator.

See ``base`` for what holds for all methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from datetime import datetime

from ..core.message import LossReason
from .values import Appended, Letter


class LetterStore(ABC):
    """See ``base.Store``."""

    @abstractmethod
    def letters(
        self, limit: int, *, queue: str | None = None, reason: LossReason | None = None, since: datetime | None = None
    ) -> list[Letter]:
        """The newest ``limit`` dead letters, of one queue (or line) or of all, for one reason or for any, set aside at
        ``since`` or later, or whenever."""

    @abstractmethod
    def requeue(self, number: int) -> Appended | None:
        """Put this dead letter back: same id, priority and time of sending, a new time to live, no deliveries.

        It goes into its line, or to the queue's other lines if that is in use no more; it is the newest of its priority
        there. None: it is gone. Raises QueueFull or MessageTooLarge, and keeps it, when it does not fit.
        """

    @abstractmethod
    def delete_letters(self, numbers: Collection[int]) -> int:
        """Delete these dead letters for good. Returns how many were there. Idempotent."""

    @abstractmethod
    def forget_letters(self, limit: int) -> int:
        """Delete up to ``limit`` dead letters that were kept for as long as they should. Fewer: no more."""
