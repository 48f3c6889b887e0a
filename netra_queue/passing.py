"""What nobody keeps: messages for the clients that are connected now, at most once, as plain Channels has it.

A queue outside of the rollout gets nothing else (Outcome.LIVE_ONLY), nor does one whose policy says so while the store
is away. Through the channel layer it goes to all servers: who holds a connection, only the store would know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

from . import conf, controls, unprotected, wakeup
from .core.message import Draft, Message, Outcome, Payload, PayloadKind, Priority
from .core.policy import Overflow, Policy
from .core.statistics import Event
from .counting import adder
from .exceptions import BreakerOpen, StoreUnavailable
from .stores.base import Appended

Item = TypeVar("Item")


class Division(NamedTuple):
    """The drafts of one call: those that the store keeps, with their queues' policies, and those that nobody does."""

    drafts: Sequence[Draft]
    kept: Sequence[Draft]
    policies: Mapping[str, Policy]
    passed: Sequence[Draft] = ()

    def in_order(self, kept: Sequence[Item], passed: Sequence[Item]) -> Sequence[Item]:
        """What belongs to each of the drafts, given what belongs to those that are kept, and to those that are not."""
        if not self.passed:
            return kept
        outside, of_kept, of_passed = {draft.id for draft in self.passed}, iter(kept), iter(passed)
        return [next(of_passed if draft.id in outside else of_kept) for draft in self.drafts]


def answers(drafts: Iterable[Draft]) -> list[Appended]:
    """What becomes of drafts that nobody keeps."""
    return [Appended(draft.id, Outcome.LIVE_ONLY) for draft in drafts]


def divided(drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> Division:
    """Every send asks this."""
    if not controls.current().is_off and all(policy.rollout.is_everything for policy in policies.values()):
        return Division(drafts, drafts, policies)
    outside = {queue for queue, policy in policies.items() if not conf.standing_of(queue, policy).keeps}
    kept = [draft for draft in drafts if draft.queue not in outside]
    inside = {queue: policy for queue, policy in policies.items() if queue not in outside}
    return Division(drafts, kept, inside, [draft for draft in drafts if draft.queue in outside])


def may_do_without(error: StoreUnavailable, policies: Mapping[str, Policy]) -> bool:
    """Whether messages are accepted although the store has not taken them, and nobody will keep them.

    With an error that leaves open whether it has, only in shadow mode: there, a repeat is better than a refusal.
    """
    if isinstance(error, BreakerOpen):
        return all(policy.does_without for policy in policies.values())
    return all(policy.rollout.is_shadow for policy in policies.values())


def in_shadow(policies: Mapping[str, Policy]) -> Mapping[str, Policy]:
    """Nobody is refused anything by a queue that is in shadow mode."""
    if not any(policy.rollout.is_shadow for policy in policies.values()):
        return policies
    return {
        queue: replace(policy, overflow=Overflow.DROP_OLDEST) if policy.rollout.is_shadow else policy
        for queue, policy in policies.items()
    }


def give(drafts: Sequence[Draft]) -> None:
    """Give these, of queues outside of the rollout, to connected clients. Returns at once; never raises."""
    if drafts:
        _give(drafts, Event.PASSED)


def give_unprotected(drafts: Sequence[Draft]) -> None:
    """The same while the store is away. Their queues' clients are told that there may be a gap when it is back."""
    _give(drafts, Event.UNPROTECTED)
    unprotected.note(drafts)


def give_to_group(draft: Draft, group: str) -> None:
    """Give this to the clients whose consumers name this group, while the store, which knows its members, is away."""
    _give([draft], Event.UNPROTECTED, group)


def _give(drafts: Sequence[Draft], event: Event, group: str | None = None) -> None:
    adder.count(event, [draft.priority for draft in drafts])
    wakeup.give([_note(draft, group) for draft in drafts])


def _note(draft: Draft, group: str | None) -> wakeup.Note:
    payload = draft.payload
    return {
        "to": draft.queue,
        "group": group,
        "id": draft.id,
        "payload": [int(payload.kind), payload.text, payload.size],
        "priority": int(draft.priority),
        "at": datetime.now(UTC).timestamp(),
    }


def read(note: Mapping[str, object]) -> tuple[str, str | None, Message]:
    """The queue, the group and the message of a note. Raises KeyError, TypeError or ValueError for what is none."""
    message = Message(
        position=0,
        id=str(note["id"]),
        payload=_payload(note["payload"]),
        priority=Priority(int(str(note["priority"]))),
        created_at=datetime.fromtimestamp(float(str(note["at"])), UTC),
    )
    group = note["group"]
    return str(note["to"]), None if group is None else str(group), message


def _payload(given: object) -> Payload:
    if not isinstance(given, list | tuple):
        raise TypeError(f"payload: expected a list, got {given!r:.80}")
    kind, text, size = given
    return Payload(PayloadKind(int(kind)), str(text), int(size))
