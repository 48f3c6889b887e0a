"""Which queues are nearly full, by the limits that are in force for each."""

from __future__ import annotations

from . import conf
from .maintenance import COUNT_LIMIT
from .stores.base import QueueStat, Store

NEAR = 0.8  # of what a policy allows, in messages or in bytes
MOST_QUEUES = 1000  # that are looked at: it matters whether they are many


def near_limit(store: Store) -> list[QueueStat]:
    """The queues that hold NEAR of what their policies allow, the largest first; at most MOST_QUEUES are looked at.

    Blocks. Takes as long as counting the messages does, and so no longer than for COUNT_LIMIT of them.
    """
    policies = conf.policies()
    messages = int(NEAR * min(policy.max_messages for policy in policies))
    size = int(NEAR * min(policy.max_bytes for policy in policies))
    found = store.fullest(max(messages, 1), max(size, 1), MOST_QUEUES, COUNT_LIMIT)
    return [stat for stat in found if _is_near(stat)]


def _is_near(stat: QueueStat) -> bool:
    policy = conf.policy_of(stat.queue, stat.policy)
    return stat.messages >= NEAR * policy.max_messages or stat.size >= NEAR * policy.max_bytes
