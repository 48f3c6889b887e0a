"""Whether the client of a connection is still there, as far as it can be told from what it sends."""

from __future__ import annotations

from dataclasses import dataclass

from .policy import Policy


@dataclass(slots=True)
class Liveness:
    """When the client was heard last, and when it last acked something or was sent the first of what waits for acks."""

    heard_at: float
    progress_at: float

    def silence(self, policy: Policy, now: float, *, owes_acks: bool) -> str | None:
        """Why it counts as gone; None: it does not."""
        if now - self.heard_at > 2 * policy.heartbeat_seconds:
            return "no frame within two heartbeats"
        if owes_acks and now - self.progress_at > policy.ack_timeout_seconds:
            return "no ack within the ack timeout"
        return None
