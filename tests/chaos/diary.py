"""What consumers write down of their own sends: a file that outlives their processes, however they end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.account import Entry

VARIABLE = "NETRA_CHAOS_DIARY"


@dataclass(frozen=True, slots=True)
class Diary:
    """Written by several processes, a line of JSON at a time. Closed: nobody is to send any more."""

    path: Path

    def write(self, **what: Any) -> None:
        line = json.dumps({**what, "at": time.monotonic(), "pid": os.getpid()})
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{line}\n".encode())
        os.close(file)

    def entries(self) -> Iterator[Entry]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        yield from (Entry(**json.loads(line)) for line in lines)

    @property
    def is_closed(self) -> bool:
        return self._mark.exists()

    def close(self) -> None:
        self._mark.touch()

    @property
    def _mark(self) -> Path:
        return self.path.with_suffix(".closed")
