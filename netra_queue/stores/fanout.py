"""How the database store gives one message to all queues of a group: in the database, whatever their number.

    the key, if there is one --> shared lock on the group --> one payload --> INSERT ... SELECT of the members' lines
        --> one look for those that may be over their limits now --> what their policies say

What policies differ in becomes CASE expressions. A line is in use by the rules of ``devices``.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db import connections

from .. import conf
from ..core.message import Draft, Fate, GroupDraft, Outcome
from ..core.policy import Policy
from ..core.statistics import Event
from ..models import Body, LiveConnection, Loss, Membership, Message, Queue, group_address, group_id
from . import accounting, crowding
from .appending import release_keys, use_keys
from .connecting import own_transaction
from .inserting import COLUMNS
from .membership import SHARED, lock_group
from .standing import Sql, members_kept, policy_in_force
from .values import GroupAppended

CROWD = 1000  # more members than this: see ``removal.is_crowded``
MYSQL_MEMBERS = 5000  # in one INSERT: MariaDB lets nobody else insert messages until it is done

# The members' lines in use, and the queue itself where it is one of them, or there is no other.
TARGETS = """
SELECT m.queue_id AS target, {policy} AS policy
FROM {membership} m LEFT JOIN {queue} q ON q.id = m.queue_id
WHERE {members} AND (
    q.seen_at > {cutoff}
    OR (q.seen_at IS NOT NULL AND EXISTS (SELECT 1 FROM {connection} c WHERE c.queue_id = m.queue_id))
    OR NOT EXISTS (
        SELECT 1 FROM {queue} l WHERE l.parent_id = m.queue_id AND l.seen_at IS NOT NULL
        AND (l.seen_at > {cutoff} OR EXISTS (SELECT 1 FROM {connection} c WHERE c.queue_id = l.id))
    )
)
UNION ALL
SELECT l.id, {policy}
FROM {membership} m JOIN {queue} l ON l.parent_id = m.queue_id LEFT JOIN {queue} q ON q.id = m.queue_id
WHERE {members} AND l.seen_at IS NOT NULL
AND (l.seen_at > {cutoff} OR EXISTS (SELECT 1 FROM {connection} c WHERE c.queue_id = l.id))
"""


def new_number() -> int:
    """What a message's payload is found by, whether a crowd shares it (``-number``) or not."""
    return secrets.randbits(62) + 1


def group_append(using: str, draft: GroupDraft, number: int, now: datetime, *, is_repeat: bool) -> GroupAppended:
    with own_transaction(using):
        if is_repeat and (count := _stored(using, number)):
            copies = Message.objects.using(using).filter(body_id__in=[number, -number]).count()
            accounting.accepted(using, [_keyed(draft)], copies)
            return GroupAppended(draft.id, Outcome.QUEUED, count)
        keyed = _keyed(draft)
        first = use_keys(using, [keyed], now).get(draft.id)
        if first is not None:
            accounting.count(using, Event.DUPLICATE, [draft.priority])
            return GroupAppended(first, Outcome.DUPLICATE)
        lock_group(using, draft.group, now, SHARED)
        sending = _Sending(using, draft, number, now)
        recipients = sending.carry_out()
        if recipients or not sending.members:
            return GroupAppended(draft.id, Outcome.QUEUED, recipients)
        release_keys(using, [keyed])
        return GroupAppended(draft.id, Outcome.DROPPED)


def _keyed(draft: GroupDraft) -> Draft:
    """As what the group's keys know it. They last as long as the longest of its messages."""
    ttl = draft.ttl_seconds
    return Draft(
        queue=group_address(draft.group),
        id=draft.id,
        payload=draft.payload,
        priority=draft.priority,
        ttl_seconds=max(policy.ttl_for(draft.priority) for policy in conf.policies()) if ttl is None else ttl,
        key=draft.key,
    )


def _stored(using: str, number: int) -> int:
    """How many queues a first attempt has put it in, if it was committed without an answer."""
    names = _names(using)
    bodies = list(Body.objects.using(using).filter(pk__in=[number, -number]).values_list("pk", flat=True))
    if not bodies:
        return 0
    with connections[using].cursor() as cursor:
        cursor.execute(
            f"SELECT COUNT(DISTINCT COALESCE(q.parent_id, t.queue_id)) FROM {names['message']} t "
            f"LEFT JOIN {names['queue']} q ON q.id = t.queue_id WHERE t.body_id = %s",
            bodies,
        )
        return int(cursor.fetchone()[0])


def _names(using: str) -> dict[str, str]:
    models = {"membership": Membership, "queue": Queue, "connection": LiveConnection, "message": Message, "loss": Loss}
    quote = connections[using].ops.quote_name
    return {name: quote(model._meta.db_table) for name, model in models.items()}


class _Sending:
    """One message on its way, in a transaction that has locked the group. ``members``: all that are subscribed."""

    def __init__(self, using: str, draft: GroupDraft, number: int, now: datetime) -> None:
        self._using, self._draft, self._now = using, draft, now
        self._policies = conf.policies()
        self._policy = policy_in_force(using)
        self._group = members_kept(using, draft.group, self._policies)
        size = draft.payload.size
        self._too_small = {policy.name for policy in self._policies if policy.max_message_bytes < size}
        self.members = self._count(Sql(""))
        self._body = -number if self.members > CROWD else number

    def carry_out(self) -> int:
        """Returns in how many queues the message is."""
        if not self.members:
            return 0
        unfit = self._count(self._sized("AND {}")) if self._too_small else 0
        if unfit:
            self._record_losses()
        if unfit == self.members:
            return 0
        body = Body(pk=self._body, payload=self._draft.payload.text, expires_at=self._expiry(self._longest()))
        Body.objects.using(self._using).bulk_create([body], ignore_conflicts=True)  # a repeated one is there already
        for part in self._parts():
            self._insert(part)
        return self.members - unfit - crowding.enforce(self._using, self._body, self._now)

    def _longest(self) -> float:
        return max(self._ttl(policy) for policy in self._policies)

    def _ttl(self, policy: Policy) -> float:
        given = self._draft.ttl_seconds
        return policy.ttl_for(self._draft.priority) if given is None else given

    def _expiry(self, ttl_seconds: float) -> datetime:
        return self._now + timedelta(seconds=ttl_seconds)

    # --- statements --------------------------------------------------------------------------------------------

    def _insert(self, part: Sql) -> None:
        draft = self._draft
        expiry = self._by_policy(
            Sql("policy"), {policy.name: self._expiry(self._ttl(policy)) for policy in self._policies}
        )
        targets = self._targets(self._sized("AND NOT {}"), part)
        values = (draft.id, int(draft.priority), int(draft.payload.kind), "", draft.payload.size, self._at(self._now))
        self._execute(
            f"INSERT INTO {{message}} ({COLUMNS}) "
            f"SELECT target, %s, %s, %s, %s, %s, %s, {expiry.text}, %s, %s, 0, NULL, 0 "
            f"FROM ({targets.text}) AS targets ORDER BY target",
            (*values, *expiry.parameters, self._body, draft.traceparent, *targets.parameters),
            Event.ACCEPTED,
        )

    def _record_losses(self) -> None:
        targets = self._targets(self._sized("AND {}"), Sql(""))
        values = (Fate.DROPPED.value, int(self._draft.priority), self._at(self._now))
        self._execute(
            "INSERT INTO {loss} (queue_id, reason, priority, count, since) "
            f"SELECT target, %s, %s, 1, %s FROM ({targets.text}) AS targets ORDER BY target",
            (*values, *targets.parameters),
            Event.ACCEPTED,
            Event.DROPPED,
        )

    def _count(self, condition: Sql) -> int:
        members = "SELECT COUNT(*) FROM {membership} m LEFT JOIN {queue} q ON q.id = m.queue_id"
        sql = f"{members} WHERE {self._group.text} "
        (row,) = self._execute(sql + condition.text, (*self._group.parameters, *condition.parameters))
        return int(row[0])

    def _parts(self) -> Iterator[Sql]:
        """Conditions that divide the members for the statements that they need."""
        if connections[self._using].vendor != "mysql":
            yield Sql("")
            return
        mine = Membership.objects.using(self._using).filter(group_id=group_id(self._draft.group)).order_by("queue_id")
        start = -1
        while True:
            rest = mine.filter(queue_id__gt=start).values_list("queue_id", flat=True)
            last = rest[MYSQL_MEMBERS - 1 : MYSQL_MEMBERS].first()
            if last is None:
                yield Sql("AND m.queue_id > %s", (start,))
                return
            yield Sql("AND m.queue_id > %s AND m.queue_id <= %s", (start, last))
            start = last

    def _targets(self, *conditions: Sql) -> Sql:
        """Where the message goes, of the members that these conditions leave."""
        lines = {policy.name: self._now - timedelta(seconds=policy.line_seconds) for policy in self._policies}
        cutoff = self._by_policy(self._policy, lines)
        members = Sql(
            " ".join([self._group.text, *(condition.text for condition in conditions)]),
            (*self._group.parameters, *(value for condition in conditions for value in condition.parameters)),
        )
        text = TARGETS.replace("{cutoff}", cutoff.text).replace("{members}", members.text)
        policy, each = self._policy.parameters, cutoff.parameters
        queues = (*policy, *members.parameters, *each, *each)
        return Sql(text.replace("{policy}", self._policy.text), (*queues, *policy, *members.parameters, *each))

    def _sized(self, form: str) -> Sql:
        """Whether a member's policy is one that the message is too large for, put into ``form``; nothing if none is."""
        if not self._too_small:
            return Sql("")
        known = [policy.name for policy in self._policies]
        default_is_small = "default" in self._too_small
        names = [name for name in known if (name in self._too_small) is not default_is_small]
        if not names:
            return Sql(form.format("1 = 1"))
        listed = f"COALESCE({self._policy.text}, '') IN ({', '.join(['%s'] * len(names))})"
        text = form.format(f"(NOT {listed})" if default_is_small else f"({listed})")
        return Sql(text, (*self._policy.parameters, *names))

    def _by_policy(self, policy: Sql, moments: Mapping[str, datetime]) -> Sql:
        """A time for each policy. A name that nobody knows (any more) counts as the default's."""
        default = moments["default"]
        others = {name: moment for name, moment in moments.items() if moment != default}
        if not others:
            return Sql("%s", (self._at(default),))
        cases = " ".join("WHEN %s THEN %s" for _ in others)
        values = [value for name, moment in others.items() for value in (name, self._at(moment))]
        return Sql(f"CASE {policy.text} {cases} ELSE %s END", (*policy.parameters, *values, self._at(default)))

    def _at(self, moment: datetime) -> Any:
        return connections[self._using].ops.adapt_datetimefield_value(moment)

    def _execute(self, sql: str, parameters: tuple[Any, ...], *events: Event) -> list[Any]:
        """``events``: what has happened for each row that this inserts."""
        with connections[self._using].cursor() as cursor:
            cursor.execute(sql.format(**_names(self._using)), parameters)
            for event in events:
                accounting.count(self._using, event, [self._draft.priority] * cursor.rowcount)
            return list(cursor.fetchall()) if cursor.description else []
