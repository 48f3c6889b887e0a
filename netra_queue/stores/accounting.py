"""What the database store counts of messages: once the transaction that did it has committed, and only then."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

from ..core.message import Draft, Fate, Outcome
from ..core.statistics import Event
from ..counting import adder
from .connecting import is_in_transaction, on_commit
from .values import Appended, Positions

_ENDS = {fate: Event.of(fate) for fate in Fate}


def count(using: str, event: Event, priorities: Sequence[int]) -> None:
    """It happened once for each of these messages."""
    if priorities and is_in_transaction(using):
        on_commit(using, partial(adder.count, event, priorities))
    elif priorities:
        adder.count(event, priorities)


def accepted(using: str, drafts: Iterable[Draft], copies: int = 1) -> None:
    """So many copies of each of these messages are in lines now."""
    count(using, Event.ACCEPTED, copies * [draft.priority for draft in drafts])


def accepted_plain(using: str, drafts: Iterable[Draft], *, is_committed: bool) -> None:
    """One copy of each. Most sends come this way, and know whether there is a transaction."""
    priorities = [draft.priority for draft in drafts]
    if is_committed:
        adder.count(Event.ACCEPTED, priorities)
    else:
        count(using, Event.ACCEPTED, priorities)


def ended(using: str, fate: Fate, priorities: Sequence[int]) -> None:
    count(using, _ENDS[fate], priorities)


def appended(
    using: str,
    drafts: Sequence[Draft],
    answers: Sequence[Appended],
    there: Positions,
    lines: Mapping[str, Sequence[str]],
    too_large: Collection[Draft],
) -> None:
    """What became of drafts. What is in the table counts as accepted; what never got there, also by how it ended.

    ``there``: what was inserted, by this attempt or by one whose answer was lost, and which therefore counted nothing.
    """
    missing = [draft for draft, answer in zip(drafts, answers, strict=True) if answer.outcome is Outcome.SUPERSEDED]
    for gone, event in ((missing, Event.SUPERSEDED), (too_large, Event.DROPPED)):
        copies = [draft.priority for draft in gone for _ in lines[draft.queue]]
        count(using, Event.ACCEPTED, copies)
        count(using, event, copies)
    count(using, Event.ACCEPTED, [draft.priority for draft in drafts for _ in there.get(draft.id, ())])
    duplicates = [d.priority for d, answer in zip(drafts, answers, strict=True) if answer.outcome is Outcome.DUPLICATE]
    count(using, Event.DUPLICATE, duplicates)
