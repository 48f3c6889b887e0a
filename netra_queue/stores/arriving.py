"""How the database store makes connections known: those that come at the same time together, in a dozen statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from django.db.models import Case, Count, Value, When

from ..core.message import Losses, base_of, client_of
from ..core.policy import Policy
from ..exceptions import InvalidMessage, TooManyDevices
from ..models import LiveConnection, Message, Queue, new_queue, queue_id
from . import devices, lingers, presence
from .connecting import own_transaction
from .limits import expire_queues
from .rows import chunks, lock_queues
from .values import Opened, Presence

Arrival = tuple[Presence, Policy]
Answer = Opened | TooManyDevices
MOST_TOGETHER = 100  # connections in one transaction, which holds the rows of their queues


def attach(using: str, arrivals: Sequence[Arrival], now: datetime) -> list[Answer]:
    """In the order of ``arrivals``. Raises InvalidMessage when one of the queues shares its id with another one."""
    answers: dict[str, Answer] = {}
    for some in _rounds(arrivals):
        with own_transaction(using):
            answers |= _attach_some(using, some, now)
    return [answers[presence.id] for presence, _ in arrivals]


def _rounds(arrivals: Sequence[Arrival]) -> Iterator[list[Arrival]]:
    """Of one queue's clients, each has to see the ones before it."""
    left = list(arrivals)
    while left:
        together: dict[str, Arrival] = {}
        later: list[Arrival] = []
        for arrival in left:
            base = base_of(arrival[0].queue)
            if base in together or len(together) == MOST_TOGETHER:
                later.append(arrival)
            else:
                together[base] = arrival
        yield list(together.values())
        left = later


def _attach_some(using: str, arrivals: Sequence[Arrival], now: datetime) -> dict[str, Answer]:
    """Of each queue, or any of its lines, one at most. The queues' rows first, then the lines'."""
    policies = {presence.queue: policy for presence, policy in arrivals}
    names = {presence.queue: (presence.policy, presence.is_resolved) for presence, _ in arrivals}
    _note(using, {base_of(line): name for line, name in names.items()}, now, seen=names.keys())
    lines = {line: policy for line, policy in policies.items() if client_of(line)}
    refused = devices.arrive(using, lines, now) if lines else set()
    _note(using, {line: names[line] for line in lines.keys() - refused}, now, seen=names.keys())
    there = [presence for presence, _ in arrivals if presence.queue not in refused]
    _insert(using, there, now)
    opened = _open(using, {presence.queue: policies[presence.queue] for presence in there}, now)
    return {
        presence.id: opened.get(presence.queue)
        or TooManyDevices(base_of(presence.queue), limit=policies[presence.queue].max_lines)
        for presence, _ in arrivals
    }


def _note(using: str, policies: Mapping[str, tuple[str, bool]], now: datetime, *, seen: Collection[str]) -> None:
    """A client has come to these queues or lines or, if they are not among ``seen``, to a line of them.

    Their rows are locked from now on, and made if they are missing. ``policies``: the names that
    were chosen, and whether by POLICY_RESOLVER.
    """
    missing = {queue_id(name): name for name in policies}
    for id in lock_queues(using, policies):
        del missing[id]
    if missing:
        rows = [new_queue(name, now) for _, name in sorted(missing.items())]
        Queue.objects.using(using).bulk_create(rows, ignore_conflicts=True)
        lock_queues(using, missing.values())
    alike: dict[tuple[str, bool, bool], list[str]] = defaultdict(list)
    for name, (policy, is_resolved) in policies.items():
        alike[policy, is_resolved, name in seen].append(name)
    for (policy, is_resolved, is_seen), some in alike.items():
        changes = {"policy": policy, "is_resolved": is_resolved, "idle_since": now}
        _update(using, some, {**changes, "seen_at": now} if is_seen else changes)


def _update(using: str, names: Sequence[str], changes: Mapping[str, object]) -> None:
    for chunk in chunks(names):
        rows = Queue.objects.using(using).filter(pk__in=[queue_id(name) for name in chunk])
        if rows.filter(name__in=chunk).update(**changes) < len(chunk):
            known = set(rows.values_list("name", flat=True))
            wrong = next(name for name in chunk if name not in known)
            raise InvalidMessage("queue name", expected="one with an id of its own", got=wrong)


def _insert(using: str, presences: Sequence[Presence], now: datetime) -> None:
    rows = [
        LiveConnection(
            id=presence.id,
            queue_id=queue_id(presence.queue),
            server_id=presence.server.id,
            client=presence.client,
            connected_at=now,
        )
        for presence in presences
    ]
    LiveConnection.objects.using(using).bulk_create(rows, ignore_conflicts=True)


def _open(using: str, policies: Mapping[str, Policy], now: datetime) -> dict[str, Opened]:
    """What waits for these lines and what they have lost, once what has expired is removed."""
    ids = {queue_id(name): name for name in policies}
    waiting = _waiting(using, ids, now)
    lost = presence.losses(using, ids)
    servers = lingers.take(using, ids)
    return {
        name: Opened(min(waiting.get(id, 0), policies[name].max_messages), lost.get(name, Losses()), now, servers[id])
        for id, name in ids.items()
    }


def _waiting(using: str, ids: Collection[int], now: datetime) -> dict[int, int]:
    """How many messages wait in each of these queues, without those whose time has not come; others have expired, and
    are removed. Queues without any may be left out."""
    found = _counts(using, ids, now)
    if with_expired := [id for id, (_, expired) in found.items() if expired]:
        expire_queues(using, with_expired, now)
        found |= dict.fromkeys(with_expired, (0, 0)) | _counts(using, with_expired, now)
    return {id: count for id, (count, _) in found.items()}


def _counts(using: str, ids: Collection[int], now: datetime) -> dict[int, tuple[int, int]]:
    """By queue, the messages whose time has come, and those of all that have expired."""
    found: dict[int, tuple[int, int]] = {}
    has_expired, is_late = When(expires_at__lte=now, then=Value(1)), When(not_before__gt=now, then=Value(1))
    for chunk in chunks(sorted(ids)):
        rows = Message.objects.using(using).filter(queue_id__in=chunk).order_by().values_list("queue_id")
        counts = rows.annotate(Count("id"), expired=Count(Case(has_expired)), later=Count(Case(is_late)))
        found |= {id: (count - later, expired) for id, count, expired, later in counts}
    return found
