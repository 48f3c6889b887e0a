"""Devices' lines in the database: shared payloads, and what happens at the same time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from functools import partial

import pytest
from django.db import OperationalError, transaction

from netra_queue.core.policy import Overflow
from netra_queue.exceptions import QueueFull
from netra_queue.models import Body, Message, queue_id
from netra_queue.stores import connecting, devices, removal
from netra_queue.stores.base import Appended
from tests.making import (
    HERE,
    AdvancingDatabaseStore,
    get,
    ids,
    make_draft,
    make_policy,
    make_presence,
    put,
    rolled_back,
)
from tests.waiting import together

PHONE, TAB = "user.1/phone", "user.1/tab"
DAY = 86_400


@pytest.fixture
def store(database: str) -> AdvancingDatabaseStore:
    store = AdvancingDatabaseStore(database)
    store.heartbeat(HERE)
    return store


@pytest.fixture
def concurrent_store(concurrent_database: str) -> AdvancingDatabaseStore:
    store = AdvancingDatabaseStore(concurrent_database)
    store.heartbeat(HERE)
    return store


def come(store: AdvancingDatabaseStore, *lines: str) -> None:
    for line in lines:
        store.attach(make_presence(line), make_policy())


def bodies(store: AdvancingDatabaseStore) -> int:
    return Body.objects.using(store.using).count()


def acked(store: AdvancingDatabaseStore, line: str, *positions: int) -> None:
    assert store.ack({line: positions}) == {}


class TestSharedPayloads:
    def test_one_line_has_its_payload_in_the_row(self, store: AdvancingDatabaseStore) -> None:
        come(store, PHONE)
        put(store, make_draft())
        assert bodies(store) == 0

    def test_several_lines_share_one(self, store: AdvancingDatabaseStore) -> None:
        come(store, PHONE, TAB)
        put(store, make_draft(text='"' + "x" * 1000 + '"'))
        assert bodies(store) == 1
        assert set(Message.objects.using(store.using).values_list("payload", flat=True)) == {""}

    def test_it_goes_with_the_last_row(self, store: AdvancingDatabaseStore) -> None:
        come(store, PHONE, TAB)
        put(store, make_draft())
        acked(store, PHONE, get(store, PHONE).messages[0].position)
        assert bodies(store) == 1
        acked(store, TAB, get(store, TAB).messages[0].position)
        assert bodies(store) == 0

    @pytest.mark.parametrize("way", ["sweep", "purge", "overflow", "attach", "expire_lines", "deliver_first"])
    def test_whatever_the_reason(self, store: AdvancingDatabaseStore, way: str) -> None:
        come(store, PHONE, TAB)
        put(store, make_draft(ttl=60, deliver_first=way == "deliver_first"))
        if way == "deliver_first":
            acked(store, PHONE, get(store, PHONE).messages[0].position)
        elif way == "purge":
            assert [store.purge(line, 10) for line in (PHONE, TAB)] == [1, 1]
        elif way == "overflow":
            put(store, make_draft(PHONE), make_draft(TAB), policy=make_policy(max_messages=1))
        elif way == "sweep":
            store.advance(61)
            assert store.sweep(10) == 2
        elif way == "attach":
            store.advance(61)
            come(store, PHONE, TAB)
        else:
            store.retire(HERE)
            store.advance(8 * DAY)
            store.expire_lines(10)  # what they had goes back to the queue itself, the last one's
            store.sweep(10)
        assert bodies(store) == 0

    def test_a_deadlock_in_between(self, store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is done after the commit has nobody to tell of an error: it is repeated."""
        look, errors = removal.unused_bodies, [OperationalError("database is locked")]

        def look_again(using: str, ids: Sequence[int]) -> list[int]:
            if errors:
                raise errors.pop()
            return look(using, ids)

        monkeypatch.setattr(removal, "unused_bodies", look_again)
        come(store, PHONE, TAB)
        put(store, make_draft())
        for line in (PHONE, TAB):
            acked(store, line, get(store, line).messages[0].position)
        assert not errors
        assert bodies(store) == 0

    def test_a_rollback_leaves_none(self, store: AdvancingDatabaseStore) -> None:
        come(store, PHONE, TAB)
        with rolled_back(store.using):
            put(store, make_draft())
        assert bodies(store) == 0

    def test_a_rejected_one_leaves_none(self, store: AdvancingDatabaseStore) -> None:
        come(store, PHONE, TAB)
        policy = make_policy(max_messages=1, overflow=Overflow.REJECT)
        put(store, make_draft(PHONE), policy=policy)
        with transaction.atomic(using=store.using), pytest.raises(QueueFull):
            put(store, make_draft(), policy=policy)
        assert bodies(store) == 0

    def test_large_payloads_to_many_lines(self, store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("netra_queue.stores.appending.INSERT_BYTES", 1000)
        lines = [f"user.1/d{number}" for number in range(20)]
        for line in lines:
            store.attach(make_presence(line), make_policy(max_lines=20))
        sent = [make_draft(text='"' + str(number) * 600 + '"') for number in range(3)]
        put(store, *sent)
        for line in lines:
            assert [message.payload for message in get(store, line).messages] == [draft.payload for draft in sent]
        assert bodies(store) == 3


class TestAtTheSameTime:
    def test_two_that_appear_take_each_message_once(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        for _ in range(5):
            sent = [make_draft() for _ in range(30)]
            queue = f"user.{random.randrange(10**9)}"
            put(store, *(make_draft(queue, id=draft.id) for draft in sent))
            lines = [f"{queue}/{name}" for name in ("a", "b", "c")]
            together(*(partial(store.attach, make_presence(line), make_policy()) for line in lines))
            store.take_over({line: make_policy() for line in lines})
            found = [ids(get(store, line)) for line in lines]
            assert sorted(itertools.chain(*found)) == sorted(draft.id for draft in sent)
            assert ids(get(store, queue)) == []

    def test_the_last_two_acks_leave_no_payload(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        come(store, PHONE, TAB)
        put(store, *(make_draft() for _ in range(50)))
        positions = {line: [message.position for message in get(store, line).messages] for line in (PHONE, TAB)}
        together(*(partial(acked, store, line, *of) for line, of in positions.items()))
        assert bodies(store) == 0

    def test_two_first_acks(self, concurrent_store: AdvancingDatabaseStore) -> None:
        store = concurrent_store
        come(store, PHONE, TAB)
        put(store, *(make_draft(deliver_first=True) for _ in range(50)))
        positions = {line: [message.position for message in get(store, line).messages] for line in (PHONE, TAB)}

        def ack(line: str) -> None:
            left = store.ack({line: positions[line]})
            while left:
                left = store.ack(left)

        together(partial(ack, PHONE), partial(ack, TAB))
        assert ids(get(store, PHONE)) == ids(get(store, TAB)) == []
        assert bodies(store) == 0

    def test_senders_and_devices_in_a_crowd(self, concurrent_store: AdvancingDatabaseStore) -> None:
        """Whatever the order: nothing is lost, and nothing deadlocks."""
        store = concurrent_store
        sent = [[make_draft() for _ in range(20)] for _ in range(3)]
        lines = [f"user.1/{name}" for name in ("a", "b", "c")]

        def send(drafts: list[object]) -> list[Appended]:
            return [put(store, draft)[0] for draft in drafts]  # type: ignore[arg-type]

        def visit(line: str) -> list[Appended]:
            for _ in range(5):
                presence = make_presence(line)
                store.attach(presence, make_policy())
                store.take_over({line: make_policy()})
                store.detach([presence])
            return []

        together(*(partial(send, drafts) for drafts in sent), *(partial(visit, line) for line in lines))
        store.take_over({lines[0]: make_policy()})
        found = {id for line in lines for id in ids(get(store, line))}
        assert found == {draft.id for drafts in sent for draft in drafts}
        assert ids(get(store)) == []

    @pytest.mark.parametrize("limit", [1000, 5])
    def test_reloads_and_senders_do_not_wait_in_circles(
        self, concurrent_store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch, limit: int
    ) -> None:
        """A client that reloads is attached and detached at the same time; senders to a full queue take turns at it.

        The lines' ids are on both sides of their queue's.
        """
        store, repeated = concurrent_store, []
        is_transient = connecting._is_transient
        monkeypatch.setattr(connecting, "_is_transient", lambda error: (repeated.append(error), is_transient(error))[1])
        names = [f"user.1/{letter}" for letter in "abcdefghijklmnop"]
        below = [name for name in names if queue_id(name) < queue_id("user.1")]
        lines = [*below[:2], *(name for name in names if name not in below[:2])][:3]
        come(store, *lines)
        repeated.clear()  # the first ones, who make the rows

        def visit(line: str) -> None:
            for _ in range(20):
                presence = make_presence(line)
                store.attach(presence, make_policy())
                store.linger([(presence, 5)])
                store.detach([presence])

        def send() -> None:
            for _ in range(20):
                put(store, make_draft(), policy=make_policy(max_messages=limit))

        together(*(partial(visit, line) for line in lines for _ in range(2)), send, send)
        assert repeated == []

    def test_the_last_two_that_are_forgotten_leave_their_messages(
        self, concurrent_store: AdvancingDatabaseStore
    ) -> None:
        store = concurrent_store
        for number in range(20):
            queue = f"user.{number}"
            lines = [f"{queue}/phone", f"{queue}/tab"]
            come(store, *lines)
            put(store, draft := make_draft(queue))
            together(*(partial(store.forget_line, line, make_policy()) for line in lines))
            assert ids(get(store, queue)) == [draft.id]

    def test_a_client_that_comes_back_while_its_line_expires(
        self, store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        come(store, TAB)
        presence = make_presence(PHONE)
        store.attach(presence, make_policy())
        store.detach([presence])
        put(store, draft := make_draft(ttl=30 * DAY))
        store.advance(8 * DAY)
        find = devices.old_lines

        def find_late(*arguments: object) -> object:
            found = find(*arguments)  # type: ignore[arg-type]
            come(store, PHONE)
            return found

        monkeypatch.setattr(devices, "old_lines", find_late)
        store.expire_lines(10)
        assert ids(get(store, PHONE)) == [draft.id]
        assert put(store, make_draft())[0].lines == (PHONE, TAB)


def test_an_ack_of_two_lines_at_once_does_not_mix_them(store: AdvancingDatabaseStore) -> None:
    come(store, PHONE, TAB)
    put(store, draft := make_draft())
    phone, tab = (get(store, line).messages[0].position for line in (PHONE, TAB))
    assert store.ack({PHONE: [tab], TAB: [phone]}) == {}
    assert ids(get(store, PHONE)) == ids(get(store, TAB)) == [draft.id]
