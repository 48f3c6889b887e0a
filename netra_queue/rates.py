"""What is sent, and who connects, against the rates that policies allow. Where there is no rate, nothing is asked.

A rate holds for all processes together: its bucket is a row in the store. Who goes far beyond it costs the store
little: a process remembers until when a bucket has nothing for anybody.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from . import conf
from .core.message import Draft, base_of
from .core.policy import Exceeded, Policy
from .core.rate import Rate, Taken, Want
from .core.statistics import Event
from .counting import adder
from .exceptions import RateLimited, StoreUnavailable
from .models import group_address
from .stores.base import Store
from .stores.batching import current_writer

REMEMBERED_BUCKETS = 10_000
SHORTEST_PAUSE_SECONDS = 1.0  # that a client is told, on average half as much more
Admit = Callable[[], Sequence[Taken]]


class _Empty:
    """Buckets that have nothing left, until when, and for how many tokens at once. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[tuple[int, str, Rate], tuple[float, int]] = {}

    def note(self, store: Store, want: Want, seconds: float) -> None:
        with self._lock:
            if len(self._until) >= REMEMBERED_BUCKETS:
                self._until.clear()
            self._until[id(store), want.bucket, want.rate] = time.monotonic() + seconds, want.number

    def seconds(self, store: Store, want: Want) -> float:
        """For how long it has nothing for this; 0: the store is to be asked."""
        with self._lock:
            until, number = self._until.get((id(store), want.bucket, want.rate), (0.0, 0))
        return max(0.0, until - time.monotonic()) if want.number >= number else 0.0


_empty = _Empty()


@dataclass(slots=True)
class Admission:
    """Of one call of a verb, however often it is tried. ``sender``: the class of its senders."""

    sender: str
    _not_before: list[datetime | None] | None = field(default=None, init=False)

    def admit(self, store: Store, drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> Sequence[Draft]:
        """The drafts, with the time of those whose turn has not come. Blocks where there is a rate.

        Raises RateLimited; then nothing has been taken.
        """
        wants = self._wants(drafts, policies)
        if not wants:
            return self._dated(drafts)
        return self._settle(drafts, wants, in_own_transaction(store, list(wants)))

    async def aadmit(
        self,
        store: Store,
        drafts: Sequence[Draft],
        policies: Mapping[str, Policy],
        run: Callable[[Admit], Awaitable[Sequence[Taken]]],
    ) -> Sequence[Draft]:
        """The same; ``run`` has the store asked in a thread."""
        wants = self._wants(drafts, policies)
        if not wants:
            return self._dated(drafts)
        return self._settle(drafts, wants, await run(partial(_ask, store, list(wants))))

    def _wants(self, drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> dict[Want, list[int]]:
        """Each with the numbers of the drafts that it is for."""
        if self._not_before is not None or all(not _rates(policy, self.sender) for policy in policies.values()):
            return {}
        numbers: dict[tuple[str, str], list[int]] = {}
        for number, draft in enumerate(drafts):
            for sender in _rates(policies[draft.queue], self.sender):
                numbers.setdefault((base_of(draft.queue), sender), []).append(number)
        wants: dict[Want, list[int]] = {}
        for (queue, sender), of in numbers.items():
            policy = policies[drafts[of[0]].queue]
            rate = _rates(policy, self.sender)[sender]
            longest = _longest_wait([drafts[number] for number in of], policy)
            wants[Want(_bucket(queue, sender), rate, len(of), longest)] = of
        return wants

    def _settle(
        self, drafts: Sequence[Draft], wants: Mapping[Want, Sequence[int]], takings: Sequence[Taken]
    ) -> Sequence[Draft]:
        moments = [0.0] * len(drafts)
        for (want, numbers), taken in zip(wants.items(), takings, strict=True):
            if missing := want.missing_seconds(taken):
                raise RateLimited(
                    base_of(drafts[numbers[0]].queue),
                    limit=str(want.rate),
                    retry_after_seconds=missing,
                    sender=_sender_of(want.bucket),
                )
            for number, wait in zip(numbers, taken.waits if want.longest_wait is not None else (), strict=False):
                moments[number] = max(moments[number], taken.at + wait if wait else 0.0)
        self._not_before = [_moment(seconds) for seconds in moments]
        adder.count(Event.DELAYED, [d.priority for d, at in zip(drafts, self._not_before, strict=True) if at])
        return self._dated(drafts)

    def _dated(self, drafts: Sequence[Draft]) -> Sequence[Draft]:
        if self._not_before is None or not any(self._not_before):
            return drafts
        return [draft._replace(not_before=at) for draft, at in zip(drafts, self._not_before, strict=True)]


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _rates(policy: Policy, sender: str) -> dict[str, Rate]:
    """By the class of senders that they are for; "": all of them."""
    if policy.rate is None and not policy.sender_rates:
        return {}
    found = (
        {"": policy.rate, sender: policy.sender_rates[sender]} if sender in policy.sender_rates else {"": policy.rate}
    )
    return {name: rate for name, rate in found.items() if rate is not None}


def _longest_wait(drafts: Sequence[Draft], policy: Policy) -> float | None:
    """What takes the place of a waiting message has no turn of its own: it would push that back again and again."""
    if policy.rate_exceeded is not Exceeded.DELAY or any(draft.collapse is not None for draft in drafts):
        return None
    return min(draft.ttl_seconds for draft in drafts)


def _bucket(queue: str, sender: str) -> str:
    """No queue's name has a space."""
    return f"{queue} {sender}"


def _sender_of(bucket: str) -> str:
    return bucket.partition(" ")[2]


def in_own_transaction(store: Store, wants: Sequence[Want]) -> Sequence[Taken]:
    """``Store.admit``, so that nobody waits for the end of the caller's transaction. Blocks."""
    if not store.in_transaction() or store.admits_in_transaction:
        return _ask(store, wants)
    try:
        return current_writer().run(partial(_ask, store, wants)).result(conf.get("STORE_TIMEOUT_SECONDS"))
    except TimeoutError as error:
        raise StoreUnavailable("it did not say in time whether a rate is exceeded") from error


def _ask(store: Store, wants: Sequence[Want]) -> Sequence[Taken]:
    """Those that may not wait are not asked for while it is known that they are not granted."""
    now = store.now().timestamp()
    for want in wants:
        if want.longest_wait is None and (seconds := _empty.seconds(store, want)):
            rate = want.rate
            full_at = now + seconds + (max(rate.burst, want.number) - want.number) * rate.seconds_each
            refused = {want: want.take(full_at, now)}
            return [refused.get(other) or other.take(now, now) for other in wants]
    takings = store.admit(wants)
    for want, taken in zip(wants, takings, strict=True):
        if want.longest_wait is None and taken.wait:
            _empty.note(store, want, taken.wait)
    return takings


def admit_group(store: Store, group: str, sender: str) -> None:
    """A message for a group counts once, whoever is subscribed. Raises RateLimited."""
    rate = conf.policy("default").sender_rates.get(sender)
    if rate is not None:
        _admit_one(store, _bucket(group_address(group), sender), f"group {group}", rate, sender)


def admit_connection(store: Store, queue: str, rate: Rate) -> None:
    """Of all devices of a queue together. Blocks. Raises RateLimited."""
    _admit_one(store, _bucket(base_of(queue), "/connections"), base_of(queue), rate, "")


def _admit_one(store: Store, bucket: str, name: str, rate: Rate, sender: str) -> None:
    (taken,) = in_own_transaction(store, [Want(bucket, rate, 1)])
    if taken.wait:
        raise RateLimited(name, limit=str(rate), retry_after_seconds=taken.wait, sender=sender)


def paced(seconds: float) -> float:
    """When those who were all told the same are to come back: not at once, nor all together."""
    return seconds + random.uniform(0, max(seconds, SHORTEST_PAUSE_SECONDS))
