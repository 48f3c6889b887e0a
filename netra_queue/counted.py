"""Counts the sends that are rejected, around the verbs: their senders are told, and nobody else would know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import wraps
from typing import Any, TypeVar, cast

from .core.message import Priority
from .counting import rejections

Verb = TypeVar("Verb", bound=Callable[..., Any])
Messages = Iterable[tuple[str, Any]]


def _listed(messages: Messages) -> Collection[tuple[str, Any]]:
    return messages if isinstance(messages, list) else list(messages)


def counted(verb: Verb) -> Verb:
    """For a verb of messages and their options, one object with a ``priority``."""

    @wraps(verb)
    def counting(messages: Messages, options: Any) -> Any:
        listed = _listed(messages)
        with rejections(options.priority, len(listed)):
            return verb(listed, options)

    return cast(Verb, counting)


def acounted(verb: Verb) -> Verb:
    """The same for a coroutine function, which takes its options by name."""

    @wraps(verb)
    async def counting(messages: Messages, **options: Any) -> Any:
        listed = _listed(messages)
        with rejections(options.get("priority", Priority.NORMAL), len(listed)):
            return await verb(listed, **options)

    return cast(Verb, counting)
