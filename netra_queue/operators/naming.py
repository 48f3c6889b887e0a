"""What the verbs are told: names of queues, and whom to tell how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from .. import validation
from ..exceptions import InvalidMessage
from ..stores import current_store

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much as far as that is known (0: it is not)."""

STEP = 500  # names in one call of the store


def no_progress(done: int, total: int) -> None:
    """Nobody wants to know."""


def checked(queues: Iterable[str]) -> list[str]:
    """Each name once. Raises InvalidMessage for what is no name, and for one name where an iterable is expected."""
    if isinstance(queues, str):
        raise InvalidMessage("queues", expected="an iterable of names, such as ['user.42']", got=queues)
    return list(dict.fromkeys(map(validation.check_address, queues)))


def steps(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), STEP):
        yield names[start : start + STEP]


def families(queues: Iterable[str]) -> list[str]:
    """``checked``, and the lines of each."""
    store = current_store()
    return list(dict.fromkeys(name for step in steps(checked(queues)) for name in store.family(step)))


def all_queues() -> Iterator[str]:
    """Every queue and line that holds messages, asked for in steps."""
    store, last = current_store(), None
    while names := store.filled(STEP, last):
        yield from names
        last = names[-1]
