"""The public verbs: accept a message for a queue, make it durable, and ring for it.

Validation comes first: what raises InvalidMessage has touched nothing, not even the caller's transaction.

A plain ``send`` writes in the caller's own thread, and so belongs to the caller's transaction if there is one.
``asend`` writes through the process's batching writer, where concurrent senders share a commit; under
``async_to_sync`` (a synchronous view, test or task further out) it goes through ``send`` in that thread instead, so
that it, too, belongs to the transaction there.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

from asgiref.sync import AsyncToSync, sync_to_async

from . import passing, policies, tracing, wakeup
from .backpressure import wait_for_room
from .core.message import Draft, Outcome, Payload, Priority
from .core.policy import Overflow, Policy
from .counted import acounted, counted
from .deadline import in_time, settled_in_time
from .exceptions import BreakerOpen, InvalidMessage, MessageTooLarge, StoreUnavailable
from .ids import new_id
from .rates import Admission
from .receipts import Receipt, refuse_event_loop
from .stores import current_store
from .stores.base import Appended, Store
from .stores.batching import BatchingWriter, current_writer
from .validation import (
    Seconds,
    check_address,
    check_collapse,
    check_deliver,
    check_key,
    check_overflow,
    check_priority,
    check_sender,
    check_track,
    check_ttl,
    encode,
)

Answer = TypeVar("Answer")
MAY_BE_WRITTEN = "; the message may still be written"
HOLDERS_KNOWN_SECONDS = 0.1  # less than connections that have just come wait before they look again (``hub``)


class Options(NamedTuple):
    """``SendOptions`` with their defaults."""

    priority: Priority = Priority.NORMAL
    ttl: Seconds | None = None
    key: str | None = None
    deliver: str = "all"
    collapse: str | None = None
    track: bool = False
    overflow: str | None = None
    timeout: Seconds | None = None
    sender: str = ""

    @property
    def waits_for_room(self) -> bool:
        return self.overflow is not None

    @property
    def is_alone(self) -> bool:
        """Whether a send shares no batch: it may wait for a sender's open transaction, or has limits of its own."""
        return self.key is not None or self.collapse is not None or self.waits_for_room

    def check(self) -> None:
        """Raises InvalidMessage."""
        check_overflow(self.overflow, self.timeout)
        check_priority(self.priority)
        check_ttl(self.ttl)
        check_key(self.key)
        check_deliver(self.deliver)
        check_collapse(self.collapse)
        check_track(self.track)
        check_sender(self.sender)


_DEFAULTS = Options()  # most sends have them


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
    overflow: str | None
    """None (the default): what the policy says. "wait": wait until there is room. From asynchronous code only."""
    timeout: Seconds | None
    """For how long, in seconds or as a timedelta; by default 10 seconds. QueueFull is raised then."""
    sender: str
    """The class of senders that this belongs to, such as "import": policies may have a rate for it (SENDER_RATES)."""


def send(queue: str, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
    """Put a message into a queue. When this returns (or the surrounding transaction commits), it is kept.

    ``queue``: a queue's name, for all its devices, or a line's (``user.42/phone-7f3a``), for that device alone.
    ``payload``: anything that Django's JSON encoder takes. For the options see ``SendOptions``.

    Raises InvalidMessage, MessageTooLarge, RateLimited, QueueFull or StoreUnavailable; then nothing was accepted (after
    a StoreUnavailable inside a transaction of yours, that transaction has failed). Thread-safe. Not for use on a
    running event loop: that raises CalledOnEventLoop; see ``asend``.
    """
    refuse_event_loop("send")
    return _send([(queue, payload)], _synchronous(options))[0]


def send_many(messages: Iterable[tuple[str, Any]], **options: Unpack[SendOptions]) -> list[Receipt]:
    """Like ``send`` for many pairs of queue and payload, all or none. The options hold for each of them."""
    refuse_event_loop("send_many")
    return _send(messages, _synchronous(options))


def send_to_user(user: Any, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
    """``send`` to the queue ``user.<pk>``. Raises InvalidMessage for a user that is anonymous or not saved."""
    refuse_event_loop("send_to_user")
    return _send([(queue_of(user), payload)], _synchronous(options))[0]


def _synchronous(options: SendOptions) -> Options:
    """Raises InvalidMessage where a thread would wait: it may have a transaction open that others wait for."""
    if options.get("overflow") is not None:
        raise InvalidMessage("overflow", expected="None, or asend() to wait for room", got=options.get("overflow"))
    return _options(options)


def _options(given: SendOptions) -> Options:
    return Options(**given) if given else _DEFAULTS


async def asend(queue: str, payload: Any, **options: Unpack[SendOptions]) -> Receipt:
    """``send`` for asynchronous code. A call that is cancelled may or may not have been accepted."""
    return (await asend_many([(queue, payload)], **options))[0]


@acounted
@tracing.atraced
async def asend_many(messages: Iterable[tuple[str, Any]], **options: Unpack[SendOptions]) -> list[Receipt]:
    """``send_many`` for asynchronous code. A call that is cancelled may or may not have been accepted."""
    wanted = _options(options)
    admission = Admission(wanted.sender)
    if getattr(AsyncToSync.executors, "current", None) is not None:
        attempt = partial(sync_to_async(_write, thread_sensitive=True), messages, wanted, admission)
    elif entries := _check(messages, wanted):
        attempt = partial(_awrite, entries, wanted, admission)
    else:
        return []
    if wanted.waits_for_room:
        return await wait_for_room(attempt, check_overflow(wanted.overflow, wanted.timeout))
    return await attempt()


async def _awrite(entries: Sequence[tuple[str, Payload]], wanted: Options, admission: Admission) -> list[Receipt]:
    store, writer = current_store(), current_writer(keyed=wanted.is_alone)
    queues = {queue for queue, _ in entries}
    known = policies.remembered(store, queues)
    limits = _limits(await _ask_policies(store, writer, queues) if known is None else known, wanted)
    division = passing.divided(_drafts(entries, limits, wanted), limits)
    kept, appended = division.kept, list[Appended]()
    if kept:
        try:
            kept = await admission.aadmit(store, kept, division.policies, _in_writer)
            if known is None and policies.unknown(store, division.policies):
                await answered(writer.run(partial(policies.make_known, store, division.policies)))
            written = writer.asubmit(kept, division.policies, _announce)
            appended = await settled_in_time(written, MAY_BE_WRITTEN)
        except StoreUnavailable as error:
            if not passing.may_do_without(error, division.policies):
                raise
            passing.give_unprotected(kept)
            appended = passing.answers(kept)
    passing.give(division.passed)
    return _receipts(division, kept, appended)


async def _ask_policies(store: Store, writer: BatchingWriter, queues: Collection[str]) -> Mapping[str, Policy]:
    try:
        return await answered(writer.run(partial(policies.of, store, queues)))
    except BreakerOpen:
        return policies.last_known(store, queues)


async def _in_writer(work: Callable[[], Answer]) -> Answer:
    return await answered(current_writer().run(work))


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


def _announce(appended: Iterable[Appended], found_at: float | None = None) -> None:
    """Ring for the lines that hold something new; where the append has found out who holds them, nobody asks again.

    ``found_at``: when it did, by the monotonic clock, if a transaction has gone on since; None: just now.
    """
    is_fresh = found_at is None or time.monotonic() - found_at < HOLDERS_KNOWN_SECONDS
    unknown: set[str] = set()
    known: set[str] = set()
    holders: dict[str, set[str]] = defaultdict(set)
    for answer in appended:
        if answer.servers is None or not is_fresh:
            unknown.update(answer.lines)
            continue
        known.update(answer.lines)
        for server in answer.servers:
            holders[server].update(answer.lines)
    if unknown:
        announce(unknown)
    if known:
        wakeup.ring(known, _holders, holders)


def _holders(queues: Collection[str]) -> Mapping[str, Collection[str]]:
    store = current_store()
    return store.in_own_thread(lambda: store.holders(queues))


def _write(messages: Iterable[tuple[str, Any]], options: Options, admission: Admission | None = None) -> list[Receipt]:
    """``admission``: of a call that is tried again."""
    entries = _check(messages, options)
    if not entries:
        return []
    store = current_store()
    queues = {queue for queue, _ in entries}
    try:
        known = policies.of(store, queues)
    except BreakerOpen:
        known = policies.last_known(store, queues)
    limits = _limits(known, options)
    division = passing.divided(_drafts(entries, limits, options), limits)
    kept, appended = division.kept, list[Appended]()
    if kept:
        admission = Admission(options.sender) if admission is None else admission
        kept, appended = _append(store, kept, division.policies, admission)
    if division.passed:
        store.after_commit(partial(passing.give, division.passed))
    return _receipts(division, kept, appended)


def _append(
    store: Store, drafts: Sequence[Draft], limits: Mapping[str, Policy], admission: Admission
) -> tuple[Sequence[Draft], list[Appended]]:
    """These as they were admitted, and what became of them: without the store, they are given to connected clients."""
    is_alone = not store.in_transaction()
    try:
        drafts = admission.admit(store, drafts, limits)
        found_at = time.monotonic()
        appended = store.append(drafts, limits)
    except StoreUnavailable as error:
        is_untouched = is_alone or isinstance(error, BreakerOpen)  # a transaction of the caller's may be broken
        if not is_untouched or not passing.may_do_without(error, limits):
            raise
        store.after_commit(partial(passing.give_unprotected, drafts))
        return drafts, passing.answers(drafts)
    store.after_commit(partial(policies.make_known, store, limits))
    store.after_commit(partial(_announce, appended, found_at))
    return drafts, appended


_send = counted(tracing.traced(_write))


def _limits(limits: Mapping[str, Policy], options: Options) -> Mapping[str, Policy]:
    """Who waits for room has to be told that there is none, whatever the policy says."""
    limits = passing.in_shadow(limits)
    if not options.waits_for_room:
        return limits
    return {queue: replace(policy, overflow=Overflow.REJECT) for queue, policy in limits.items()}


def _check(messages: Iterable[tuple[str, Any]], options: Options) -> list[tuple[str, Payload]]:
    if options is not _DEFAULTS:
        options.check()
    return [(check_address(queue), encode(payload)) for queue, payload in map(_pair, messages)]


def _pair(entry: object) -> tuple[object, Any]:
    if isinstance(entry, tuple | list) and len(entry) == 2:
        return entry[0], entry[1]
    raise InvalidMessage("message", expected="a pair of queue name and payload", got=entry)


def _drafts(entries: Sequence[tuple[str, Payload]], limits: Mapping[str, Policy], options: Options) -> list[Draft]:
    urgency, seconds = check_priority(options.priority), check_ttl(options.ttl)
    traceparent = tracing.traceparent()
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
            traceparent=traceparent,
        )
        for queue, payload in entries
    ]


def _receipts(division: passing.Division, kept: Sequence[Draft], appended: Sequence[Appended]) -> list[Receipt]:
    """``kept``: as they were admitted; ``appended``: what became of them."""
    drafts = division.in_order(kept, division.passed)
    answers = division.in_order(appended, passing.answers(division.passed))
    return [
        Receipt(
            id=answer.id,
            queue=draft.queue,
            outcome=answer.outcome,
            tracked=draft.track,
            not_before=draft.not_before if answer.outcome is Outcome.QUEUED else None,
        )
        for draft, answer in zip(drafts, answers, strict=True)
    ]
