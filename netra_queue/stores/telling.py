"""How the database store sends signals: after the commit, with names, and only where somebody listens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from .. import signals
from ..core.message import Fate, Priority, base_of, client_of
from ..core.tracking import EndedMessage
from ..models import Queue
from .connecting import on_commit
from .rows import chunks

Ended = tuple[str, int, int]  # a message's id, its line's, and its priority


def tell(using: str, ended: Iterable[Ended], fate: Fate, now: datetime) -> None:
    """These messages end so when the transaction commits."""
    if signals.has_listeners(fate) and (messages := list(ended)):
        on_commit(using, lambda: _tell(using, messages, fate, now))


def _tell(using: str, ended: Sequence[Ended], fate: Fate, now: datetime) -> None:
    names: dict[int, str] = {}
    for chunk in chunks(sorted({line for _, line, _ in ended})):
        names |= dict(Queue.objects.using(using).filter(pk__in=chunk).values_list("pk", "name"))
    messages = [
        EndedMessage(id=id, queue=base_of(name), client=client_of(name), priority=Priority(priority))
        for id, line, priority in ended
        for name in [names.get(line, f"#{line}")]
    ]
    signals.tell(fate, messages, now)
