"""The store on a Django database: PostgreSQL, SQLite, MariaDB and MySQL.

Transactions are short and never open while anything waits for a network. Rows of messages are taken in the order of
their ids, and rows that another transaction holds are skipped where they can be, so that acks, sweeps and senders do
not wait for each other in circles.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

from django.db import connections, router

from .. import models
from ..core.actions import ReadRequest
from ..core.message import Draft, Fate, GroupDraft, Losses, base_of
from ..core.policy import Policy
from ..core.tracking import Tracked, UndeliveredMessage
from ..exceptions import InvalidMessage, NetraQueueError, TooManyDevices
from ..models import queue_id
from . import (
    appending,
    arriving,
    devices,
    fanout,
    handing_over,
    lingers,
    membership,
    overview,
    presence,
    reading,
    removal,
    tracking,
    transmitting,
    upkeep,
    watching,
)
from .alert_rows import DatabaseAlerts
from .base import (
    Appended,
    Batch,
    Due,
    GroupAppended,
    Line,
    Opened,
    Overview,
    Presence,
    QueueStat,
    Result,
    Server,
)
from .clock import DatabaseClock
from .connecting import database_time, in_own_thread, is_in_transaction, on_commit, run
from .database_connections import DatabaseConnections
from .database_controls import DatabaseControls
from .database_letters import DatabaseLetters
from .database_operators import DatabaseOperators
from .database_passing import DatabasePassing
from .rate_rows import DatabaseRates
from .statistics_rows import DatabaseStatistics
from .values import Ages, ServerLoad


class DatabaseStore(
    DatabaseLetters,
    DatabaseAlerts,
    DatabaseConnections,
    DatabaseControls,
    DatabaseOperators,
    DatabasePassing,
    DatabaseRates,
    DatabaseStatistics,
):
    """``using``: the alias of the database; by default the one that the project's routers choose for our models."""

    transactional = True

    def __init__(self, using: str | None = None) -> None:
        self.using = using or router.db_for_write(models.Message)
        self._clock = DatabaseClock(lambda: database_time(self.using))

    def now(self) -> datetime:
        return run(self.using, self._clock.now)

    # --- threads -----------------------------------------------------------------------------------------------

    def in_own_thread(self, work: Callable[[], Result]) -> Result:
        return in_own_thread(self.using, work)

    def leave_thread(self) -> None:
        connections[self.using].close()

    def in_transaction(self) -> bool:
        return is_in_transaction(self.using)

    def after_commit(self, callback: Callable[[], None]) -> None:
        if self.in_transaction():
            on_commit(self.using, callback)
        else:
            callback()

    # --- messages ----------------------------------------------------------------------------------------------

    def describe(self, queues: Collection[str]) -> dict[str, str]:
        rows = models.Queue.objects.using(self.using).filter(pk__in=[queue_id(name) for name in queues])
        columns = rows.values_list("id", "name", "policy")
        found = run(self.using, lambda: {id: (name, policy) for id, name, policy in columns.all()})
        for name in queues:
            other, _ = found.get(queue_id(name), (name, ""))
            if other != name:
                raise InvalidMessage("queue name", expected=f"one that does not share its id with {other!r}", got=name)
        return dict(found.values())

    def ensure(self, queues: Collection[str]) -> None:
        now = self.now()
        rows = [models.new_queue(name, now) for name in sorted(queues, key=queue_id)]
        run(self.using, lambda: models.Queue.objects.using(self.using).bulk_create(rows, ignore_conflicts=True))
        self.describe(queues)

    def append(self, drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> list[Appended]:
        if not drafts:
            return []
        now = self.now()
        attempts = itertools.count()
        return run(
            self.using, lambda: appending.append(self.using, drafts, policies, now, is_repeat=next(attempts) > 0)
        )

    def read(self, requests: Sequence[tuple[str, ReadRequest]]) -> list[Batch]:
        now = self.now()
        return run(self.using, lambda: reading.read(self.using, requests, now))

    def transmit(self, positions: Collection[int]) -> set[int]:
        now = self.now()
        return run(self.using, lambda: transmitting.transmit(self.using, positions, now))

    def ack(self, positions: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
        now = self.now()
        return run(self.using, lambda: removal.ack(self.using, positions, now))

    def tracked(self, ids: Collection[str]) -> dict[str, Tracked]:
        return run(self.using, lambda: tracking.tracked(self.using, ids))

    def waiting(self, queues: Collection[str]) -> set[str]:
        now = self.now()
        return run(self.using, lambda: reading.waiting(self.using, queues, now))

    def losses(self, queues: Collection[str], told: Collection[int] = ()) -> dict[str, Losses]:
        ids = {queue_id(name): name for name in queues}
        return run(self.using, lambda: presence.losses(self.using, ids, told))

    def settle(self, queue: str, records: Collection[int]) -> None:
        rows = models.Loss.objects.using(self.using).filter(queue_id=queue_id(queue), pk__in=list(records))
        run(self.using, rows.delete)

    # --- connections -------------------------------------------------------------------------------------------

    def attach(self, presence_: Presence, policy: Policy) -> Opened:
        now = self.now()
        answer = run(self.using, lambda: arriving.attach(self.using, [(presence_, policy)], now))[0]
        if isinstance(answer, TooManyDevices):
            raise answer
        return answer

    def attach_all(self, arrivals: Sequence[tuple[Presence, Policy]]) -> list[Opened | NetraQueueError]:
        now = self.now()
        try:
            return list(run(self.using, lambda: arriving.attach(self.using, arrivals, now)))
        except InvalidMessage:
            return super().attach_all(arrivals)

    def detach(self, presences: Collection[Presence]) -> None:
        now = self.now()
        run(self.using, lambda: presence.detach(self.using, presences, now))

    def take_over(self, lines: Mapping[str, Policy]) -> set[str]:
        waiting = self.waiting({base_of(line) for line in lines})
        now = self.now()
        late = {line: policy for line, policy in sorted(lines.items()) if base_of(line) in waiting}
        moved = {line: run(self.using, partial(devices.take_over, self.using, line, late[line], now)) for line in late}
        return {line for line, count in moved.items() if count}

    def lines(self, queue: str) -> list[Line]:
        return run(self.using, lambda: devices.lines(self.using, queue))

    def forget_line(self, line: str, policy: Policy) -> int:
        now = self.now()
        return run(self.using, lambda: devices.forget(self.using, line, Fate.DROPPED, policy, now))

    def linger(self, stays: Sequence[tuple[Presence, float]]) -> set[str]:
        now = self.now()
        return run(self.using, lambda: presence.linger(self.using, stays, now))

    def lingering(self, ids: Collection[str]) -> set[str]:
        return run(self.using, lambda: lingers.still_there(self.using, ids))

    def holders(self, queues: Collection[str]) -> dict[str, list[str]]:
        now = self.now()
        return run(self.using, lambda: presence.holders(self.using, queues, now))

    def heartbeat(self, server: Server) -> bool:
        now = self.now()
        return run(self.using, lambda: presence.heartbeat(self.using, server, now))

    def retire(self, server: Server) -> None:
        now = self.now()
        run(self.using, lambda: presence.retire(self.using, server, now))

    # --- groups ------------------------------------------------------------------------------------------------

    def subscribe(self, queues: Collection[str], group: str) -> int:
        now = self.now()
        return run(self.using, lambda: membership.subscribe(self.using, queues, group, now))

    def unsubscribe(self, queues: Collection[str], group: str) -> int:
        now = self.now()
        return run(self.using, lambda: membership.unsubscribe(self.using, queues, group, now))

    def group_append(self, draft: GroupDraft) -> GroupAppended:
        now, number = self.now(), fanout.new_number()
        attempts = itertools.count()
        return run(
            self.using, lambda: fanout.group_append(self.using, draft, number, now, is_repeat=next(attempts) > 0)
        )

    def members(self, group: str, limit: int) -> list[str]:
        return run(self.using, lambda: membership.members(self.using, group, limit))

    def group_holders(self, groups: Collection[str]) -> dict[str, list[str]]:
        now = self.now()
        return run(self.using, lambda: membership.holders(self.using, groups, now))

    # --- upkeep ------------------------------------------------------------------------------------------------

    def sweep(self, limit: int) -> int:
        now = self.now()
        return run(self.using, lambda: upkeep.sweep(self.using, limit, now))

    def reap(self) -> int:
        now = self.now()
        return run(self.using, lambda: presence.reap(self.using, now))

    def forget_idle(self, limit: int) -> int:
        now = self.now()
        return run(self.using, lambda: upkeep.forget_idle(self.using, limit, now))

    def forget_keys(self, limit: int) -> int:
        now = self.now()
        return run(self.using, lambda: upkeep.forget_keys(self.using, limit, now))

    def forget_bodies(self, limit: int) -> int:
        now = self.now()
        return run(self.using, lambda: upkeep.forget_bodies(self.using, limit, now))

    def hand_over(self, policy: str, limit: int, receive: Callable[[tuple[UndeliveredMessage, ...]], None]) -> int:
        now = self.now()
        due = run(self.using, lambda: watching.due(self.using, policy, limit, now))
        return handing_over.hand_over(self.using, due, receive) if due else 0

    def expire_lines(self, limit: int) -> int:
        now = self.now()
        return run(self.using, lambda: devices.expire_lines(self.using, limit, now))

    def due(self, limit: int) -> Due:
        now = self.now()
        return run(self.using, lambda: overview.due(self.using, limit, now))

    def stat(self, queue: str) -> QueueStat:
        now = self.now()
        return run(self.using, lambda: upkeep.stat(self.using, queue, now))

    def overview(self, limit: int, scan: int) -> Overview:
        now = self.now()
        return run(self.using, lambda: overview.overview(self.using, limit, scan, now))

    def ages(self, bounds: Sequence[float], scan: int) -> Ages:
        now = self.now()
        return run(self.using, lambda: overview.ages(self.using, bounds, scan, now))

    def loads(self, limit: int, scan: int) -> list[ServerLoad]:
        now = self.now()
        return run(self.using, lambda: overview.loads(self.using, limit, scan, now))
