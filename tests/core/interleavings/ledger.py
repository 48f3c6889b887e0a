"""Every call of the store goes through here: what was there before and is not after must have a reason, and be counted.

So nothing is lost, by induction over the calls: an accepted message has a row (or is counted) in each line it is for,
and each row ends by an ack of its client's, by a newer one of its collapse key, or by a loss with the right reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from netra_queue.core.actions import ReadRequest
from netra_queue.core.message import Draft, Fate, Losses, Outcome, Priority, base_of, client_of
from netra_queue.core.policy import Overflow, Policy
from netra_queue.exceptions import QueueFull, TooManyDevices
from netra_queue.reads import _read_in_order
from netra_queue.stores.base import Appended, Batch, Opened, Presence, Returned, Server
from tests.core.interleavings.books import Books
from tests.core.interleavings.sight import LINES, Lost, Row, Sent, Sight, StandingStore

Result = TypeVar("Result")
Fates = set[Fate | None]  # what may have become of a row; None: there were two of them in one line
ALL = 1000


class Ledger:
    """``policy`` holds for all lines."""

    def __init__(self, store: StandingStore, policy: Policy) -> None:
        self.store, self.policy = store, policy
        self.books = Books(policy)
        self.sight = self.before = store.sight()
        assert self.sight == Sight({}, Counter())
        self.sent: dict[str, Sent] = {}
        self.by_others: set[str] = set()  # not by consumers themselves
        self.ids: dict[int, str] = {}  # of all positions that there have been
        self.given: set[int] = set()
        self.shared: set[str] = set()  # several lines got it
        self.counted: set[str] = set()  # dropped at once, in a line at least
        self.deliveries: Counter[int] = Counter()  # that were returned, as far as they count
        self.may_be_repeated: set[str] = set()  # on one connection: moved to and fro, or stored without an answer
        self.fates: Counter[str] = Counter()  # how often each has been seen: for whoever looks at what is played

    # --- time ---------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        self.store.seconds += seconds
        self.books.now += seconds

    def is_expired(self, row: Row) -> bool:
        return self.sent[row.id].expires_at <= self.store.now()

    def alive(self, line: str) -> list[Row]:
        return [row for row in self.sight.of(line) if not self.is_expired(row)]

    # --- what has changed ---------------------------------------------------------------------------------------

    def _look(self) -> tuple[Sight, list[Row], list[Row]]:
        """What there was, and what is gone and new since."""
        self.before, self.sight = before, after = self.sight, self.store.sight()
        new = [row for position, row in after.rows.items() if position not in before.rows]
        assert not any(row.position in self.ids for row in new), "no position is used twice"
        self.ids |= {row.position: row.id for row in new}
        was = {position: row.line for position, row in before.rows.items()}
        self.may_be_repeated |= {r.id for r in after.rows.values() if was.get(r.position, r.line) != r.line}
        return before, [row for position, row in before.rows.items() if position not in after.rows], new

    def _account(self, before: Sight, fates: Iterable[tuple[Row, Fates]]) -> None:
        """Each row has a fate, and losses are counted so often as there are rows with that fate."""
        forced: Lost = Counter()
        possible: Lost = Counter()
        for row, allowed in fates:
            assert allowed, f"{row} is gone without a reason"
            losses = {fate.loss for fate in allowed if fate is not None and fate.loss is not None}
            for reason in losses:
                possible[reason, row.priority] += 1
                forced[reason, row.priority] += len(allowed) == 1
            self.fates.update(str(fate) for fate in allowed if len(allowed) == 1)
        change = Counter(self.sight.lost)
        change.subtract(before.lost)
        for key in {*change, *possible}:
            assert forced[key] <= change[key] <= possible[key], f"{key}: {change[key]} counted, {forced[key]} gone"

    def _audited(self, work: Callable[[], Result], explain: Callable[[Row], Fates]) -> Result:
        """For calls that put in nothing new."""
        result = work()
        before, gone, new = self._look()
        assert not new
        self._account(before, [(row, explain(row)) for row in gone])
        return result

    def unchanged(self, work: Callable[[], Result]) -> Result:
        rows = self.sight.rows
        result = self._audited(work, lambda row: set())
        assert self.sight.rows == rows
        return result

    def _nothing_happened(self) -> None:
        before = self.sight
        self._look()
        assert self.sight == before, "a call that was refused changes nothing"

    # --- messages -----------------------------------------------------------------------------------------------

    def append(self, drafts: Sequence[Draft], policy: Policy) -> list[Appended]:
        """Raises QueueFull."""
        (queue,) = {draft.queue for draft in drafts}
        targets = self.books.targets(queue)
        try:
            answers = self.store.append(drafts, {queue: policy})
        except QueueFull as error:
            self._check_refusal(error.queue, targets, drafts, policy)
            raise
        self.shared |= {draft.id for draft in drafts if len(targets) > 1}
        before, gone, new = self._look()
        refused = self._refused(drafts, targets, new)
        fates = [(row, {self._end_at_append(row, targets, drafts)}) for row in gone]
        self._account(before, [*fates, *((row, {Fate.DROPPED}) for row in refused)])
        self.counted |= {row.id for row in refused}
        for line in targets:
            dropped = [row for row, fate in fates if fate == {Fate.DROPPED} and row.line == line]
            self._check_overflow(line, [*dropped, *(row for row in refused if row.line == line)], policy)
        self._check_collapsed(before, drafts, targets)
        self._check_answers(answers, new)
        return answers

    def _check_refusal(self, line: str, targets: Collection[str], drafts: Sequence[Draft], policy: Policy) -> None:
        assert line in targets
        assert policy.overflow is Overflow.REJECT
        held = self.alive(line)
        assert policy.is_full(len(held) + len(drafts), _size(held) + sum(draft.payload.size for draft in drafts))
        self._nothing_happened()

    def _refused(self, drafts: Sequence[Draft], targets: Collection[str], new: Iterable[Row]) -> list[Row]:
        """The copies that were dropped at once, as the newest ones."""
        placed = {(row.id, row.line): row.position for row in new}
        wanted: dict[tuple[str, str], Row] = {}
        for line in targets:
            position = 10**12
            for draft in reversed(drafts):  # as if it had been placed just before the next one
                position = placed.get((draft.id, line), position)
                wanted[draft.id, line] = Row(line, position, draft.id, draft.priority, draft.payload.size, 0)
        assert placed.keys() <= wanted.keys(), "a message goes to the lines in use, and to no others"
        return [row for key, row in wanted.items() if key not in placed]

    def _end_at_append(self, row: Row, targets: Collection[str], drafts: Iterable[Draft]) -> Fate:
        assert row.line in targets, "a line that is not sent to keeps what it has"
        if self.is_expired(row):
            return Fate.EXPIRED
        mine = self.sent[row.id].collapse
        is_newest = mine is None or mine not in {draft.collapse for draft in drafts}
        was_sent = row.position in self.given  # to a connection: not superseded, but a full queue may drop it
        return Fate.DROPPED if is_newest or was_sent else Fate.SUPERSEDED

    def _check_overflow(self, line: str, dropped: Collection[Row], policy: Policy) -> None:
        """What was dropped is not more urgent than what stayed, from the right end, and no more than had to go."""
        stayed = self.sight.of(line)
        assert not policy.is_full(len(stayed), _size(stayed)) or not dropped
        if not dropped:
            assert not policy.is_full(len(self.alive(line)), _size(self.alive(line)))
            return
        assert policy.overflow is not Overflow.REJECT
        sign = 1 if policy.overflow is Overflow.DROP_OLDEST else -1
        order = [(-row.priority, sign * row.position, row.size) for row in dropped]
        assert max(order)[:2] <= min([(-row.priority, sign * row.position) for row in stayed] or [(1, 0)])
        assert policy.is_full(len(stayed) + 1, _size(stayed) + max(order)[2]), "no more than had to go"

    def _check_collapsed(self, before: Sight, drafts: Iterable[Draft], targets: Collection[str]) -> None:
        keys = {draft.collapse for draft in drafts} - {None}
        for row in self.alive_of(before, targets):
            is_old = self.sent[row.id].collapse in keys and row.position not in self.given
            assert not is_old or row.position not in self.sight.rows, "only the newest of a collapse key waits"

    def alive_of(self, sight: Sight, lines: Collection[str]) -> list[Row]:
        return [row for row in sight.rows.values() if row.line in lines and not self.is_expired(row)]

    def _check_answers(self, answers: Iterable[Appended], new: Collection[Row]) -> None:
        for answer in answers:
            mine = {row.line: row.position for row in new if row.id == answer.id}
            assert set(answer.lines) == mine.keys()
            assert answer.position == (mine[answer.lines[0]] if mine else None)
            assert (answer.outcome is Outcome.QUEUED) == bool(mine)

    def read(self, line: str, request: ReadRequest) -> Batch:
        """As the hub reads: a sender's earlier message, that waits in the queue itself, goes first."""
        lines = {line: self.policy} if client_of(line) else {}
        (batch,) = self._audited(
            lambda: list(_read_in_order(self.store, [(line, request)], lines)),
            lambda row: self._at_take_over(row, line),
        )
        there = [row.position for row in self.alive(line) if row.position not in request.excluded]
        given = [message.position for message in batch.messages]
        assert given == there[: len(given)], "most urgent first, nothing that has expired, nothing twice"
        assert batch.more or given == there
        assert len(given) <= request.limit
        for message in batch.messages:
            assert message.payload.text == self.sent[message.id].text
        self.given |= set(given)
        return batch

    def ack(self, positions: Mapping[str, Collection[int]]) -> None:
        """Of messages that have been moved to another line meanwhile, nothing is removed: they are delivered again."""
        before = self.sight
        left = self._audited(
            lambda: self.store.ack(positions),
            lambda row: {Fate.ACKED} if row.position in positions.get(row.line, ()) else set(),
        )
        assert left == {}
        acked = {
            p for line, mine in positions.items() for p in mine if p in before.rows and before.rows[p].line == line
        }
        assert not acked & self.sight.rows.keys(), "what was acked is gone"

    def returned(self, returns: Sequence[Returned]) -> None:
        dead = {position for some in returns for position in self._count(some)}
        self._audited(lambda: self.store.returned(returns), lambda row: {Fate.DEAD} if row.position in dead else set())
        assert not dead & self.sight.rows.keys(), "delivered too often"
        assert all(row.deliveries == self.deliveries[row.position] for row in self.sight.rows.values())

    def _count(self, some: Returned) -> Iterable[int]:
        """In company, a message gets no further than to travel alone. Yields those that were delivered too often."""
        for position in some.positions:
            if position not in self.sight.rows or self.sight.rows[position].line != some.queue:
                continue
            self.deliveries[position] += some.is_alone or self.deliveries[position] < self.policy.alone_from
            if some.is_alone and self.deliveries[position] >= self.policy.max_deliveries:
                yield position

    def waiting(self, lines: Collection[str]) -> set[str]:
        found = self.unchanged(lambda: self.store.waiting(lines))
        assert found == {line for line in lines if self.alive(line)}
        return found

    def losses(self, lines: Collection[str], told: Collection[int] = ()) -> dict[str, Losses]:
        return self.store.losses(lines, told)

    def settle(self, line: str, records: Collection[int]) -> None:
        """What is settled has been told: the count of it goes, and nothing else."""
        mine = self.store.losses([line]).get(line, Losses()).counts
        self.store.settle(line, records)
        left = self.store.losses([line]).get(line, Losses())
        assert not set(left.records) & set(records)
        before, gone, new = self._look()
        assert not gone
        assert not new
        settled = Counter(mine)
        settled.subtract(left.counts)
        expected = Counter(before.lost)
        expected.subtract(settled)
        assert {k: n for k, n in expected.items() if n} == {k: n for k, n in self.sight.lost.items() if n}

    # --- connections --------------------------------------------------------------------------------------------

    def attach(self, presence: Presence) -> Opened:
        """Raises TooManyDevices."""
        line = presence.queue
        surplus, idle = self.books.surplus(line), self.books.idle_devices(line)
        was_in_use = self.books.is_in_use(base_of(line))
        try:
            opened = self._audited(
                lambda: self.store.attach(presence, self.policy), lambda row: self._end_at_attach(row, line)
            )
        except TooManyDevices:
            assert surplus > len(idle)
            self._nothing_happened()
            raise
        assert surplus <= len(idle)
        self.books.attached(presence, [known.name for known in self.store.lines(base_of(line))])
        assert len(self.sight.of(line)) == len(self.alive(line)), "what has expired is told at once"
        assert opened.waiting == min(len(self.sight.of(line)), self.policy.max_messages)
        assert was_in_use or not client_of(line) or not self.sight.of(base_of(line)), "the line takes over what waits"
        return opened

    def _end_at_attach(self, row: Row, line: str) -> Fates:
        fates = self._at_take_over(row, line)
        if self.is_expired(row):
            fates.add(Fate.EXPIRED)
        if row.line in self.books.idle_devices(line) and client_of(line):
            if not self.books.devices_in_use():
                fates |= {Fate.EXPIRED} if self.books.base_is_in_use(line) else set()
            elif self.books.surplus(line):
                fates |= {Fate.DROPPED}
        return fates

    def _at_take_over(self, row: Row, line: str) -> Fates:
        """What becomes of one that is moved: nothing, unless the line has it, or a newer one of its collapse key."""
        fates: Fates = set()
        base = base_of(line)
        if line == base:
            return fates
        if self._is_copied(row, (line, base)):
            fates.add(None)
        is_shared = row.id in self.shared and row.line == base and not self.books.base_is_in_use(line)
        if is_shared and (self.books.devices_in_use() or line in self.books.seen):
            fates.add(Fate.EXPIRED)  # it was a line itself, and nobody came: the devices have had the same
        return fates | self._superseded(row)

    def _superseded(self, row: Row) -> Fates:
        """By one that is there, or was until now."""
        key = self.sent[row.id].collapse
        rows = [*self.before.rows.values(), *self.sight.rows.values()]
        newer = [other for other in rows if self.sent[other.id].collapse == key and other.position > row.position]
        return {Fate.SUPERSEDED} if key is not None and newer and row.position not in self.given else set()

    def _is_copied(self, row: Row, lines: Collection[str]) -> bool:
        """Whether one of these lines has the same message (or had it, until both expired)."""
        return self.is_expired(row) or any(row.id == other.id for line in lines for other in self.sight.of(line))

    def take_over(self, lines: Collection[str]) -> set[str]:
        devices = {line: self.policy for line in lines if client_of(line)}
        known = [line for line in devices if line in self.books.seen]
        taken = self._audited(
            lambda: self.store.take_over(devices),
            lambda row: set[Fate | None]().union(*(self._at_take_over(row, line) for line in known)),
        )
        bases = {base_of(line) for line in known}
        assert not any(self.alive(base) for base in bases if not self.books.is_in_use(base)), "nothing waits for nobody"
        return taken

    def detach(self, presences: Sequence[Presence]) -> None:
        self.unchanged(lambda: self.store.detach(presences))
        self.books.detached([presence.id for presence in presences])

    def heartbeat(self, server: Server) -> bool:
        was_known = self.unchanged(lambda: self.store.heartbeat(server))
        assert was_known == (server.id in self.books.heartbeats)
        self.books.heartbeats[server.id] = self.books.now
        return was_known

    def retire(self, server: Server) -> None:
        self.unchanged(lambda: self.store.retire(server))
        self.books.retired(server.id)

    def holders(self, lines: Collection[str]) -> dict[str, list[str]]:
        found = self.store.holders(lines)
        assert found == self.books.holders(lines)
        return found

    # --- upkeep -------------------------------------------------------------------------------------------------

    def reap(self) -> None:
        count = self.unchanged(self.store.reap)
        assert count == self.books.reaped()

    def sweep(self, limit: int) -> None:
        was = self.sight.rows
        count = self._audited(
            lambda: self.store.sweep(limit), lambda row: {Fate.EXPIRED} if self.is_expired(row) else set()
        )
        assert count == len(was) - len(self.sight.rows)
        assert count == limit or not any(self.is_expired(row) for row in self.sight.rows.values())

    def purge(self, line: str, limit: int, priority: Priority | None) -> None:
        def explain(row: Row) -> Fates:
            return {Fate.DROPPED} if row.line == line and priority in (None, row.priority) else set()

        was = self.sight.rows
        count = self._audited(lambda: self.store.purge(line, limit, priority), explain)
        assert count == len(was) - len(self.sight.rows) <= limit
        assert count == limit or not any(explain(row) for row in self.sight.rows.values())

    def forget_line(self, line: str) -> None:
        has_others = bool(self.books.devices_in_use(besides=line)) or self.books.base_is_in_use(line)
        self._audited(
            lambda: self.store.forget_line(line, self.policy),
            lambda row: self._end_with_line(row, line, Fate.DROPPED, has_others),
        )
        if client_of(line) and self.books.seen.pop(line, None) is not None:
            assert not self.sight.of(line)

    def expire_lines(self) -> None:
        old = self.books.expired_devices()
        has_others = any(self.books.is_in_use(line) for line in LINES)
        assert self.store.expire_lines(ALL) == len(old)
        before, gone, new = self._look()
        assert not new
        ends = [(row, self._end_with_lines(row, old, has_others)) for row in gone]
        self._account(before, ends)
        for line in old:
            del self.books.seen[line]

    def _end_with_lines(self, row: Row, lines: Collection[str], has_others: bool) -> Fates:
        ends = (self._end_with_line(row, line, Fate.EXPIRED, has_others) for line in lines)
        return set().union(*ends)

    def _end_with_line(self, row: Row, line: str, fate: Fate, has_others: bool) -> Fates:
        if row.line != line:
            return self._superseded(row) if row.line == base_of(line) else set()
        if has_others:
            return {fate}
        return self._superseded(row) | ({None} if self._is_copied(row, (base_of(line),)) else set())

    def forget_old(self) -> None:
        """What upkeep removes besides messages."""
        self.unchanged(lambda: self.store.forget_keys(ALL))
        self.unchanged(lambda: self.store.forget_bodies(ALL))
        self.unchanged(lambda: self.store.forget_idle(ALL))


def _size(rows: Iterable[Row]) -> int:
    return sum(row.size for row in rows)
