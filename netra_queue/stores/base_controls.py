"""The part of a store's contract that is about operators: what they set, and which servers have to know of it.

See ``base`` for what holds for all methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from ..core.controls import Controls


class ControlStore(ABC):
    """See ``Store``."""

    @abstractmethod
    def controls(self, known: int | None = None) -> Controls | None:
        """What operators have set, as it was written. None: it has the version ``known`` still.

        To find that out takes one statement, which reads one row by its key.
        """

    @abstractmethod
    def change_controls(self, change: Callable[[Controls], Controls]) -> Controls:
        """Put what ``change`` makes of the controls in their place. Returns what is there then, with its new version.

        One at a time: what ``change`` is given stays so until its answer is written, in a transactional store until
        the caller's transaction has ended. It may be called more than once; when it raises, nothing has changed.
        """

    @abstractmethod
    def servers(self) -> list[str]:
        """The ids of the living servers."""
