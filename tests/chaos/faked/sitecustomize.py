"""Python imports this at its start, when this folder is in its path, as it is where a clock can be stepped.

``time.sleep`` raises OSError under libfaketime 0.9.10, which mistakes the absolute deadline that Python hands to
``clock_nanosleep`` for a time of the wall clock.
"""

from __future__ import annotations

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
