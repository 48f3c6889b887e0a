"""Many queues that got one message at once, and the few of them that are over their limits now.

As ``limits`` does it for one queue at a time, but nobody takes turns: no sender to a group waits for anybody's queue.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from django.db import connections
from django.db.models import Max

from .. import conf
from ..core.message import Fate, Priority
from ..core.policy import Candidate, Overflow, Policy, choose_victims
from ..models import Message, Queue
from . import limits
from .removal import remove
from .rows import chunks, lock

FIRST_STEP = 4  # candidates looked at first: most often one has to go
QUEUES_PER_STATEMENT = 100


def enforce(using: str, body: int, now: datetime) -> int:
    """Bring the queues that hold a message with this payload within their limits.

    Returns how many queues (with all their lines) hold it no more.
    """
    families: dict[int, set[int]] = {}
    for chunk in chunks(_crowded(using, body)):
        reached = _families(using, chunk)
        gone = _enforce_some(using, {line: policy for line, (_, policy) in reached.items()}, body, now)
        for line in gone:
            families.setdefault(reached[line][0], set()).add(line)
    return len(families) - len(_still_reached(using, body, list(families)))


def _crowded(using: str, body: int) -> list[int]:
    """Those of the lines with this payload that hold enough messages to be over their limits.

    Whether a line has one more than that number is a short walk along the index, however many it holds; adding up
    what all of them hold is not.
    """
    policies = conf.policies()
    largest = max(policy.max_message_bytes for policy in policies)
    enough = min(min(policy.max_messages, policy.max_bytes // largest) for policy in policies)
    table = connections[using].ops.quote_name(Message._meta.db_table)
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"SELECT r.queue_id FROM {table} r WHERE r.body_id = %s AND (SELECT m.id FROM {table} m "
            f"WHERE m.queue_id = r.queue_id ORDER BY m.priority, m.id LIMIT 1 OFFSET {int(enough)}) IS NOT NULL",
            [body],
        )
        return sorted(id for (id,) in cursor.fetchall())


def _families(using: str, lines: Sequence[int]) -> dict[int, tuple[int, Policy]]:
    """The queue that each of these is a line of (itself, if it is a queue), and its policy."""
    default = conf.policy("default")
    columns = ("pk", "parent_id", "name", "policy", "parent__policy")
    rows = Queue.objects.using(using).filter(pk__in=lines).values_list(*columns)
    known = {
        line: (line if base is None else base, conf.policy_of(name, (policy if base is None else base_policy) or ""))
        for line, base, name, policy, base_policy in rows
    }
    return {line: known.get(line, (line, default)) for line in lines}


def _enforce_some(using: str, policies: Mapping[int, Policy], body: int, now: datetime) -> set[int]:
    """Returns the lines out of which the message itself had to go."""
    full = _full(using, policies)
    if not full:
        return set()
    limits.expire_queues(using, list(full), now)
    full = _full(using, {line: policies[line] for line in full})
    mine = dict(
        Message.objects.using(using).filter(body_id=body, queue_id__in=list(full)).values_list("queue_id", "pk")
    )
    rejecting = [line for line in full if policies[line].overflow is Overflow.REJECT]
    victims = {mine[line] for line in rejecting if line in mine}
    dropping = {line: full[line] for line in full.keys() - set(rejecting)}
    victims |= _first_victims(using, dropping, policies)
    locked = lock(using, victims)
    remove(using, locked.values(), Fate.DROPPED, now)
    gone = set(locked)
    for line, (messages, size) in _full(using, {line: policies[line] for line in dropping}).items():
        gone |= limits.drop_surplus(using, line, policies[line], messages, size, now)
    return {line for line, position in mine.items() if position in gone}


def _full(using: str, policies: Mapping[int, Policy]) -> dict[int, tuple[int, int]]:
    """Those of these lines that are over their limits, and what they hold."""
    totals = limits.totals(using, policies)
    return {line: totals[line] for line, policy in policies.items() if policy.is_full(*totals[line])}


def _first_victims(using: str, full: Mapping[int, tuple[int, int]], policies: Mapping[int, Policy]) -> set[int]:
    """What has to go of each line, if that is little and of its least urgent priority."""
    rows = Message.objects.using(using).filter(queue_id__in=list(full)).order_by().values_list("queue_id")
    worst = dict(rows.annotate(Max("priority")))
    found: set[int] = set()
    lines = sorted(worst)
    for start in range(0, len(lines), QUEUES_PER_STATEMENT):
        some = {line: worst[line] for line in lines[start : start + QUEUES_PER_STATEMENT]}
        for line, candidates in _candidates(using, some, policies).items():
            messages, size = full[line]
            found |= {v.position for v in choose_victims(candidates, policies[line], messages=messages, size=size)}
    return found


def _candidates(
    using: str, priorities: Mapping[int, int], policies: Mapping[int, Policy]
) -> dict[int, list[Candidate]]:
    """The first candidates of each line, in removal order, of the priority given. In it are only integers of ours."""
    table = connections[using].ops.quote_name(Message._meta.db_table)
    parts = []
    for number, (line, priority) in enumerate(priorities.items()):
        order = "" if policies[line].overflow is Overflow.DROP_OLDEST else " DESC"
        parts.append(
            f"SELECT * FROM (SELECT queue_id, priority, id, size FROM {table} WHERE queue_id = {int(line)} "
            f"AND priority = {int(priority)} ORDER BY id{order} LIMIT {FIRST_STEP}) AS c{number}"
        )
    found: dict[int, list[Candidate]] = {line: [] for line in priorities}
    with connections[using].cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts))
        for line, priority, position, size in cursor.fetchall():
            found[line].append(Candidate(position, Priority(priority), size))
    for line, candidates in found.items():
        candidates.sort(key=lambda c: c.position, reverse=policies[line].overflow is not Overflow.DROP_OLDEST)
    return found


def _still_reached(using: str, body: int, queues: Collection[int]) -> set[int]:
    """Those of these queues that hold the message in one of their lines."""
    found: set[int] = set()
    for chunk in chunks(sorted(queues)):
        families = {id: id for id in chunk}
        families |= dict(Queue.objects.using(using).filter(parent_id__in=chunk).values_list("pk", "parent_id"))
        rows = Message.objects.using(using).filter(body_id=body, queue_id__in=list(families))
        found |= {families[id] for id in rows.values_list("queue_id", flat=True)}
    return found
