"""The public verbs: accept a message for a queue, make it durable, and ring for it.

Validation comes first: what raises InvalidMessage has touched nothing, not even the caller's transaction.

A plain ``send`` writes in the caller's own thread, and so belongs to the caller's transaction if there is one.
``asend`` writes through the process's batching writer, where concurrent senders share a commit; under
``async_to_sync`` (a synchronous view, test or task further out) it goes through ``send`` in that thread instead, so
that it, too, belongs to the transaction there.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from asgiref.sync import AsyncToSync, sync_to_async

from . import policies, wakeup
from .core.message import Draft, Payload, Priority, Receipt
from .core.policy import Policy
from .exceptions import CalledOnEventLoop, InvalidMessage, MessageTooLarge
from .stores import current_store
from .stores.base import Appended
from .stores.batching import current_writer
from .validation import Seconds, check_key, check_priority, check_queue, check_ttl, encode


def send(
    queue: str,
    payload: Any,
    *,
    priority: Priority = Priority.NORMAL,
    ttl: Seconds | None = None,
    key: str | None = None,
) -> Receipt:
    """Put a message into a queue. When this returns (or the surrounding transaction commits), it is kept.

    ``payload``: anything that Django's JSON encoder takes. ``ttl``: time to live in seconds, by default the policy's.
    ``key``: the same key twice within that time is one message; the second receipt says DUPLICATE.

    Raises InvalidMessage, MessageTooLarge, QueueFull or StoreUnavailable; then nothing was accepted (after a
    StoreUnavailable inside a transaction of yours, that transaction has failed). Thread-safe. Not for use on a
    running event loop: that raises CalledOnEventLoop; see ``asend``.
    """
    _refuse_event_loop("send")
    return _send([(queue, payload)], priority, ttl, key)[0]


def send_many(
    messages: Iterable[tuple[str, Any]],
    *,
    priority: Priority = Priority.NORMAL,
    ttl: Seconds | None = None,
    key: str | None = None,
) -> list[Receipt]:
    """Like ``send`` for many pairs of queue and payload, all or none. The options hold for each of them."""
    _refuse_event_loop("send_many")
    return _send(messages, priority, ttl, key)


def send_to_user(
    user: Any,
    payload: Any,
    *,
    priority: Priority = Priority.NORMAL,
    ttl: Seconds | None = None,
    key: str | None = None,
) -> Receipt:
    """``send`` to the queue ``user.<pk>``. Raises InvalidMessage for a user that is anonymous or not saved."""
    _refuse_event_loop("send_to_user")
    return _send([(queue_of(user), payload)], priority, ttl, key)[0]


async def asend(
    queue: str,
    payload: Any,
    *,
    priority: Priority = Priority.NORMAL,
    ttl: Seconds | None = None,
    key: str | None = None,
) -> Receipt:
    """``send`` for asynchronous code. A call that is cancelled may or may not have been accepted."""
    return (await asend_many([(queue, payload)], priority=priority, ttl=ttl, key=key))[0]


async def asend_many(
    messages: Iterable[tuple[str, Any]],
    *,
    priority: Priority = Priority.NORMAL,
    ttl: Seconds | None = None,
    key: str | None = None,
) -> list[Receipt]:
    """``send_many`` for asynchronous code. A call that is cancelled may or may not have been accepted."""
    if getattr(AsyncToSync.executors, "current", None) is not None:
        return await sync_to_async(_send, thread_sensitive=True)(messages, priority, ttl, key)
    entries = _check(messages, priority, ttl, key)
    if not entries:
        return []
    store, writer = current_store(), current_writer()
    queues = {queue for queue, _ in entries}
    limits = policies.remembered(store, queues)
    if limits is None:
        limits = await asyncio.wrap_future(writer.run(partial(_prepare, queues)))
    drafts = _drafts(entries, limits, priority, ttl, key)
    appended = await asyncio.wrap_future(writer.submit(drafts, limits))
    announce(queues)
    return _receipts(drafts, appended)


async def asend_to_user(
    user: Any,
    payload: Any,
    *,
    priority: Priority = Priority.NORMAL,
    ttl: Seconds | None = None,
    key: str | None = None,
) -> Receipt:
    """``send_to_user`` for asynchronous code. A call that is cancelled may or may not have been accepted."""
    return await asend(queue_of(user), payload, priority=priority, ttl=ttl, key=key)


def queue_of(user: Any) -> str:
    """The name of a user's queue. Raises InvalidMessage for a user that is anonymous or not saved."""
    pk = getattr(user, "pk", None)
    if pk is None:
        raise InvalidMessage("user", expected="a user with a primary key", got=user)
    return f"user.{pk}"


def announce(queues: Collection[str]) -> None:
    """Ring for these queues. Returns at once, never raises."""
    wakeup.ring(queues, _holders)


def _holders(queues: Collection[str]) -> Mapping[str, Collection[str]]:
    store = current_store()
    return store.in_own_thread(lambda: store.holders(queues))


def _send(messages: Iterable[tuple[str, Any]], priority: object, ttl: object, key: object) -> list[Receipt]:
    entries = _check(messages, priority, ttl, key)
    if not entries:
        return []
    store = current_store()
    queues = {queue for queue, _ in entries}
    if store.in_transaction():
        limits = policies.of(store, queues)
        store.after_commit(partial(policies.make_known, store, queues))
    else:
        limits = _prepare(queues)
    drafts = _drafts(entries, limits, priority, ttl, key)
    receipts = _receipts(drafts, store.append(drafts, limits))
    store.after_commit(partial(announce, queues))
    return receipts


def _prepare(queues: Collection[str]) -> dict[str, Policy]:
    """The policies of these queues, all of them made known to the store."""
    store = current_store()
    limits = policies.of(store, queues)
    policies.make_known(store, queues)
    return limits


def _check(
    messages: Iterable[tuple[str, Any]], priority: object, ttl: object, key: object
) -> list[tuple[str, Payload]]:
    check_priority(priority)
    check_ttl(ttl)
    check_key(key)
    return [(check_queue(queue), encode(payload)) for queue, payload in messages]


def _drafts(
    entries: Sequence[tuple[str, Payload]], limits: Mapping[str, Policy], priority: object, ttl: object, key: object
) -> list[Draft]:
    urgency, seconds = check_priority(priority), check_ttl(ttl)
    for queue, payload in entries:
        if payload.size > limits[queue].max_message_bytes:
            raise MessageTooLarge(queue, size=payload.size, limit=limits[queue].max_message_bytes)
    return [
        Draft(
            queue=queue,
            id=uuid.uuid4().hex,
            payload=payload,
            priority=urgency,
            ttl_seconds=limits[queue].ttl_for(urgency) if seconds is None else seconds,
            key=check_key(key),
        )
        for queue, payload in entries
    ]


def _receipts(drafts: Sequence[Draft], appended: Sequence[Appended]) -> list[Receipt]:
    return [
        Receipt(id=answer.id, queue=draft.queue, outcome=answer.outcome)
        for draft, answer in zip(drafts, appended, strict=True)
    ]


def _refuse_event_loop(verb: str) -> None:
    """Django's own guard, with a hint that fits, and for stores that are no Django database as well."""
    if os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise CalledOnEventLoop(verb)
