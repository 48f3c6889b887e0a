"""The public verbs: accept a message for a queue, make it durable, and ring for it.

Validation comes first: what raises InvalidMessage has touched nothing, not even the caller's transaction.

A plain ``send`` writes in the caller's own thread, and so belongs to the caller's transaction if there is one.
``asend`` writes through the process's batching writer, where concurrent senders share a commit; under
``async_to_sync`` (a synchronous view, test or task further out) it goes through ``send`` in that thread instead, so
that it, too, belongs to the transaction there.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, TypeVar, Unpack

from asgiref.sync import AsyncToSync, sync_to_async

from . import policies, wakeup
from .core.message import Draft, Payload, Priority
from .core.policy import Policy
from .deadline import in_time
from .exceptions import InvalidMessage, MessageTooLarge
from .ids import new_id
from .receipts import Receipt, refuse_event_loop
from .stores import current_store
from .stores.base import Appended
from .stores.batching import current_writer
from .validation import (
    Seconds,
    check_address,
    check_collapse,
    check_deliver,
    check_key,
    check_priority,
    check_track,
    check_ttl,
    encode,
)

Answer = TypeVar("Answer")
MAY_BE_WRITTEN = "; the message may still be written"


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """``SendOptions`` with their defaults."""

    priority: Priority = Priority.NORMAL
    ttl: Seconds | None = None
    key: str | None = None
    deliver: str = "all"
    collapse: str | None = None
    track: bool = False

    @property
    def may_wait(self) -> bool:
        """Whether a send may have to wait for another sender's open transaction."""
        return self.key is not None or self.collapse is not None

    def check(self) -> None:
        """Raises InvalidMessage."""
        check_priority(self.priority)
        check_ttl(self.ttl)
        check_key(self.key)
        check_deliver(self.deliver)
        check_collapse(self.collapse)
        check_track(self.track)


class SendOptions(TypedDict, total=False):
    """The options of all verbs. They hold for each message of a call."""

    priority: Priority
    """How urgent it is; by default NORMAL."""
    ttl: Seconds | None
    """Time to live, in seconds or as a timedelta; by default the policy's."""
    key: str | None
    """The same key twice within the time to live is one message; the second receipt says DUPLICATE."""
    deliver: str
    """"all" (the default): every device of the queue gets it. "first": the first one to ack takes it off the others."""
    collapse: str | None
    """It takes the place of the message that waits in the queue with the same collapse key. At most 200 characters."""
    track: bool
    """Keep what becomes of it: ``Receipt.status()``, ``Receipt.wait()``."""


def send(queue: str, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
    """Put a message into a queue. When this returns (or the surrounding transaction commits), it is kept.

    ``queue``: a queue's name, for all its devices, or a line's (``user.42/phone-7f3a``), for that device alone.
    ``payload``: anything that Django's JSON encoder takes. For the options see ``SendOptions``.

    Raises InvalidMessage, MessageTooLarge, QueueFull or StoreUnavailable; then nothing was accepted (after a
    StoreUnavailable inside a transaction of yours, that transaction has failed). Thread-safe. Not for use on a
    running event loop: that raises CalledOnEventLoop; see ``asend``.
    """
    refuse_event_loop("send")
    return _send([(queue, payload)], Options(**options))[0]


def send_many(messages: Iterable[tuple[str, Any]], **options: Unpack[SendOptions]) -> list[Receipt]:
    """Like ``send`` for many pairs of queue and payload, all or none. The options hold for each of them."""
    refuse_event_loop("send_many")
    return _send(messages, Options(**options))


def send_to_user(user: Any, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
    """``send`` to the queue ``user.<pk>``. Raises InvalidMessage for a user that is anonymous or not saved."""
    refuse_event_loop("send_to_user")
    return _send([(queue_of(user), payload)], Options(**options))[0]


async def asend(queue: str, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
    """``send`` for asynchronous code. A call that is cancelled may or may not have been accepted."""
    return (await asend_many([(queue, payload)], **options))[0]


async def asend_many(messages: Iterable[tuple[str, Any]], **options: Unpack[SendOptions]) -> list[Receipt]:
    """``send_many`` for asynchronous code. A call that is cancelled may or may not have been accepted."""
    wanted = Options(**options)
    if getattr(AsyncToSync.executors, "current", None) is not None:
        return await sync_to_async(_send, thread_sensitive=True)(messages, wanted)
    entries = _check(messages, wanted)
    if not entries:
        return []
    store, writer = current_store(), current_writer(keyed=wanted.may_wait)
    queues = {queue for queue, _ in entries}
    limits = policies.remembered(store, queues)
    is_known = limits is not None
    if limits is None:
        limits = await answered(writer.run(partial(policies.of, store, queues)))
    drafts = _drafts(entries, limits, wanted)
    if not is_known:
        await answered(writer.run(partial(policies.make_known, store, queues)))
    appended = await in_time(writer.asubmit(drafts, limits), MAY_BE_WRITTEN)
    _announce(appended)
    return _receipts(drafts, appended)


async def answered(future: Future[Answer]) -> Answer:
    """What the store answers to a verb. Raises StoreUnavailable when it takes longer than STORE_TIMEOUT_SECONDS."""
    return await in_time(asyncio.wrap_future(future), MAY_BE_WRITTEN)


async def asend_to_user(user: Any, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
    """``send_to_user`` for asynchronous code. A call that is cancelled may or may not have been accepted."""
    return await asend(queue_of(user), payload, **options)


def queue_of(user: Any) -> str:
    """The name of a user's queue. Raises InvalidMessage for a user that is anonymous or not saved."""
    pk = getattr(user, "pk", None)
    if pk is None:
        raise InvalidMessage("user", expected="a user with a primary key", got=user)
    return f"user.{pk}"


def announce(queues: Collection[str]) -> None:
    """Ring for these queues. Returns at once, never raises."""
    wakeup.ring(queues, _holders)


def _announce(appended: Iterable[Appended]) -> None:
    """Ring for the lines that hold something new; where the append has found out who holds them, nobody asks again."""
    unknown: set[str] = set()
    known: set[str] = set()
    holders: dict[str, set[str]] = defaultdict(set)
    for answer in appended:
        (unknown if answer.servers is None else known).update(answer.lines)
        for server in answer.servers or ():
            holders[server].update(answer.lines)
    if unknown:
        announce(unknown)
    if known:
        wakeup.ring(known, _holders, holders)


def _holders(queues: Collection[str]) -> Mapping[str, Collection[str]]:
    store = current_store()
    return store.in_own_thread(lambda: store.holders(queues))


def _send(messages: Iterable[tuple[str, Any]], options: Options) -> list[Receipt]:
    entries = _check(messages, options)
    if not entries:
        return []
    store = current_store()
    queues = {queue for queue, _ in entries}
    limits = policies.of(store, queues)
    drafts = _drafts(entries, limits, options)
    store.after_commit(partial(policies.make_known, store, queues))
    appended = store.append(drafts, limits)
    store.after_commit(partial(_announce, appended))
    return _receipts(drafts, appended)


def _check(messages: Iterable[tuple[str, Any]], options: Options) -> list[tuple[str, Payload]]:
    options.check()
    return [(check_address(queue), encode(payload)) for queue, payload in map(_pair, messages)]


def _pair(entry: object) -> tuple[object, Any]:
    if isinstance(entry, tuple | list) and len(entry) == 2:
        return entry[0], entry[1]
    raise InvalidMessage("message", expected="a pair of queue name and payload", got=entry)


def _drafts(entries: Sequence[tuple[str, Payload]], limits: Mapping[str, Policy], options: Options) -> list[Draft]:
    urgency, seconds = check_priority(options.priority), check_ttl(options.ttl)
    for queue, payload in entries:
        if payload.size > limits[queue].max_message_bytes:
            raise MessageTooLarge(queue, size=payload.size, limit=limits[queue].max_message_bytes)
    return [
        Draft(
            queue=queue,
            id=new_id(),
            payload=payload,
            priority=urgency,
            ttl_seconds=limits[queue].ttl_for(urgency) if seconds is None else seconds,
            key=check_key(options.key),
            deliver_first=options.deliver == "first",
            collapse=options.collapse,
            track=options.track,
        )
        for queue, payload in entries
    ]


def _receipts(drafts: Sequence[Draft], appended: Sequence[Appended]) -> list[Receipt]:
    return [
        Receipt(id=answer.id, queue=draft.queue, outcome=answer.outcome, tracked=draft.track)
        for draft, answer in zip(drafts, appended, strict=True)
    ]
