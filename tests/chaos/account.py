"""What became of everything that was accepted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.surfer import Surfer

TIGHT = "tight"  # queues of this policy may lose messages, and tell
OWN_SECONDS = 6.0  # the second that "on_disconnect" may lose, after as long as the storm lets a store call take

Name = tuple[str, int]  # the sender's, and the message's number


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One message that a sender was told is accepted. ``client``: of a consumer's own send, whose line it is in."""

    queue: str
    sender: str
    number: int
    id: str = ""
    tries: int = 1
    collapse: str = ""
    track: bool = False
    client: str = ""
    persist: str = ""
    at: float = 0.0
    pid: int = 0

    @property
    def name(self) -> Name:
        return self.sender, self.number


@dataclass(slots=True)
class Account:
    sent: int = 0
    accepted: int = 0
    owed: int = 0
    delivered: int = 0
    wire_repeats: int = 0
    application_repeats: int = 0
    told: Counter[str] = field(default_factory=Counter)
    own_sends: Counter[str] = field(default_factory=Counter)
    own_lost: int = 0  # by killed processes, as "on_disconnect" may
    superseded: int = 0
    tracked: int = 0
    lost: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    wrong_statuses: list[str] = field(default_factory=list)
    longest_recovery: float = 0.0

    def __str__(self) -> str:
        told = " ".join(f"{reason} {count}" for reason, count in sorted(self.told.items())) or "none"
        own = " ".join(f"{persist} {count}" for persist, count in sorted(self.own_sends.items())) or "none"
        return (
            f"sent {self.sent}, accepted {self.accepted} (for all devices {self.owed}), delivered {self.delivered}, "
            f"repeated on the wire {self.wire_repeats}, repeated to the application {self.application_repeats}, "
            f"told as lost: {told}; lost {len(self.lost)}, out of order {len(self.out_of_order)}, "
            f"longest recovery {self.longest_recovery:.2f} s; superseded {self.superseded}, "
            f"own sends: {own}, of which killed processes lost {self.own_lost}; "
            f"tracked {self.tracked}, with a wrong status {len(self.wrong_statuses)}"
        )


@dataclass(slots=True)
class Excuse:
    """What own sends may be lost for with "on_disconnect": their process was killed before it could store them.

    ``killed``: when which process was. ``outages``: when the database was out of reach, from and until.
    ``has_stepped_clock``: the database's. For up to a minute, servers then disagree on whether a message that lives for
    seconds has expired: one passes it over, and another one delivers it later.
    """

    killed: dict[int, float] = field(default_factory=dict)
    outages: list[tuple[float, float]] = field(default_factory=list)
    has_stepped_clock: bool = False

    def covers(self, entry: Entry) -> bool:
        """Whether its process never had the database in reach for OWN_SECONDS on end before it was killed."""
        end = self.killed.get(entry.pid)
        if entry.persist != "on_disconnect" or end is None:
            return False
        since = entry.at
        for start, until in sorted(self.outages):
            if until > since and start - since < OWN_SECONDS:
                since = until
        return end - since < OWN_SECONDS


def settle(surfers: Iterable[Surfer], ledger: Iterable[Entry], excuse: Excuse) -> Account:
    account = Account()
    by_queue: dict[str, list[Entry]] = defaultdict(list)
    for entry in ledger:
        by_queue[entry.queue].append(entry)
        account.own_sends[entry.persist] += bool(entry.persist)
        account.accepted += 1
        account.sent += entry.tries
    account.own_sends = +account.own_sends
    for surfer in surfers:
        mine = [entry for entry in by_queue[surfer.queue] if entry.client in ("", surfer.client)]
        _add(account, surfer, mine, excuse)
    return account


def _add(account: Account, surfer: Surfer, mine: list[Entry], excuse: Excuse) -> None:
    handled = Counter((data["sender"], data["number"]) for data in surfer.handled.values())
    newest = _newest(mine)
    unsaid = handled.keys() - {entry.name for entry in mine}  # a killed sender's last message, accepted and not said
    missing: list[str] = []
    for entry in mine:
        if entry.name in handled:
            continue
        is_outdone = any(sender == entry.sender and number > entry.number for sender, number in unsaid)
        if entry.collapse and (entry.number < newest[entry.collapse] or is_outdone):
            account.superseded += 1
        elif excuse.covers(entry):
            account.own_lost += 1
        else:
            missing.append(f"{surfer.queue}/{surfer.client}: {entry}")
    account.owed += len(mine)
    account.delivered += len(surfer.handled)
    account.wire_repeats += surfer.wire - len(surfer.handled)
    account.application_repeats += _repeats(surfer, mine, handled)
    account.told += surfer.lost
    account.lost += _not_told(surfer, missing)
    if not (excuse.has_stepped_clock and surfer.queue.startswith(TIGHT)):
        account.out_of_order += _out_of_order(surfer)
    account.longest_recovery = max(account.longest_recovery, surfer.recovery)


def _newest(mine: Iterable[Entry]) -> dict[str, int]:
    newest: dict[str, int] = defaultdict(int)
    for entry in mine:
        newest[entry.collapse] = max(newest[entry.collapse], entry.number)
    return newest


def _not_told(surfer: Surfer, missing: list[str]) -> list[str]:
    """Queues that are far from their limits lose nothing, and have nothing to tell."""
    if surfer.queue.startswith(TIGHT):
        return missing[surfer.lost.total() :]
    return [*missing, *([f"{surfer.queue}/{surfer.client}: told {surfer.lost}"] if surfer.lost else [])]


def _repeats(surfer: Surfer, mine: Iterable[Entry], handled: Counter[Name]) -> int:
    """Where messages live for seconds, what was sent again may have had no key any more to be known by."""
    doubtful = {entry.name for entry in mine if entry.tries > 1} if surfer.queue.startswith(TIGHT) else set()
    return sum(count - 1 for name, count in handled.items() if name not in doubtful)


def _out_of_order(surfer: Surfer) -> list[str]:
    last: dict[tuple[str, str], dict[str, Any]] = {}
    wrong: list[str] = []
    for data in surfer.handled.values():
        line = data["sender"], data["priority"]
        before = last.get(line, data)
        if data["number"] < before["number"]:
            wrong.append(f"{surfer.queue}/{surfer.client}: {_brief(data)} after {_brief(before)}")
        else:
            last[line] = data
    return wrong


def _brief(data: dict[str, Any]) -> str:
    at = f"{data['at']:.2f} over connection {data['connection']}"
    return f"{data['sender']} {data['priority']} {data['number']} ({at})"


def wrong_statuses(surfers: Iterable[Surfer], ledger: Iterable[Entry], states: Mapping[str, str]) -> Iterator[str]:
    """Acked is what a client has handled. A queue with narrow limits may have ended what was handled and not acked."""
    handled: dict[str, set[str]] = defaultdict(set)
    for surfer in surfers:
        handled[surfer.queue].update(surfer.handled)
    for entry in ledger:
        state, was_handled = states.get(entry.id, "unknown"), entry.id in handled[entry.queue]
        may_be_other = entry.queue.startswith(TIGHT)
        if entry.track and (state == "acked") != was_handled and not (was_handled and may_be_other):
            yield f"{entry.queue}: {entry} is {state}, handled: {was_handled}"
