"""Who uses which line, by the rules of docs/devices.md: kept beside the store, and compared with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from netra_queue import conf
from netra_queue.core.message import base_of, client_of
from netra_queue.core.policy import Policy
from netra_queue.stores.base import MISSED_HEARTBEATS, Presence
from tests.core.interleavings.sight import LINES


@dataclass(slots=True)
class Books:
    """Times in seconds since the beginning."""

    policy: Policy
    now: float = 0.0
    seen: dict[str, float] = field(default_factory=dict)  # lines in use, or out of it and not forgotten
    presences: dict[str, tuple[Presence, float]] = field(default_factory=dict)  # with when it came
    heartbeats: dict[str, float] = field(default_factory=dict)

    def is_connected(self, line: str) -> bool:
        return any(presence.queue == line for presence, _ in self.presences.values())

    def is_in_use(self, line: str) -> bool:
        if line not in self.seen:
            return False
        return self.is_connected(line) or self.seen[line] > self.now - self.policy.line_seconds

    def devices_in_use(self, besides: str = "") -> list[str]:
        return [line for line in LINES if client_of(line) and line != besides and self.is_in_use(line)]

    def targets(self, queue: str) -> list[str]:
        """The lines that what is sent to this queue (or line) goes to."""
        if client_of(queue):
            return [queue]
        return sorted(line for line in LINES if self.is_in_use(line)) or [queue]

    def idle_devices(self, besides: str) -> list[str]:
        """Those that a new line takes the place of, the one that has been idle longest first."""
        idle = [line for line in self.seen if client_of(line) and line != besides and not self.is_connected(line)]
        return sorted(idle, key=lambda line: self.seen[line])

    def surplus(self, line: str) -> int:
        """How many devices too many there are with this one."""
        if not client_of(line):
            return 0
        others = [other for other in self.seen if client_of(other) and other != line]
        return max(0, len(others) + 1 - self.policy.max_lines)

    def attached(self, presence: Presence, there: Iterable[str]) -> None:
        """``there``: the devices that the store knows now. Of several last seen together, any may have gone."""
        line, there = presence.queue, set(there)
        gone = {other for other in self.seen if client_of(other) and other != line and other not in there}
        if client_of(line):
            assert line in there
            idle = self.idle_devices(line)
            count = self.surplus(line) if self.devices_in_use() else len(idle)
            assert gone <= set(idle)
            assert len(gone) == count, "as many as must go, or all that are out of use"
            assert all(self.seen[a] <= self.seen[b] for a in gone for b in set(idle) - gone), "idle longest first"
        for other in gone:
            del self.seen[other]
        self.seen[line] = self.now
        self.presences.setdefault(presence.id, (presence, self.now))

    def detached(self, ids: Iterable[str]) -> None:
        """A line counts as in use from its last connection's end on, however that came to be known."""
        for id in ids:
            if id in self.presences:
                self._see(self.presences.pop(id)[0].queue)

    def _see(self, line: str) -> None:
        if line in self.seen:
            self.seen[line] = self.now

    def is_recent(self, at: float) -> bool:
        return at > self.now - MISSED_HEARTBEATS * conf.get("SERVER_HEARTBEAT_SECONDS")

    def reaped(self) -> int:
        dead = [p.id for p, since in self.presences.values() if not self._is_alive(p.server.id, since)]
        self.detached(dead)
        self.heartbeats = {server: at for server, at in self.heartbeats.items() if self.is_recent(at)}
        return len(dead)

    def _is_alive(self, server: str, since: float) -> bool:
        return self.is_recent(self.heartbeats.get(server, since))

    def retired(self, server: str) -> None:
        self.detached([p.id for p, _ in self.presences.values() if p.server.id == server])
        self.heartbeats.pop(server, None)

    def holders(self, lines: Iterable[str]) -> dict[str, list[str]]:
        found: dict[str, set[str]] = {}
        for presence, _ in self.presences.values():
            at = self.heartbeats.get(presence.server.id)
            if presence.queue in set(lines) and at is not None and self.is_recent(at):
                found.setdefault(presence.server.id, set()).add(presence.queue)
        return {server: sorted(names) for server, names in found.items()}

    def expired_devices(self) -> list[str]:
        return [line for line in self.seen if client_of(line) and not self.is_in_use(line)]

    def base_is_in_use(self, line: str) -> bool:
        return self.is_in_use(base_of(line))
