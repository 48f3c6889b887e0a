"""Messages, policies and stores for tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from django import VERSION
from django.db import transaction

from netra_queue import conf, controls, operating
from netra_queue.core.actions import ReadRequest
from netra_queue.core.controls import ForcedBreaker
from netra_queue.core.message import Draft, Message, Priority
from netra_queue.core.policy import Policy
from netra_queue.core.wire import text_payload
from netra_queue.stores.base import Appended, Batch, Presence, Server, Store
from netra_queue.stores.database import DatabaseStore
from netra_queue.stores.memory import MemoryStore

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HERE = Server(id="server-1", host="here", pid=1)
THERE = Server(id="server-2", host="there", pid=2)
_numbers = itertools.count(1)


ADMINS: Any = ["operators@example.com"] if VERSION >= (6,) else [("Operators", "operators@example.com")]


def make_policy(**changes: Any) -> Policy:
    """The default policy with these values changed."""
    return replace(conf.policy("default"), **changes)


def make_draft(
    queue: str = "user.1",
    text: str = '{"n":1}',
    *,
    id: str | None = None,
    priority: Priority = Priority.NORMAL,
    ttl: float = 3600,
    **options: Any,
) -> Draft:
    """``options``: further fields of a Draft."""
    id = id or f"{next(_numbers):032x}"
    return Draft(queue=queue, id=id, payload=text_payload(text), priority=priority, ttl_seconds=ttl, **options)


def make_message(
    position: int = 0, *, id: str | None = None, text: str = '{"n":1}', priority: Priority = Priority.NORMAL
) -> Message:
    id = id or f"{next(_numbers):032x}"
    return Message(position=position, id=id, payload=text_payload(text), priority=priority, created_at=NOON)


def make_presence(queue: str = "user.1", *, server: Server = HERE, policy: str = "", id: str | None = None) -> Presence:
    return Presence(id=id or f"{next(_numbers):032x}", queue=queue, server=server, policy=policy)


def put(store: Store, *drafts: Draft, policy: Policy | None = None) -> list[Appended]:
    """Append these drafts, with one policy for all of their queues."""
    chosen = policy or make_policy()
    return store.append(drafts, {draft.queue: chosen for draft in drafts})


def get(
    store: Store,
    queue: str = "user.1",
    *,
    limit: int = 1000,
    max_bytes: int = 10**9,
    without: Iterable[int] = (),
    **wanted: Any,
) -> Batch:
    """One read of one queue. ``wanted``: further fields of the ReadRequest."""
    (batch,) = store.read([(queue, ReadRequest(limit, max_bytes, frozenset(without), **wanted))])
    return batch


def ids(batch: Batch) -> list[str]:
    return [message.id for message in batch.messages]


class _Advancing:
    """A store whose time a test can move on."""

    shift = timedelta()

    def advance(self, seconds: float) -> None:
        self.shift += timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self.shift  # type: ignore[misc,no-any-return]


class AdvancingMemoryStore(_Advancing, MemoryStore): ...


class AdvancingDatabaseStore(_Advancing, DatabaseStore): ...


AdvancingStore = AdvancingMemoryStore | AdvancingDatabaseStore


class Oops(Exception):
    """What the caller's code raises."""


@contextmanager
def rolled_back(using: str) -> Iterator[None]:
    """A transaction of the caller's that ends with an error of the caller's."""
    try:
        with transaction.atomic(using=using):
            yield
            raise Oops
    except Oops:
        pass


def force_breaker(store: Store, is_open: bool | None, seconds: float = 60) -> None:
    """As an operator does, in force in this process at once. None: it does what the store shows."""
    forced = None if is_open is None else ForcedBreaker(is_open, datetime.now(UTC) + timedelta(seconds=seconds))
    operating.carry_out(operating.breaker_forced(forced))
    controls.refresh(store)
