"""Losses that clients were told of, on their way out of the store: for one hub, on its event loop."""

from __future__ import annotations

import logging
from collections.abc import Collection

from .acks import Call
from .complaints import complain
from .stores.base import Store

logger = logging.getLogger(__name__)


class Settling:
    """``records``: those that the store is being told of."""

    def __init__(self, store: Store, call: Call) -> None:
        self._store, self._call = store, call
        self.records: set[int] = set()

    async def settle(self, queue: str, records: Collection[int]) -> None:
        """Have the store forget these. If it does not, the client is told once more."""
        self.records.update(records)
        try:
            await self._call(lambda: self._store.settle(queue, records))
        except Exception as error:
            complain(logger, "losses not settled", "settle_failed", error)
        finally:
            self.records.difference_update(records)
