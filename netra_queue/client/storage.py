"""What outlives a restart of the process: the ids of the messages that were handled lately."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """Both are called on the event loop, and are to be quick. ``save`` is called before each ack."""

    def load(self) -> Iterable[str]:
        """What was saved last; nothing at first."""

    def save(self, ids: Sequence[str]) -> None:
        """Keep these ids, oldest first, in place of what was saved before."""


class FileStorage:
    """A small file for one client. It is replaced as a whole, so that a crash leaves the former or the new one.

    ``load`` raises OSError or ValueError for a file that cannot be read, ``save`` OSError.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    def load(self) -> list[str]:
        try:
            return [str(id) for id in json.loads(self._path.read_text())]
        except FileNotFoundError:
            return []

    def save(self, ids: Sequence[str]) -> None:
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.write_text(json.dumps(list(ids)))
        fresh.replace(self._path)
