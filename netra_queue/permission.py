"""What a consumer lets its client see: asked for each batch that was read, before it is transmitted."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from .core.message import Message
from .core.waiting import WaitingMessage, waiting

MayDeliver = Callable[[Sequence[WaitingMessage]], Coroutine[Any, Any, Iterable[WaitingMessage | str]]]


def in_own_context(may_deliver: MayDeliver) -> MayDeliver:
    """To be asked by the hub, and carried out in the context of the caller: a consumer's thread, its translations."""
    context = contextvars.copy_context()

    async def asked(messages: Sequence[WaitingMessage]) -> Iterable[WaitingMessage | str]:
        asking = may_deliver(messages)
        return await asyncio.get_running_loop().create_task(asking, context=context.copy())

    return asked


async def ask(
    may_deliver: MayDeliver, messages: Sequence[Message], seconds: float
) -> tuple[list[Message], list[Message]]:
    """The messages that may be delivered, in their order, and those that may not.

    Raises what the consumer raises (RuntimeError for a CancelledError of its own), TypeError for an answer that names
    no messages, and TimeoutError when there is none within ``seconds``.
    """
    if not messages:
        return [], []
    answer = await _answer(may_deliver, messages, seconds)
    if isinstance(answer, str | bytes) or not isinstance(answer, Iterable):
        raise TypeError(f"queue_may_deliver: expected messages or their ids, got {type(answer).__name__}")
    allowed = {_id(item) for item in answer}
    return (
        [message for message in messages if message.id in allowed],
        [message for message in messages if message.id not in allowed],
    )


async def _answer(
    may_deliver: MayDeliver, messages: Sequence[Message], seconds: float
) -> Iterable[WaitingMessage | str]:
    """A consumer that awaits something that is cancelled has failed like any other: it is not we who are cancelled."""
    try:
        async with asyncio.timeout(seconds):
            return await may_deliver([waiting(message) for message in messages])
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RuntimeError("queue_may_deliver: cancelled") from error


def _id(item: object) -> str:
    if isinstance(item, WaitingMessage):
        return item.id
    if isinstance(item, str):
        return item
    raise TypeError(f"queue_may_deliver: expected messages or their ids, got a {type(item).__name__}")
