"""How the database store takes messages in: keys, rows, limits, all in one transaction."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple, TypeVar

from .. import models
from ..core.message import Draft, Fate, LossReason, Outcome
from ..core.policy import Overflow, Policy
from ..exceptions import StoreUnavailable
from ..ids import new_number
from ..models import Body, Flag, queue_id
from . import accounting, collapsing, inserting, limits, straight, telling, tracking, watching
from .connecting import is_in_transaction, own_transaction
from .devices import targets
from .rows import chunks, record_losses
from .values import Appended, Positions, answer, expiry, growth, split_by_size, without

Item = TypeVar("Item")
KEY_ATTEMPTS = 5
INSERT_BYTES = 4_194_304  # of payload in one statement


class _Copy(NamedTuple):
    """A draft on its way into one line. ``body``: where its payload is, if it has several copies."""

    draft: Draft
    line: str
    body: int | None
    flags: Flag

    def row(self, now: datetime) -> inserting.Row:
        payload = self.draft.payload
        return inserting.Row(
            queue=queue_id(self.line),
            uid=self.draft.id,
            priority=int(self.draft.priority),
            kind=int(payload.kind),
            payload=payload.text if self.body is None else "",
            size=payload.size,
            created_at=self.draft.sent_at or now,
            expires_at=expiry(self.draft, now),
            body=self.body,
            traceparent=self.draft.traceparent,
            flags=int(self.flags),
            not_before=self.draft.not_before,
        )

    @property
    def slot(self) -> collapsing.Key | None:
        collapse = self.draft.collapse
        return None if collapse is None else (queue_id(self.line), _digest(collapse))


def append(
    using: str, drafts: Sequence[Draft], policies: Mapping[str, Policy], now: datetime, *, is_repeat: bool
) -> list[Appended]:
    exact = not is_in_transaction(using)
    if len(drafts) == 1 and not is_repeat:
        draft = drafts[0]
        if (appended := straight.append(using, draft, policies[draft.queue], now, is_committed=exact)) is not None:
            return [appended]
    found = targets(using, {draft.queue for draft in drafts}, policies, now)
    lines = found.lines
    straight.note(using, lines)
    if not is_repeat and _are_plain(using, drafts, lines, policies, now):
        return _append_plain(using, drafts, lines, found.servers, now, is_committed=exact)
    may_reject = any(policy.overflow is Overflow.REJECT for policy in policies.values())
    with own_transaction(using, savepoint=may_reject):
        stored = _stored(using, drafts, lines) if is_repeat else {}
        fitting, too_large = split_by_size(_missing(drafts, stored), policies)
        firsts = use_keys(using, fitting, now)
        fresh = [draft for draft in fitting if draft.id not in firsts]
        inserted = _take_in(using, fresh, lines, policies, now)
        sizes = {draft.id: draft.payload.size for draft in fresh}
        added = growth((line, sizes[id]) for id, of in inserted.items() for line in of)
        limits_ = {line: policies[queue] for queue, of in lines.items() for line in of}
        removed = limits.enforce(using, added, limits_, now, exact=exact) if fresh else set()
        there = stored | inserted
        kept = without(there, removed)
        dropped = inserted.keys() - kept.keys()
        release_keys(using, [draft for draft in fresh if draft.id in dropped])
        _count_too_large(using, too_large, lines, now)
    superseded = {draft.id for draft in drafts} - {*there, *firsts, *(draft.id for draft in too_large)}
    answers = [answer(draft, firsts, kept, there, superseded) for draft in drafts]
    accounting.appended(using, drafts, answers, there, lines, too_large)
    return answers


def _are_plain(
    using: str,
    drafts: Sequence[Draft],
    lines: Mapping[str, Sequence[str]],
    policies: Mapping[str, Policy],
    now: datetime,
) -> bool:
    """Whether nothing hangs on these messages, each for one line that is far from full: their rows are all there is."""
    if any(len(of) > 1 for of in lines.values()):
        return False
    if not all(straight.is_plain(draft, policies[draft.queue], now) for draft in drafts):
        return False
    added = growth((lines[draft.queue][0], draft.payload.size) for draft in drafts)
    if sum(one.size for one in added.values()) > INSERT_BYTES:
        return False
    of_lines = {queue_id(lines[queue][0]): (added[lines[queue][0]], policy) for queue, policy in policies.items()}
    return limits.far_from_full(using, of_lines) == of_lines.keys()


def _append_plain(
    using: str,
    drafts: Sequence[Draft],
    lines: Mapping[str, tuple[str, ...]],
    servers: Mapping[str, tuple[str, ...]],
    now: datetime,
    *,
    is_committed: bool,
) -> list[Appended]:
    """One statement, and so no transaction of its own; there may be one of the caller's."""
    rows = [_Copy(draft, lines[draft.queue][0], None, Flag(0)).row(now) for draft in drafts]
    found = inserting.insert(using, rows)
    accounting.accepted_plain(using, drafts, is_committed=is_committed)
    return [
        Appended(
            draft.id,
            Outcome.QUEUED,
            found[row.key],
            lines[draft.queue],
            servers.get(lines[draft.queue][0], ()),
        )
        for draft, row in zip(drafts, rows, strict=True)
    ]


def place(using: str, draft: Draft, lines: Sequence[str], policy: Policy, now: datetime) -> dict[str, int]:
    """Put a message into exactly these lines, within their limits, in the caller's transaction; nothing hangs on it.

    Returns where it is. Raises QueueFull where the policy rejects.
    """
    body = new_number() if len(lines) > 1 else None
    inserted = _insert(using, [_Copy(draft, line, body, Flag(0)) for line in lines], now)
    added = growth((line, draft.payload.size) for line in lines)
    removed = limits.enforce(using, added, dict.fromkeys(lines, policy), now, exact=False)
    accounting.accepted(using, [draft], len(lines))
    return without(inserted, removed).get(draft.id, {})


def _missing(drafts: Sequence[Draft], stored: Positions) -> list[Draft]:
    """Those of these drafts that are still to be taken in, unless a later one of their collapse key is stored."""
    missing: list[Draft] = []
    taken: set[tuple[str, str | None]] = set()
    for draft in reversed(drafts):
        if draft.id in stored:
            taken.add((draft.queue, draft.collapse))
        elif draft.collapse is None or (draft.queue, draft.collapse) not in taken:
            missing.append(draft)
    return missing[::-1]


def _count_too_large(using: str, drafts: Sequence[Draft], lines: Mapping[str, Sequence[str]], now: datetime) -> None:
    lost = [(draft.id, queue_id(line), draft.priority) for draft in drafts for line in lines[draft.queue]]
    record_losses(using, LossReason.DROPPED, [(line, priority) for _, line, priority in lost], now)
    telling.tell(using, lost, Fate.DROPPED, now)


def _take_in(
    using: str,
    drafts: Sequence[Draft],
    lines: Mapping[str, Sequence[str]],
    policies: Mapping[str, Policy],
    now: datetime,
) -> Positions:
    """Insert these drafts, with what is kept beside them. One that a later one supersedes at once is not inserted."""
    copies = _copies(drafts, lines, policies, now)
    inserted = _insert_newest(using, copies, now)
    bodies = {copy.draft.id: copy.body for copy in copies if copy.draft.id in inserted}
    tracking.begin(using, drafts, policies, bodies, now)
    watching.begin(using, drafts, policies, bodies, now)
    return inserted


def _copies(
    drafts: Iterable[Draft], lines: Mapping[str, Sequence[str]], policies: Mapping[str, Policy], now: datetime
) -> list[_Copy]:
    copies: list[_Copy] = []
    for draft in drafts:
        has_several = len(lines[draft.queue]) > 1
        is_watched = watching.due_at(draft, policies[draft.queue], now) is not None
        body = new_number() if has_several or is_watched else None
        flags = Flag.FIRST if draft.deliver_first and has_several else Flag(0)
        flags |= Flag.COLLAPSING if draft.collapse is not None else Flag(0)
        flags |= (Flag.TRACKED if draft.track else Flag(0)) | (Flag.WATCHED if is_watched else Flag(0))
        copies += [_Copy(draft, line, body, flags) for line in lines[draft.queue]]
    return copies


def _insert_newest(using: str, copies: Sequence[_Copy], now: datetime) -> Positions:
    """Insert these copies; of several with one collapse key in one line, the last one, in place of the one there."""
    newest = {copy.slot: copy for copy in copies if copy.slot is not None}
    if not newest:
        return _insert(using, copies, now)
    left = [copy for copy in copies if copy.slot is None or newest[copy.slot] is copy]
    slots = collapsing.supersede(using, {slot: expiry(copy.draft, now) for slot, copy in newest.items()}, now)
    inserted = _insert(using, left, now)
    positions = {slot: inserted[copy.draft.id][copy.line] for slot, copy in newest.items()}
    outdone = Counter(copy.slot for copy in copies if copy.slot is not None and newest[copy.slot] is not copy)
    collapsing.point(using, slots, positions, outdone)
    return inserted


def _stored(using: str, drafts: Sequence[Draft], lines: Mapping[str, Sequence[str]]) -> Positions:
    """The positions of those of these drafts that are in the table."""
    names = {queue_id(line): line for of in lines.values() for line in of}
    found: Positions = defaultdict(dict)
    for chunk in chunks([draft.id for draft in drafts]):
        rows = models.Message.objects.using(using).filter(queue_id__in=names, uid__in=chunk)
        for uid, queue, position in rows.values_list("uid", "queue_id", "id"):
            found[uid][names[queue]] = position
    return dict(found)


def use_keys(using: str, drafts: Sequence[Draft], now: datetime) -> dict[str, str]:
    """Reserve the drafts' idempotency keys. Returns the first message's id for each draft that is a duplicate."""
    keyed = [draft for draft in drafts if draft.key is not None]
    firsts: dict[str, str] = {}
    for _ in range(KEY_ATTEMPTS):
        if not keyed:
            return firsts
        found = _reserve(using, keyed, now)
        firsts |= {id: first for id, first in found.items() if first != id}
        keyed = [draft for draft in keyed if draft.id not in found]
    raise StoreUnavailable("an idempotency key changes hands all the time")


def _reserve(using: str, keyed: Sequence[Draft], now: datetime) -> dict[str, str]:
    """The id of the message that has the key, for each draft's id.

    A draft is left out when its key's row went, or got another owner, between two of these statements: ask again.
    """
    used = models.UsedKey.objects.using(using)
    rows = sorted((_used_key(draft, now) for draft in keyed), key=_key_order)
    used.bulk_create(rows, ignore_conflicts=True)
    there = used.filter(queue_id__in={row.queue_id for row in rows}, digest__in={row.digest for row in rows})
    owners = {_key_order(row): row for row in there}
    found: dict[str, str] = {}
    for draft in keyed:
        wanted = _used_key(draft, now)
        row = owners.get(_key_order(wanted))
        if row is not None and (row.uid == draft.id or row.expires_at > now):
            found[draft.id] = row.uid
        elif row is not None and used.filter(pk=row.pk, uid=row.uid, expires_at__lte=now).update(
            uid=draft.id, expires_at=wanted.expires_at
        ):
            found[draft.id] = row.uid = draft.id
            row.expires_at = wanted.expires_at
    return found


def release_keys(using: str, dropped: Sequence[Draft]) -> None:
    for draft in dropped:
        if draft.key is not None:
            mine = models.UsedKey.objects.using(using).filter(uid=draft.id)
            mine.filter(queue_id=queue_id(draft.queue), digest=_digest(draft.key))._raw_delete(using)


def _insert(using: str, copies: Sequence[_Copy], now: datetime) -> Positions:
    """Insert in order, shared payloads first."""
    shared = {copy.body: copy.draft for copy in copies if copy.body is not None}
    bodies = [Body(id=id, payload=draft.payload.text, expires_at=expiry(draft, now)) for id, draft in shared.items()]
    for some in in_statements(bodies, lambda body: len(body.payload.encode())):
        Body.objects.using(using).bulk_create(some)
    positions: Positions = defaultdict(dict)
    for batch in in_statements(copies, lambda copy: 0 if copy.body else copy.draft.payload.size):
        rows = [copy.row(now) for copy in batch]
        found = inserting.insert(using, rows)
        for copy, row in zip(batch, rows, strict=True):
            positions[copy.draft.id][copy.line] = found[row.key]
    return dict(positions)


def in_statements(items: Sequence[Item], size_of: Callable[[Item], int]) -> Iterator[Sequence[Item]]:
    """The items in runs that one INSERT may carry: MySQL and MariaDB refuse what exceeds max_allowed_packet."""
    start = size = 0
    for end, item in enumerate(items):
        if end > start and size + size_of(item) > INSERT_BYTES:
            yield items[start:end]
            start, size = end, 0
        size += size_of(item)
    if items:
        yield items[start:]


def _used_key(draft: Draft, now: datetime) -> models.UsedKey:
    expires_at = now + timedelta(seconds=draft.ttl_seconds)
    digest = _digest(draft.key or "")
    return models.UsedKey(queue_id=queue_id(draft.queue), digest=digest, uid=draft.id, expires_at=expires_at)


def _key_order(row: models.UsedKey) -> tuple[int, str]:
    return row.queue_id, row.digest


def _digest(key: str) -> str:
    return blake2b(key.encode(), digest_size=16).hexdigest()
