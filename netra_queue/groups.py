"""Durable groups: who is subscribed gets what is sent to the group, connected or not.

As in ``sending``, a plain verb belongs to the caller's transaction, and its asynchronous twin writes in a thread of
its own: one for groups, since a subscription waits for those who are sending to the group, and a large group takes
its time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, TypeVar, Unpack

from asgiref.sync import AsyncToSync, sync_to_async

from . import conf, controls, passing, policies, rates, tracing, wakeup
from .core.message import Draft, GroupDraft, GroupReceipt, Outcome, Priority, base_of
from .counting import rejections
from .exceptions import BreakerOpen, MessageTooLarge, shorten
from .ids import new_id
from .receipts import refuse_event_loop
from .sending import answered, queue_of
from .stores import current_store
from .stores.base import GroupAppended, Store
from .stores.batching import current_group_writer
from .validation import Seconds, check_group, check_key, check_priority, check_queue, check_sender, check_ttl, encode

Answer = TypeVar("Answer")


class GroupOptions(TypedDict, total=False):
    """The options of a send to a group. They hold for each recipient."""

    priority: Priority
    """How urgent it is; by default NORMAL."""
    ttl: Seconds | None
    """Time to live, in seconds or as a timedelta; by default what each recipient's policy says."""
    key: str | None
    """The same key twice within the time to live is one message of the group; the second receipt says DUPLICATE."""
    sender: str
    """The class of senders that this belongs to. The default policy's SENDER_RATES may have a rate of it per group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    """``GroupOptions`` with their defaults."""

    priority: Priority = Priority.NORMAL
    ttl: Seconds | None = None
    key: str | None = None
    sender: str = ""


def subscribe(queue_or_user: Any, group: str) -> bool:
    """Have a queue get what is sent to the group from now on. Returns whether that is new.

    ``queue_or_user``: a queue's name, or a user. Who is sending to the group in an open transaction is waited for,
    unless the queue is subscribed already; in a transaction of yours, those who send to the group then wait for its
    end. Raises InvalidMessage or StoreUnavailable. Thread-safe, not for a running event loop: see ``asubscribe``.
    """
    refuse_event_loop("subscribe")
    return _subscribe(_queue(queue_or_user), check_group(group))


def unsubscribe(queue_or_user: Any, group: str) -> bool:
    """The opposite of ``subscribe``, in all. Returns whether the queue was subscribed. What it got already stays."""
    refuse_event_loop("unsubscribe")
    return _unsubscribe(_queue(queue_or_user), check_group(group))


async def asubscribe(queue_or_user: Any, group: str) -> bool:
    """``subscribe`` for asynchronous code. A call that is cancelled may or may not have had an effect."""
    return await _in_own_lane(partial(_subscribe, _queue(queue_or_user), check_group(group)))


async def aunsubscribe(queue_or_user: Any, group: str) -> bool:
    """``unsubscribe`` for asynchronous code. A call that is cancelled may or may not have had an effect."""
    return await _in_own_lane(partial(_unsubscribe, _queue(queue_or_user), check_group(group)))


def group_send(group: str, payload: Any, **options: Unpack[GroupOptions]) -> GroupReceipt:
    """Put a message into every queue that is subscribed to the group when this, or your transaction, commits.

    For the options see ``GroupOptions``. Raises InvalidMessage, MessageTooLarge (when no policy allows that size),
    RateLimited or StoreUnavailable; then nothing was accepted. A recipient that is full, or whose policy does not allow
    the size, fails nobody else: the message counts as dropped there. Thread-safe, not for a running event loop: see
    ``agroup_send``.
    """
    refuse_event_loop("group_send")
    with rejections(options.get("priority", Priority.NORMAL)), tracing.sending([group]) as receipts:
        receipt = _send(*_draft(group, payload, _Options(**options)))
        receipts.append(receipt)
        return receipt


async def agroup_send(group: str, payload: Any, **options: Unpack[GroupOptions]) -> GroupReceipt:
    """``group_send`` for asynchronous code. A call that is cancelled may or may not have been accepted."""
    with rejections(options.get("priority", Priority.NORMAL)), tracing.sending([group]) as receipts:
        receipt = await _in_own_lane(partial(_send, *_draft(group, payload, _Options(**options))))
        receipts.append(receipt)
        return receipt


async def subscribe_line(line: str, groups: Collection[str]) -> None:
    """Subscribe the queue that this is a line of. Raises InvalidMessage or StoreUnavailable."""
    queue, store = base_of(line), current_store()
    for group in check_groups(groups):
        await answered(current_group_writer().run(partial(store.subscribe, [queue], group)))


def check_groups(groups: object) -> list[str]:
    """Groups' names. Raises TypeError for anything but a list or tuple, InvalidMessage for what is no name in it."""
    if not isinstance(groups, list | tuple):
        raise TypeError(f"expected a list or tuple of groups' names, got {shorten(groups)}")
    return [check_group(group) for group in groups]


def _queue(queue_or_user: Any) -> str:
    """A line is no member: its queue is, with all its lines."""
    return check_queue(queue_or_user if isinstance(queue_or_user, str) else queue_of(queue_or_user))


async def _in_own_lane(work: Callable[[], Answer]) -> Answer:
    """In the thread of a surrounding ``async_to_sync``, where there may be a transaction, or else in one of ours."""
    if getattr(AsyncToSync.executors, "current", None) is not None:
        return await sync_to_async(work, thread_sensitive=True)()
    return await answered(current_group_writer().run(work))


def _subscribe(queue: str, group: str) -> bool:
    store = current_store()
    policies.of(store, [queue])  # refuses a name that cannot live beside another one
    store.after_commit(partial(policies.make_known, store, [queue]))
    return store.subscribe([queue], group) > 0


def _unsubscribe(queue: str, group: str) -> bool:
    return current_store().unsubscribe([queue], group) > 0


def _draft(group: str, payload: Any, options: _Options) -> tuple[GroupDraft, str]:
    """And the class of its senders."""
    priority, ttl_seconds, key = check_priority(options.priority), check_ttl(options.ttl), check_key(options.key)
    name, encoded = check_group(group), encode(payload)
    sender = check_sender(options.sender)
    draft = GroupDraft(
        group=name,
        id=new_id(),
        payload=encoded,
        priority=priority,
        ttl_seconds=ttl_seconds,
        key=key,
        traceparent=tracing.traceparent(),
    )
    return draft, sender


def _send(draft: GroupDraft, sender: str) -> GroupReceipt:
    store, size = policies.fresh_store(), draft.payload.size
    limit = max(policy.max_message_bytes for policy in conf.policies())
    if size > limit:
        raise MessageTooLarge(f"group {draft.group}", size=size, limit=limit)
    if controls.current().is_off:
        appended = GroupAppended(draft.id, Outcome.LIVE_ONLY)
        store.after_commit(partial(_pass, draft))
    else:
        appended = _append(store, draft, sender)
    return GroupReceipt(id=appended.id, group=draft.group, outcome=appended.outcome, recipients=appended.recipients)


def _append(store: Store, draft: GroupDraft, sender: str) -> GroupAppended:
    try:
        rates.admit_group(store, draft.group, sender)
        appended = store.group_append(draft)
    except BreakerOpen:
        if not all(policy.does_without for policy in conf.policies()):
            raise
        store.after_commit(partial(passing.give_to_group, _as_draft(draft, draft.group), draft.group))
        return GroupAppended(draft.id, Outcome.LIVE_ONLY)
    if appended.recipients:
        store.after_commit(partial(wakeup.ring_group, draft.group, _holders))
    if appended.outcome is not Outcome.DUPLICATE and not conf.keeps_everything():
        store.after_commit(partial(_pass, draft))
    return appended


def _pass(draft: GroupDraft) -> None:
    """Give it to the members that are outside of the rollout and connected."""
    store = current_store()
    connected = store.group_holders([draft.group]).values()
    queues = sorted({base_of(line) for lines in connected for line in lines})
    of_queue = policies.of(store, queues)
    outside = [queue for queue in queues if not conf.standing_of(queue, of_queue[queue]).keeps]
    passing.give([_as_draft(draft, queue) for queue in outside])


def _as_draft(draft: GroupDraft, queue: str) -> Draft:
    return Draft(queue=queue, id=draft.id, payload=draft.payload, priority=draft.priority, ttl_seconds=0)


def _holders(groups: Collection[str]) -> Mapping[str, Collection[str]]:
    store = current_store()
    return store.in_own_thread(lambda: store.group_holders(groups))
