"""The part of the database store that is about what it was not asked to keep, and about how much it keeps."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.message import LossReason, Priority
from ..core.policy import Policy
from ..models import Message, queue_id
from . import devices
from .base import Store
from .connecting import own_transaction, run
from .rows import record_losses


class DatabasePassing(Store):
    """See ``Store``."""

    using: str

    def count_unprotected(self, counts: Mapping[str, Mapping[Priority, int]], policies: Mapping[str, Policy]) -> None:
        now = self.now()

        def count() -> None:
            with own_transaction(self.using):
                lines = devices.targets(self.using, list(counts), policies, now).lines
                lost = [
                    (queue_id(line), int(priority))
                    for queue, of_queue in counts.items()
                    for line in lines[queue]
                    for priority, number in of_queue.items()
                    for _ in range(number)
                ]
                record_losses(self.using, LossReason.UNPROTECTED, lost, now)

        run(self.using, count)

    def holds_more_than(self, limit: int) -> bool:
        messages = Message.objects.using(self.using).order_by()
        return run(self.using, lambda: messages.values("pk")[: limit + 1].count() > limit)
