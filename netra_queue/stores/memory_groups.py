"""Groups in the store in memory."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Collection
from datetime import timedelta

from .. import conf
from ..core.message import GroupDraft, LossReason, Message, Outcome, base_of
from ..core.policy import Policy
from ..core.statistics import Event
from ..exceptions import QueueFull
from .memory_letters import MemoryLetters
from .memory_state import GroupRows, Row
from .values import GroupAppended


class MemoryGroups(MemoryLetters):
    """See ``Store``."""

    def subscribe(self, queues: Collection[str], group: str) -> int:
        with self._lock:
            members = self._groups.setdefault(group, GroupRows(self.now())).members
            added = set(queues) - members
            members |= added
            return len(added)

    def unsubscribe(self, queues: Collection[str], group: str) -> int:
        with self._lock:
            members = self._members(group)
            removed = members.intersection(queues)
            members -= removed
            return len(removed)

    def members(self, group: str, limit: int) -> list[str]:
        with self._lock:
            return sorted(self._members(group))[:limit]

    def group_holders(self, groups: Collection[str]) -> dict[str, list[str]]:
        with self._lock:
            members = {name for group in groups for name in self._members(group)}
            found: dict[str, set[str]] = defaultdict(set)
            for presence, _ in self._presences.values():
                if base_of(presence.queue) in members and self._is_alive(presence.server.id):
                    found[presence.server.id].add(presence.queue)
            return {server: sorted(names) for server, names in found.items()}

    def _members(self, group: str) -> set[str]:
        return self._groups[group].members if group in self._groups else set()

    def _forget_empty_groups(self) -> None:
        cutoff = self.now() - timedelta(seconds=conf.get("IDLE_QUEUE_SECONDS"))
        self._groups = {
            name: rows for name, rows in self._groups.items() if rows.members or rows.keys or rows.created_at >= cutoff
        }

    # --- sending -----------------------------------------------------------------------------------------------

    def group_append(self, draft: GroupDraft) -> GroupAppended:
        with self._lock:
            group = self._groups.setdefault(draft.group, GroupRows(self.now()))
            first, until = group.keys.get(draft.key or "", ("", self.now()))
            if draft.key is not None and until > self.now():
                self._counted(Event.DUPLICATE, [draft.priority])
                return GroupAppended(first, Outcome.DUPLICATE)
            members = [queue for queue in sorted(group.members) if self._is_kept(queue)]
            recipients = sum(self._give(draft, queue) for queue in members)
            if members and not recipients:
                return GroupAppended(draft.id, Outcome.DROPPED)
            if draft.key is not None:
                longest = max(self._ttl(draft, policy) for policy in conf.policies())
                group.keys[draft.key] = (draft.id, self.now() + timedelta(seconds=longest))
            return GroupAppended(draft.id, Outcome.QUEUED, recipients)

    def _is_kept(self, queue: str) -> bool:
        return conf.policy_of(queue, self._peek(queue).policy).rollout.includes(queue)

    def _ttl(self, draft: GroupDraft, policy: Policy) -> float:
        return policy.ttl_for(draft.priority) if draft.ttl_seconds is None else draft.ttl_seconds

    def _give(self, draft: GroupDraft, queue: str) -> bool:
        """Put it into one queue's lines. Returns whether one of them keeps it."""
        policy = conf.policy_of(queue, self._peek(queue).policy)
        lines = self._targets(queue, policy)
        if draft.payload.size > policy.max_message_bytes:
            self._counted_beside(draft, lines, Event.DROPPED)
            for line in lines:
                self._count(self._queue(line), LossReason.DROPPED, draft.priority, 1)
            return False
        kept = [self._give_line(draft, line, policy) for line in lines]
        return any(kept)

    def _give_line(self, draft: GroupDraft, line: str, policy: Policy) -> bool:
        position, now = next(self._numbers), self.now()
        message = Message(
            position=position,
            id=draft.id,
            payload=draft.payload,
            priority=draft.priority,
            created_at=now,
            traceparent=draft.traceparent,
        )
        expires_at = now + timedelta(seconds=self._ttl(draft, policy))
        insort(self._queue(line).rows, Row((draft.priority, position), message, expires_at))
        self._counted(Event.ACCEPTED, [draft.priority])
        try:
            return position not in self._enforce(line, policy)
        except QueueFull:
            self._remove(self._queue(line), {position}, LossReason.DROPPED)
            return False
