"""The part of a store's contract that is about what operators see of connections."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection

from .values import Connected, Detail


class ConnectionStore(ABC):
    """See ``base.Store``."""

    @abstractmethod
    def connected(self, queues: Collection[str], limit: int) -> list[Connected]:
        """Up to ``limit`` connections of these queues or lines (not of the lines of these queues)."""

    @abstractmethod
    def tell_details(self, details: Collection[Detail]) -> None:
        """What a server says of its connections, in place of what was said before. May be repeated; connections that
        are gone are no error."""

    @abstractmethod
    def details(self, connections: Collection[str]) -> dict[str, Detail]:
        """What was last said of these connections, by their ids; those of which nothing was said are left out."""
