"""Upkeep of the store in memory, and what it tells an operator."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from .. import conf
from ..core.message import LossReason, Priority, base_of, client_of
from .memory_groups import MemoryGroups
from .memory_state import QueueRows
from .values import Ages, Due, Overview, QueueStat, ServerLoad


class MemoryUpkeep(MemoryGroups):
    """See ``Store``."""

    def sweep(self, limit: int) -> int:
        with self._lock:
            now = self.now()
            rows = [(row, name) for name, queue in self._queues.items() for row in queue.rows if row.expires_at <= now]
            due = sorted(rows, key=lambda item: (item[0].expires_at, item[0].message.position))[:limit]
            for name in {name for _, name in due}:
                positions = {row.message.position for row, of in due if of == name}
                self._remove(self._queues[name], positions, LossReason.EXPIRED)
            return len(due)

    def reap(self) -> int:
        with self._lock:
            dead = self._dead()
            self._part([self._presences[id][0] for id in dead])
            silent = {server for server in self._heartbeats if not self._is_alive(server)}
            for server in silent:
                del self._heartbeats[server]
                del self._servers[server]
            now = self.now()
            self._forget_lingers(lambda presence, until: until <= now or presence.server.id in silent)
            return len(dead)

    def forget_idle(self, limit: int) -> int:
        with self._lock:
            self.forget_keys(limit)
            self._forget_empty_groups()
            idle = self._idle()[:limit]
            for name in idle:
                del self._queues[name]
            return len(idle)

    def _idle(self) -> list[str]:
        cutoff = self.now() - timedelta(seconds=conf.get("IDLE_QUEUE_SECONDS"))
        in_use = {presence.queue for presence, _ in self._presences.values()}
        in_use |= {row.queue for row in self._letters.values()}
        in_use |= {name for name, pause in self._pauses.items() if self._is_in_force(pause)}
        longest = max(conf.policies(), key=lambda policy: policy.line_seconds)
        lines = {name for name in self._queues if client_of(name) and self._is_in_use(name, longest)}
        in_use |= lines | {base_of(name) for name in lines}
        return [
            name
            for name, queue in self._queues.items()
            if not queue.rows and name not in in_use and self._idle_since(name, queue) < cutoff
            if all(since < cutoff for *_, since in queue.losses.values())
        ]

    def _idle_since(self, name: str, queue: QueueRows) -> datetime:
        """Of a queue, also when a client of one of its lines was there."""
        family = [queue] if client_of(name) else self._family(name)
        return max(rows.seen_at or rows.created_at for rows in family)

    def forget_keys(self, limit: int) -> int:
        with self._lock:
            old = self._old_keys()[:limit]
            for keys, key in old:
                del keys[key]
            full = self._full_buckets()[: limit - len(old)]
            for bucket in full:
                del self._full_at[bucket]
            gone = len(old) + len(full)
            return gone + self._forget_run_out(limit - gone)

    def _full_buckets(self) -> list[str]:
        now = self.now().timestamp()
        return [bucket for bucket, full_at in self._full_at.items() if full_at <= now]

    def _old_keys(self) -> list[tuple[dict[str, tuple[str, datetime]], str]]:
        now = self.now()
        all_keys = [*(rows.keys for rows in self._queues.values()), *(rows.keys for rows in self._groups.values())]
        return [(keys, key) for keys in all_keys for key, (_, until) in keys.items() if until <= now]

    def forget_bodies(self, limit: int) -> int:
        """A payload is shared by reference."""
        return 0

    def due(self, limit: int) -> Due:
        with self._lock:
            expired = self._expired()
            return Due(
                expired=min(limit, len(expired)),
                expired_since=min(expired, default=None),
                connections=min(limit, len(self._dead())),
                lines=min(limit, len(self._old_lines())),
                idle_queues=min(limit, len(self._idle())),
                keys=min(limit, len(self._old_keys()) + len(self._full_buckets()) + self._run_out()),
                undelivered=min(limit, len(self._due())),
                bodies=0,
                letters=min(limit, len(self._old_letters())),
            )

    def _expired(self) -> list[datetime]:
        now = self.now()
        return [row.expires_at for queue in self._queues.values() for row in queue.rows if row.expires_at <= now]

    def purge(self, queue: str, limit: int, priority: Priority | None = None, *, only_expired: bool = False) -> int:
        with self._lock:
            positions = set(self._chosen(queue, priority, only_expired)[:limit])
            reason = LossReason.EXPIRED if only_expired else LossReason.DROPPED
            return len(self._remove(self._peek(queue), positions, reason, may_keep=only_expired))

    def _chosen(self, queue: str, priority: Priority | None, only_expired: bool) -> list[int]:
        """The positions of these messages."""
        now = self.now()
        rows = [row for row in self._peek(queue).rows if row.expires_at <= now or not only_expired]
        return [row.message.position for row in rows if priority is None or row.message.priority is priority]

    def stat(self, queue: str) -> QueueStat:
        with self._lock:
            found = self._peek(queue)
            return QueueStat(
                queue=queue,
                policy=found.policy,
                is_resolved=found.is_resolved,
                messages=len(found.rows),
                size=found.size,
                by_priority=Counter(row.message.priority for row in found.rows),
                oldest_at=min((row.message.created_at for row in found.rows), default=None),
                connections=sum(presence.queue == queue for presence, _ in self._presences.values()),
                seen_at=found.seen_at,
                acked_at=found.acked_at,
                losses=self._losses(found),
                superseded=sum(slot.superseded for slot in found.slots.values()),
                pause=self._pause(queue),
            )

    def overview(self, limit: int, scan: int) -> Overview:
        """Complete whatever ``scan`` says: everything is at hand."""
        with self._lock:
            stats = [self.stat(name) for name in self._queues]
            waiting = sorted((stat for stat in stats if stat.messages), key=lambda stat: (-stat.messages, stat.queue))
            return Overview(
                messages=sum(stat.messages for stat in stats),
                size=sum(stat.size for stat in stats),
                expired=len(self._expired()),
                queues=len(stats),
                paused=sum(self._is_in_force(pause) for pause in self._pauses.values()),
                connections=sum(self._is_alive(presence.server.id) for presence, _ in self._presences.values()),
                servers=sum(self._is_alive(server) for server in self._heartbeats),
                letters=len(self._letters),
                complete=True,
                largest=tuple(waiting[:limit]),
                oldest_at=min((stat.oldest_at for stat in waiting if stat.oldest_at is not None), default=None),
            )

    def ages(self, bounds: Sequence[float], scan: int) -> Ages:
        with self._lock:
            now, counts = self.now(), {priority: [0] * (len(bounds) + 1) for priority in Priority}
            for message in (row.message for queue in self._queues.values() for row in queue.rows):
                age = (now - message.created_at).total_seconds()
                counts[message.priority][bisect_right(bounds, age)] += 1
            return Ages(counts, complete=True)

    def loads(self, limit: int, scan: int) -> list[ServerLoad]:
        with self._lock:
            held = Counter(presence.server.id for presence, _ in self._presences.values())
            alive = [(self._servers[id], at) for id, at in self._heartbeats.items() if self._is_alive(id)]
            return [
                ServerLoad(server=server, heartbeat_at=at, connections=held[server.id]) for server, at in alive[:limit]
            ]
