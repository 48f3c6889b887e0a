"""The sender's proof, and what became of a message that was sent with ``track=True``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from asgiref.sync import AsyncToSync, sync_to_async

from . import conf
from .core import message
from .core.tracking import MessageState, MessageStatus
from .exceptions import CalledOnEventLoop, InvalidMessage, MessageEnded, NotTracked, StoreUnavailable
from .stores import current_store
from .stores.batching import current_writer

Answer = TypeVar("Answer")
WAITED_FOR = (MessageState.ACKED, MessageState.DELIVERED)
FIRST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt(message.Receipt):
    """What a send returns. A value: it can be pickled, and asked in another process."""

    def status(self) -> MessageStatus | None:
        """The message as it stands. None: nothing is kept of it, because it ended longer ago than TRACK_SECONDS, or
        because its transaction has not committed.

        Raises NotTracked for a message that was not sent with ``track=True``, StoreUnavailable, and on a running event
        loop CalledOnEventLoop.
        """
        refuse_event_loop("status")
        return self._status()

    async def astatus(self) -> MessageStatus | None:
        """``status`` for asynchronous code."""
        if getattr(AsyncToSync.executors, "current", None) is not None:
            return await sync_to_async(self._status, thread_sensitive=True)()
        self._check()
        return await _in_thread(self._status)

    async def wait(self, state: MessageState | str = MessageState.ACKED, timeout: float | None = None) -> MessageStatus:  # noqa: ASYNC109
        """Return the status once the message is "acked" (or "delivered": transmitted on some connection, or acked).

        Asks the store now and then: after 20 ms, later every half second. ``timeout`` in seconds; None: as long as it
        takes, which is until the message has ended. Cancelling is safe.

        Raises TimeoutError when the time is over; MessageEnded, with its ``status``, when the message ended otherwise;
        NotTracked when nothing is kept of it; StoreUnavailable; InvalidMessage for another state.
        """
        wanted = _waited_for(state)
        async with asyncio.timeout(timeout):
            pause = FIRST_PAUSE_SECONDS
            while True:
                status = await self.astatus()
                if status is None:
                    raise NotTracked(self.id)
                if status.has_reached(wanted):
                    return status
                if status.has_ended:
                    raise MessageEnded(self.id, status)
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)

    def _check(self) -> None:
        if not self.tracked:
            raise NotTracked(self.id)

    def _status(self) -> MessageStatus | None:
        self._check()
        store = current_store()
        found = store.tracked([self.id]).get(self.id)
        return None if found is None else found.status(store.now())


def _waited_for(state: MessageState | str) -> MessageState:
    values = [known.value for known in WAITED_FOR]
    value = state.value if isinstance(state, MessageState) else state
    if value not in values:
        raise InvalidMessage("state", expected=f"one of {values}", got=state)
    return MessageState(value)


async def _in_thread(work: Callable[[], Answer]) -> Answer:
    """In the lane of messages with a key, which has several threads: a question does not hold up senders."""
    seconds = conf.get("STORE_TIMEOUT_SECONDS")
    future = asyncio.wrap_future(current_writer(keyed=True).run(work))
    done, _ = await asyncio.wait([future], timeout=seconds)
    if not done:
        future.cancel()
        raise StoreUnavailable(f"no answer within {seconds} seconds")
    return await future


def refuse_event_loop(verb: str) -> None:
    """Django's own guard, with a hint that fits, and for stores that are no Django database as well."""
    if os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise CalledOnEventLoop(verb)
