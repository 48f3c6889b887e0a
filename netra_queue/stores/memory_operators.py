"""What operators do to queues and connections, in the store in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from ..core.message import Message, Priority, base_of
from ..models import queue_id
from .memory_controls import MemoryControls
from .memory_state import Row
from .memory_upkeep import MemoryUpkeep
from .values import Mended, Pause


class MemoryOperators(MemoryUpkeep, MemoryControls):
    """See ``Store``."""

    def family(self, queues: Collection[str]) -> list[str]:
        with self._lock:
            return sorted({*queues, *(name for name in self._queues if base_of(name) in queues)})

    def filled(self, limit: int, after: str | None = None) -> list[str]:
        with self._lock:
            names = sorted((name for name, queue in self._queues.items() if queue.rows), key=queue_id)
            return [name for name in names if after is None or queue_id(name) > queue_id(after)][:limit]

    def matching(self, queues: Collection[str], priority: Priority | None = None, *, only_expired: bool = False) -> int:
        with self._lock:
            return sum(len(self._chosen(name, priority, only_expired)) for name in set(queues))

    # --- pauses ------------------------------------------------------------------------------------------------

    def pause(self, queues: Collection[str], until: datetime | None, reason: str, by: str) -> None:
        with self._lock:
            pause = Pause(since=self.now(), until=until, reason=reason, by=by)
            for name in queues:
                self._queue(name)
                self._pauses[name] = pause
            self._touch()

    def resume(self, queues: Collection[str]) -> int:
        with self._lock:
            count = sum(self._is_in_force(self._pauses.get(name)) for name in set(queues))
            for name in queues:
                self._pauses.pop(name, None)
            if count:
                self._touch()
            return count

    def paused(self, queues: Collection[str]) -> dict[str, Pause]:
        with self._lock:
            return {name: pause for name in queues if (pause := self._pause(name)) is not None}

    def pauses(self) -> list[tuple[str, Pause]]:
        with self._lock:
            mine = [(name, pause) for name, pause in sorted(self._pauses.items()) if self._is_in_force(pause)]
            return sorted(mine, key=lambda item: item[1].since, reverse=True)

    # --- connections -------------------------------------------------------------------------------------------

    def send_away(self, queue: str, seconds: float, connection: str | None = None, *, dry_run: bool = False) -> int:
        with self._lock:
            found = [
                id
                for id, (presence, _) in self._presences.items()
                if queue in (presence.queue, base_of(presence.queue)) and connection in (None, id)
                if self._is_alive(presence.server.id)
            ]
            if found and not dry_run:
                self._away.update(dict.fromkeys(found, seconds))
                self._touch()
            return len(found)

    def sent_away(self, server: str) -> dict[str, float]:
        with self._lock:
            mine = {id for id, (presence, _) in self._presences.items() if presence.server.id == server}
            return {id: seconds for id, seconds in self._away.items() if id in mine}

    def _touch(self) -> None:
        self._controls = replace(self._controls, version=self._controls.version + 1)

    # --- messages ----------------------------------------------------------------------------------------------

    def peek(self, queue: str, limit: int, after: tuple[Priority, int] | None = None) -> list[Message]:
        with self._lock:
            now = self.now()
            rows = [row for row in self._peek(queue).rows if row.expires_at > now]
            return [row.message for row in rows if after is None or row.sort_key > after][:limit]

    def mend(self, limit: int, after: int = 0, *, dry_run: bool = False) -> Mended:
        """A payload goes with its message here: none can be lost."""
        with self._lock:
            found = [(queue, row) for queue in self._queues.values() for row in queue.rows]
            behind = sorted((item for item in found if item[1].message.position > after), key=_position)[:limit]
            wrong = [(queue, row) for queue, row in behind if row.message.payload.size != _size(row)]
            for queue, row in () if dry_run else wrong:
                payload = row.message.payload._replace(size=_size(row))
                queue.rows[queue.rows.index(row)] = replace(row, message=row.message._replace(payload=payload))
            return Mended(len(behind), len(wrong), 0, _position(behind[-1]) if behind else None)


def _position(item: tuple[object, Row]) -> int:
    return item[1].message.position


def _size(row: Row) -> int:
    return len(row.message.payload.text.encode())
