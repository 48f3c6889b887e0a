"""How many frames a client may send. One for each connection."""

from __future__ import annotations

from dataclasses import dataclass

from .deliveries import Window
from .policy import Policy
from .rate import Rate, take
from .wire import Ack, ControlFrame


@dataclass(slots=True)
class Gate:
    """``now``: seconds of any one clock. An ack of something new is never too much: it is the answer to a delivery."""

    _frames_full_at: float = 0.0
    _control_full_at: float = 0.0

    def refuses(self, frame: ControlFrame | None, window: Window, policy: Policy, now: float) -> Rate | None:
        """A frame has come; None: one of the application's own. The rate that it exceeds, if it does."""
        if frame is None:
            return self._refuses_own(policy.client_frames, now)
        if policy.control_frames is None or (isinstance(frame, Ack) and window.has_up_to(frame.seq)):
            return None
        taken = take(policy.control_frames, self._control_full_at, now)
        self._control_full_at = taken.full_at
        return policy.control_frames if taken.wait else None

    def _refuses_own(self, rate: Rate | None, now: float) -> Rate | None:
        if rate is None:
            return None
        taken = take(rate, self._frames_full_at, now)
        self._frames_full_at = taken.full_at
        return rate if taken.wait else None
