"""What operators see of connections, in the store in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from .memory_state import MemoryState
from .values import Connected, Detail


class MemoryConnections(MemoryState):
    """See ``Store``."""

    def connected(self, queues: Collection[str], limit: int) -> list[Connected]:
        with self._lock:
            found = [
                Connected(
                    id=presence.id,
                    queue=presence.queue,
                    server=presence.server.id,
                    place=f"{presence.server.host}:{presence.server.pid}",
                    client=presence.client,
                    since=since,
                    is_alive=self._is_alive(presence.server.id),
                )
                for presence, since in self._presences.values()
                if presence.queue in queues
            ]
            return found[:limit]

    def tell_details(self, details: Collection[Detail]) -> None:
        with self._lock:
            now = self.now()
            for detail in details:
                if detail.connection in self._presences:
                    self._details[detail.connection] = replace(detail, told_at=now)

    def details(self, connections: Collection[str]) -> dict[str, Detail]:
        with self._lock:
            return {id: self._details[id] for id in connections if id in self._details}
