"""Plain messages in as few statements as there can be: PostgreSQL's functions, and columns as arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from netra_queue.core.message import Draft, Outcome
from netra_queue.stores import functions, seen
from netra_queue.stores.base import Appended, Presence
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

PHONE, TAB = "user.1/phone", "user.1/tab"
WEEK = 7 * 86_400
TEXTS = ('"', "\\", '\\"', "{}", "{,}", "NULL", "null", "", " ", "a\nb\tc", "ä", "🎈", "'", "%s", "$1", "\x00")


@pytest.fixture
def store(database: str) -> AdvancingDatabaseStore:
    seen.forget()
    return AdvancingDatabaseStore(database)


@pytest.fixture
def with_functions(store: AdvancingDatabaseStore) -> None:
    if connections[store.using].vendor != "postgresql":
        pytest.skip("functions are for PostgreSQL")
    assert functions.are_in(store.using)


@pytest.fixture
def without_functions(store: AdvancingDatabaseStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a database that was made without migrations."""
    with monkeypatch.context() as patch, connections[store.using].cursor() as cursor:
        if connections[store.using].vendor == "postgresql":
            cursor.execute(f"ALTER FUNCTION {functions.READ} RENAME TO netra_queue_gone")
        patch.setattr(functions, "_has_them", {})
        assert not functions.are_in(store.using)
        yield
        if connections[store.using].vendor == "postgresql":
            cursor.execute(f"ALTER FUNCTION netra_queue_gone RENAME TO {functions.READ}")


def send(store: AdvancingDatabaseStore, draft: Draft | None = None) -> tuple[Appended, list[str]]:
    """What became of it, and the statements that it took."""
    with CaptureQueriesContext(connections[store.using]) as queries:
        (appended,) = put(store, draft or make_draft())
    assert appended.outcome is Outcome.QUEUED
    return appended, [query["sql"] for query in queries]


def come(store: AdvancingDatabaseStore, line: str) -> Presence:
    store.heartbeat(HERE)
    presence = make_presence(line)
    store.attach(presence, make_policy())
    return presence


def test_a_plain_send_is_one_statement(store: AdvancingDatabaseStore, with_functions: None) -> None:
    come(store, PHONE)
    first, several = send(store)
    second, (one,) = send(store)
    assert len(several) > 1
    assert functions.PUT_ONE in one
    assert first.lines == second.lines == (PHONE,)
    assert second.servers == (HERE.id,)
    assert ids(get(store, PHONE)) == [first.id, second.id]


def test_it_goes_to_the_lines_that_there_are_now(store: AdvancingDatabaseStore) -> None:
    """Whatever the process remembers from before."""
    for _ in range(2):
        assert send(store)[0].lines == ("user.1",)
    phone = come(store, PHONE)
    for _ in range(3):
        assert send(store)[0].lines == (PHONE,)
    tab = come(store, TAB)
    for _ in range(3):
        assert send(store)[0].lines == (PHONE, TAB)
    store.detach([phone])
    store.advance(WEEK + 1)
    store.heartbeat(HERE)
    for _ in range(3):
        assert send(store)[0].lines == (TAB,)
    store.detach([tab])
    store.advance(WEEK + 1)
    for _ in range(3):
        assert send(store)[0].lines == ("user.1",)
    come(store, "user.1")
    come(store, PHONE)
    for _ in range(3):
        assert send(store)[0].lines == ("user.1", PHONE)
    for _ in range(3):
        assert send(store, make_draft(PHONE))[0].lines == (PHONE,)


def test_it_tells_who_holds_the_line_now(store: AdvancingDatabaseStore) -> None:
    """Where it has counted the queue as well, it does not say."""
    send(store)
    assert send(store)[0].servers == ()
    presences = [come(store, "user.1") for _ in range(2)]
    send(store)
    assert send(store)[0].servers == (HERE.id,)
    store.detach(presences)
    send(store)
    assert send(store)[0].servers == ()


def test_a_rollback_takes_it_back(store: AdvancingDatabaseStore) -> None:
    first, _ = send(store)
    with rolled_back(store.using):
        send(store)
    assert ids(get(store)) == [first.id]


def test_all_of_a_message_is_kept(store: AdvancingDatabaseStore) -> None:
    at, traceparent = store.now(), "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    later = {"traceparent": traceparent, "sent_at": at}
    drafts = [make_draft(**later), make_draft(**later)]
    for draft in drafts:
        send(store, draft)
    for draft, message in zip(drafts, get(store).messages, strict=True):
        assert (message.id, message.payload, message.priority) == (draft.id, draft.payload, draft.priority)
        assert (message.created_at, message.traceparent) == (at, traceparent)
    send(store, make_draft(not_before=store.now().replace(year=2100)))
    assert len(get(store).messages) == 2


@pytest.mark.parametrize("is_alike", [True, False])
def test_many_at_once_are_what_they_were(store: AdvancingDatabaseStore, is_alike: bool) -> None:
    """In their order, whatever characters are in them."""
    texts = [json.dumps(text, ensure_ascii=is_ascii) for text in TEXTS for is_ascii in (True, False)]
    queues = ["user.1"] if is_alike else ["user.1", "user.2"]
    drafts = [make_draft(queue, text) for text in texts for queue in queues]
    positions = [appended.position for appended in put(store, *drafts)]
    assert positions == sorted(positions, key=lambda position: position or 0)
    for queue in queues:
        messages = get(store, queue).messages
        assert [message.payload.text for message in messages] == texts
        assert [message.id for message in messages] == [draft.id for draft in drafts if draft.queue == queue]


def test_a_database_without_functions_does_the_same(store: AdvancingDatabaseStore, without_functions: None) -> None:
    come(store, PHONE)
    store.pause(["user.2"], None, "", "")
    sent = [send(store)[0] for _ in range(3)]
    send(store, make_draft("user.2"))
    assert [appended.lines for appended in sent] == [(PHONE,)] * 3
    without = get(store, PHONE, without=[sent[1].position or 0])
    assert ids(without) == [sent[0].id, sent[2].id]
    assert get(store, "user.2").is_paused
