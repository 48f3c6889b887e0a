"""Text in the payloads of one queue: who may search, what is found, and that nothing hidden is told."""

from __future__ import annotations

from typing import Any

import pytest

from netra_queue.admin import searching
from netra_queue.core.message import Draft, Priority
from netra_queue.core.wire import bytes_payload
from netra_queue.models import DeadLetter, Message, Queue, queue_id
from netra_queue.redaction import HIDDEN
from netra_queue.stores import current_store
from netra_queue.stores.base import Returned, Store
from tests.making import make_draft, make_policy, make_presence, put
from tests.test_admin import known, login, rows_of, show, statements, superuser, url_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.test_admin")]
HERE = f"?queue={queue_id('user.1')}"


def without_card(queue: str, data: Any) -> Any:
    return {**data, "card": "…"}


def fails(queue: str, data: Any) -> Any:
    raise ValueError(str(data))


@pytest.fixture
def store() -> Store:
    return current_store()


def reader() -> Any:
    return login("view_message", "view_payload")


def found(query: str, client: Any = None) -> list[str]:
    return [row.uid for row in rows_of(client or reader(), Message, f"{HERE}&q={query}")]


def test_text_is_found_in_delivery_order_whatever_its_case(store: Store) -> None:
    known(store, "user.1")
    put(store, make_draft(id="a", text='{"name":"Jörg"}'), make_draft(id="b", text='{"name":"Anna"}'))
    put(store, make_draft(id="c", text='{"name":"JÖRG"}', priority=Priority.HIGH), make_draft("user.2", id="d"))
    assert found("jörg") == ["c", "a"]
    assert found("nobody") == []
    assert [row.uid for row in rows_of(reader(), Message, f"{HERE}&q=jörg&priority=high")] == ["c"]


def test_text_escaped_in_the_store_shared_payloads_and_bytes(store: Store) -> None:
    for line in ("user.1/phone", "user.1/tab"):
        store.attach(make_presence(line), make_policy())
    put(store, make_draft(text='{"name":"J\\u00f6rg"}'))
    payload = bytes_payload(b"binary text")
    put(store, Draft(queue="user.1/phone", id="b" * 32, payload=payload, priority=Priority.LOW, ttl_seconds=60))
    client = superuser()
    page = f"?queue={queue_id('user.1/phone')}"
    assert len(rows_of(client, Message, f"{page}&q=jörg")) == 1
    assert [row.uid for row in rows_of(client, Message, f"{page}&q=binary text")] == ["b" * 32]


def test_only_what_is_shown_is_searched(store: Store, settings: Any) -> None:
    settings.NETRA_QUEUE = {"REDACT": f"{__name__}.without_card"}
    known(store, "user.1")
    put(store, make_draft(id="a", text='{"name":"Anna","card":"4711"}'))
    assert found("4711") == []
    client = reader()
    assert found("anna", client) == ["a"]
    page = client.get(url_of(Message, "change", Message.objects.get().pk)).content.decode()
    assert "Anna" in page
    assert "4711" not in page


def test_a_hook_that_fails_shows_nothing_of_messages_and_letters(store: Store, settings: Any) -> None:
    settings.NETRA_QUEUE = {"REDACT": f"{__name__}.fails"}
    known(store, "user.1")
    position = put(store, make_draft(text='{"card":"4711"}'))[0].position
    client = superuser()
    pages = [client.get(url_of(Message, "change", Message.objects.get().pk)).content.decode()]
    store.returned([Returned("user.1", (position or 0,), True, make_policy(max_deliveries=2))] * 2)
    pages.append(client.get(url_of(DeadLetter, "change", DeadLetter.objects.get().pk)).content.decode())
    for page in pages:
        assert HIDDEN in page
        assert "4711" not in page


def test_who_may_not_see_payloads_may_not_search_in_them(store: Store) -> None:
    known(store, "user.1")
    put(store, make_draft(text='{"card":"4711"}'))
    client = login("view_message")
    assert found("4711", client) == []
    assert "one must be allowed to see them" in show(client, Message, f"{HERE}&q=4711")
    assert "Text in the payloads" not in show(client, Message, HERE)
    assert "Text in the payloads" in show(superuser(), Message, HERE)


@pytest.mark.parametrize(("limit", "value"), [("MOST_MESSAGES", 2), ("MOST_BYTES", 15)])
def test_it_ends_somewhere_and_says_so(store: Store, limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, limit, value)
    known(store, "user.1")
    put(store, *(make_draft(id=name) for name in "abc"))
    client = superuser()
    assert found("n", client) == ["a", "b"]
    assert "Only the first 2 messages of the queue were searched." in show(client, Message, f"{HERE}&q=n")


def test_a_search_asks_as_often_for_many_messages(store: Store) -> None:
    client = superuser()
    known(store, "user.1")
    counts = []
    for number in (2, 30):
        put(store, *(make_draft() for _ in range(number)))
        with statements() as asked:
            assert found("n", client)
        counts.append(len(asked))
    assert counts[0] == counts[1] <= 10


def test_a_queue_without_a_row(store: Store) -> None:
    put(store, make_draft(id="a"))
    Queue.objects.all().delete()
    assert found("n") == ["a"]
