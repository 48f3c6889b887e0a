"""The part of a store's contract that is about what operators do to queues and connections.

See ``base`` for what holds for all methods. What is done here to queues or connections that servers hold changes the
version of the controls in the same transaction, so that the servers look within two seconds (``base_controls``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from datetime import datetime

from ..core.message import Message, Priority
from .values import Mended, Pause


class OperatorStore(ABC):
    """See ``base.Store``."""

    @abstractmethod
    def family(self, queues: Collection[str]) -> list[str]:
        """These queues (or lines), and all lines of them that the store knows, in use or not."""

    @abstractmethod
    def filled(self, limit: int, after: str | None = None) -> list[str]:
        """Up to ``limit`` of the queues and lines that hold a message, those behind ``after`` in an order that stays.

        Fewer: there are no more. Those that the store knows no name of are left out.
        """

    @abstractmethod
    def matching(self, queues: Collection[str], priority: Priority | None = None, *, only_expired: bool = False) -> int:
        """How many messages ``purge`` would remove from these queues and lines. The cost grows with their messages."""

    @abstractmethod
    def purge(self, queue: str, limit: int, priority: Priority | None = None, *, only_expired: bool = False) -> int:
        """Remove up to ``limit`` messages of a queue; they count as dropped. Fewer: there are no more.

        ``only_expired``: those whose time is over; they count as expired.
        """

    @abstractmethod
    def pause(self, queues: Collection[str], until: datetime | None, reason: str, by: str) -> None:
        """From the commit on, ``read`` gives nothing of these queues and their lines (or of these lines); ``waiting``
        leaves them out. Everything else goes on: they take messages, whose time passes. Again: in place of what was.

        ``until``: it ends then, by the store's time; None: with ``resume``. The queues need not be known. Raises
        InvalidMessage for a name that cannot live beside one that is there.
        """

    @abstractmethod
    def resume(self, queues: Collection[str]) -> int:
        """Take back what ``pause`` was told of these queues or lines. Returns how many of them were paused."""

    @abstractmethod
    def paused(self, queues: Collection[str]) -> dict[str, Pause]:
        """Those of these queues and lines that are paused now, a line also because its queue is."""

    @abstractmethod
    def pauses(self) -> list[tuple[str, Pause]]:
        """All queues and lines that are paused by their own names now, the one paused last first."""

    @abstractmethod
    def send_away(self, queue: str, seconds: float, connection: str | None = None, *, dry_run: bool = False) -> int:
        """Note that the connections of this queue and its lines (or of this line) are to be closed by their servers, to
        come back after so many seconds at the earliest. Returns how many living servers hold.

        ``connection``: only the one with this id. ``dry_run``: only counts. What is noted ends with the connection.
        """

    @abstractmethod
    def sent_away(self, server: str) -> dict[str, float]:
        """The ids of this server's connections that are to be closed, each with the seconds of ``send_away``."""

    @abstractmethod
    def peek(self, queue: str, limit: int, after: tuple[Priority, int] | None = None) -> list[Message]:
        """Up to ``limit`` messages of a queue or line that have not expired, in the order of delivery, those behind
        this priority and position. Paused or not; nobody takes them for transmitted. Fewer: there are no more.
        """

    @abstractmethod
    def mend(self, limit: int, after: int = 0, *, dry_run: bool = False) -> Mended:
        """Compare up to ``limit`` messages, those at positions behind ``after``, with what they should be, and put them
        right. A size that is not its payload's is corrected; a message whose shared payload is gone can never be
        delivered: it is removed, and counts as dropped. ``dry_run``: only looks. May be repeated.
        """
