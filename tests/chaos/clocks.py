"""Wall clocks of single processes that can be stepped, by libfaketime (Debian's package ``faketime``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

FAKED = Path(__file__).parent / "faked"
LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
MISSING = "libfaketime is not installed (Debian: apt-get install faketime): no clock is stepped"


@dataclass(slots=True)
class Clock:
    """What a process started with ``environment`` believes the time to be. Its monotonic clock is left alone."""

    file: Path
    offset: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """Nothing where the library is missing."""
        if LIBRARY is None:
            return {}
        self.step(self.offset)
        paths = [str(FAKED), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "PYTHONPATH": os.pathsep.join(paths),
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",  # reading the file each time takes half of the processor
            "DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, offset: int) -> None:
        """Be so many seconds ahead of the real time, or behind it, within two seconds."""
        self.offset = offset
        new = self.file.with_suffix(".new")
        new.write_text(f"{offset:+d}\n")
        new.chmod(0o644)  # the database runs as another user
        new.replace(self.file)
