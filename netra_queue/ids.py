"""Ids for messages and connections: as unlikely to meet twice as random UUIDs, and no secrets."""

from __future__ import annotations

import os
import random

_random = random.Random(os.urandom(32))  # the system's source lets other threads run each time, which takes far longer
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_id() -> str:
    """32 hexadecimal digits. Thread-safe."""
    return f"{_random.getrandbits(128):032x}"


def new_number() -> int:
    """63 random bits, for a row of which the id is known before it is written. Thread-safe."""
    return _random.getrandbits(63)
