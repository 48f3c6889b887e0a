"""How far a connection has come."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    OPENING = "opening"
    REPLAYING = "replaying"
    LIVE = "live"
    CLOSED = "closed"
