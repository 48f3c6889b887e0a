"""The part of the database store that is about what operators do to queues and connections."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from ..core.message import Message, Priority
from ..models import queue_id
from . import examining, leaving, pausing, upkeep
from .base import Mended, Pause, Store
from .connecting import run


class DatabaseOperators(Store):
    """See ``Store``."""

    using: str

    def family(self, queues: Collection[str]) -> list[str]:
        return run(self.using, lambda: examining.family(self.using, queues))

    def filled(self, limit: int, after: str | None = None) -> list[str]:
        return run(self.using, lambda: examining.filled(self.using, limit, after))

    def matching(self, queues: Collection[str], priority: Priority | None = None, *, only_expired: bool = False) -> int:
        now = self.now()
        return run(self.using, lambda: examining.matching(self.using, queues, priority, only_expired, now))

    def purge(self, queue: str, limit: int, priority: Priority | None = None, *, only_expired: bool = False) -> int:
        now = self.now()
        return run(
            self.using,
            lambda: upkeep.purge(self.using, queue_id(queue), limit, priority, now, only_expired=only_expired),
        )

    def pause(self, queues: Collection[str], until: datetime | None, reason: str, by: str) -> None:
        self.ensure(queues)
        pause = Pause(since=self.now(), until=until, reason=reason, by=by)
        run(self.using, lambda: pausing.pause(self.using, queues, pause))

    def resume(self, queues: Collection[str]) -> int:
        now = self.now()
        return run(self.using, lambda: pausing.resume(self.using, queues, now))

    def paused(self, queues: Collection[str]) -> dict[str, Pause]:
        now = self.now()
        return run(self.using, lambda: pausing.paused(self.using, queues, now))

    def pauses(self) -> list[tuple[str, Pause]]:
        now = self.now()
        return run(self.using, lambda: pausing.pauses(self.using, now))

    def send_away(self, queue: str, seconds: float, connection: str | None = None, *, dry_run: bool = False) -> int:
        now = self.now()
        if dry_run:
            return run(self.using, lambda: leaving.connected(self.using, queue, connection, now).count())
        return run(self.using, lambda: leaving.send_away(self.using, queue, seconds, connection, now))

    def sent_away(self, server: str) -> dict[str, float]:
        return run(self.using, lambda: leaving.sent_away(self.using, server))

    def peek(self, queue: str, limit: int, after: tuple[Priority, int] | None = None) -> list[Message]:
        now = self.now()
        return run(self.using, lambda: examining.peek(self.using, queue, limit, after, now))

    def mend(self, limit: int, after: int = 0, *, dry_run: bool = False) -> Mended:
        now = self.now()
        return run(self.using, lambda: examining.mend(self.using, limit, after, dry_run, now))
