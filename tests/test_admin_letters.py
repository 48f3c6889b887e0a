"""Dead letters in the admin: who sees what, and what the actions do."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from netra_queue import letters
from netra_queue.admin import letters as letters_admin
from netra_queue.exceptions import StoreUnavailable
from netra_queue.models import DeadLetter, Queue, queue_id
from netra_queue.stores import current_store
from netra_queue.stores.base import Returned
from tests.making import get, make_draft, make_policy, put
from tests.test_admin import login, rows_of, show, statements, superuser, url_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.test_admin")]
POLICY = make_policy(max_deliveries=2)


@pytest.fixture(autouse=True)
def policies(settings: Any) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"DEAD_LETTERS": ["dead", "expired"]}}}


def set_aside(*queues: str, text: str = '{"n":1}') -> list[str]:
    """A message that was delivered too often in each of these queues. Returns the letters' primary keys."""
    store = current_store()
    for queue in queues:
        store.ensure([queue])
        (answer,) = put(store, make_draft(queue, text=text))
        assert answer.position is not None
        store.returned([Returned(queue, (answer.position,), True, POLICY)] * 2)
    return [str(pk) for pk in DeadLetter.objects.order_by("pk").values_list("pk", flat=True)]


def act(client: Client, action: str, keys: list[str], **fields: str) -> Any:
    data = {"action": action, "_selected_action": keys, **fields}
    return client.post(url_of(DeadLetter), data, follow=True)


def test_a_list_needs_its_view_permission() -> None:
    assert login().get(url_of(DeadLetter)).status_code == 403
    assert login("view_deadletter").get(url_of(DeadLetter)).status_code == 200


def test_the_list_and_its_filters() -> None:
    set_aside("user.1", "user.2", "user.1")
    DeadLetter.objects.filter(queue_id=queue_id("user.2")).update(reason="expired")
    client = superuser()
    assert [letter.known_queue for letter in rows_of(client, DeadLetter)] == ["user.1", "user.2", "user.1"]
    assert len(rows_of(client, DeadLetter, "?q=user.1")) == 2
    assert len(rows_of(client, DeadLetter, f"?queue={queue_id('user.1')}")) == 2
    assert [letter.known_queue for letter in rows_of(client, DeadLetter, "?reason=expired")] == ["user.2"]
    assert len(rows_of(client, DeadLetter, "?reason=nonsense")) == 3
    assert client.get(url_of(DeadLetter), {"payload__contains": "n"}).status_code == 400


def test_nobody_adds_changes_or_deletes_rows_beside_the_store() -> None:
    (key,) = set_aside("user.1")
    client = superuser()
    assert client.get(url_of(DeadLetter, "add")).status_code == 403
    assert client.post(url_of(DeadLetter, "delete", key), {"post": "yes"}).status_code == 403
    assert client.post(url_of(DeadLetter, "change", key), {"reason": "x"}).status_code == 403
    assert "delete_selected" not in show(client, DeadLetter)


def test_the_payload_needs_a_permission_of_its_own() -> None:
    (key,) = set_aside("user.1", text='{"secret":"<b>"}')
    url = url_of(DeadLetter, "change", key)
    assert "secret" not in login("view_deadletter").get(url).content.decode()
    page = login("view_deadletter", "view_payload").get(url).content.decode()
    assert "{&quot;secret&quot;:&quot;&lt;b&gt;&quot;}</textarea>" in page


def test_lists_load_no_payloads_and_ask_as_often_for_many_rows() -> None:
    client = superuser()
    set_aside("user.1", "user.2")
    with statements() as few:
        rows_of(client, DeadLetter)
    set_aside(*(f"other.{number}" for number in range(20)))
    with statements() as many:
        rows_of(client, DeadLetter)
    assert len(few) == len(many)
    assert not any('"payload"' in sql for sql in many)
    assert all("LIMIT" in sql for sql in many if "COUNT(" in sql)


def test_a_letter_whose_queue_has_no_row() -> None:
    (key,) = set_aside("user.1")
    Queue.objects.all().delete()
    client = superuser()
    assert f"#{queue_id('user.1')}" in show(client, DeadLetter)
    assert "Requeued 0 dead letters." in act(client, "requeue", [key], confirmed="yes").content.decode()


class TestRequeue:
    def test_it_asks_first(self) -> None:
        keys = set_aside("user.1", "user.2")
        client = login("view_deadletter", "requeue_deadletter")
        page = act(client, "requeue", keys).content.decode()
        assert page.count('name="_selected_action"') == 2
        assert 'name="confirmed" value="yes"' in page
        assert "user.2" in page
        assert DeadLetter.objects.count() == 2

    def test_confirmed_it_puts_them_back(self) -> None:
        first, second = set_aside("user.1", "user.2")
        client = login("view_deadletter", "requeue_deadletter")
        page = act(client, "requeue", [first], confirmed="yes").content.decode()
        assert "Requeued 1 dead letters." in page
        assert len(get(current_store(), "user.1").messages) == 1
        assert [str(pk) for pk in DeadLetter.objects.values_list("pk", flat=True)] == [second]
        assert LogEntry.objects.get().change_message == "Requeued."

    def test_it_needs_its_permission(self) -> None:
        keys = set_aside("user.1")
        act(login("view_deadletter", "delete_deadletter"), "requeue", keys, confirmed="yes")
        assert get(current_store(), "user.1").messages == ()

    def test_what_is_refused_is_said(self, settings: Any) -> None:
        keys = set_aside("user.1")
        settings.NETRA_QUEUE = {"POLICIES": {"default": {"MAX_MESSAGE_BYTES": 1}}}
        page = act(superuser(), "requeue", keys, confirmed="yes").content.decode()
        assert "1 stay: their queues have no room for them." in page
        assert LogEntry.objects.get().change_message == "Refused: its queue has no room."

    def test_a_store_that_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = set_aside("user.1")

        def fails(numbers: object) -> None:
            raise StoreUnavailable("it is away")

        client = superuser()
        monkeypatch.setattr(letters, "requeue", fails)
        monkeypatch.setattr(letters, "delete", fails)
        for action in ("requeue", "delete_letters"):
            assert "it is away" in act(client, action, keys, confirmed="yes").content.decode()
        assert LogEntry.objects.count() == 2


class TestDelete:
    def test_it_asks_first_and_then_deletes(self) -> None:
        first, second = set_aside("user.1", "user.2")
        client = login("view_deadletter", "delete_deadletter")
        assert 'name="confirmed" value="yes"' in act(client, "delete_letters", [first]).content.decode()
        assert DeadLetter.objects.count() == 2
        assert "Deleted 1 dead letters." in act(client, "delete_letters", [first], confirmed="yes").content.decode()
        assert [str(pk) for pk in DeadLetter.objects.values_list("pk", flat=True)] == [second]

    def test_it_needs_its_permission(self) -> None:
        keys = set_aside("user.1")
        act(login("view_deadletter", "requeue_deadletter"), "delete_letters", keys, confirmed="yes")
        assert DeadLetter.objects.count() == 1

    def test_a_page_takes_a_bounded_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(letters_admin, "AT_ONCE", 2)
        keys = set_aside("user.1", "user.2", "user.3")
        act(superuser(), "delete_letters", keys, confirmed="yes")
        assert [str(pk) for pk in DeadLetter.objects.values_list("pk", flat=True)] == keys[2:]
