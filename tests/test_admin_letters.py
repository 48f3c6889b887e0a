"""Dead letters in the admin: who sees what, and what the actions do."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from netra_queue import letters
from netra_queue.admin import letters as letters_admin
from netra_queue.exceptions import StoreUnavailable
from netra_queue.models import DeadLetter, Queue, queue_id
from netra_queue.stores import current_store
from netra_queue.stores.base import Returned
from tests.making import get, make_draft, make_policy, put
from tests.test_admin import act, ask, confirm, login, rows_of, show, statements, superuser, url_of

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
    assert "{\n  &quot;secret&quot;: &quot;&lt;b&gt;&quot;\n}</textarea>" in page


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
    assert "Requeued 0 dead letters." in act(client, DeadLetter, "requeue", [key])


class TestRequeue:
    def test_it_asks_first(self) -> None:
        keys = set_aside("user.1", "user.2")
        page = ask(login("view_deadletter", "requeue_deadletter"), DeadLetter, "requeue", keys).content.decode()
        assert "2 are chosen." in page
        assert DeadLetter.objects.count() == 2

    def test_confirmed_it_puts_them_back(self) -> None:
        first, second = set_aside("user.1", "user.2")
        client = login("view_deadletter", "requeue_deadletter")
        assert "Requeued 1 dead letters." in act(client, DeadLetter, "requeue", [first])
        assert len(get(current_store(), "user.1").messages) == 1
        assert [str(pk) for pk in DeadLetter.objects.values_list("pk", flat=True)] == [second]
        assert LogEntry.objects.get().change_message == "Requeued."

    def test_it_needs_its_permission(self) -> None:
        keys = set_aside("user.1")
        client = login("view_deadletter", "delete_deadletter")
        assert "No action selected." in ask(client, DeadLetter, "requeue", keys).content.decode()
        assert client.get(url_of(DeadLetter, "act", "requeue"), {"only": keys[0]}).status_code == 403

    def test_what_is_refused_is_said(self, settings: Any) -> None:
        keys = set_aside("user.1")
        settings.NETRA_QUEUE = {"POLICIES": {"default": {"MAX_MESSAGE_BYTES": 1}}}
        assert "1 stay: their queues have no room for them." in act(superuser(), DeadLetter, "requeue", keys)
        assert LogEntry.objects.get().change_message == "Refused: its queue has no room."

    @pytest.mark.parametrize(("action", "verb"), [("requeue", "requeue"), ("delete_letters", "delete")])
    def test_a_store_that_is_away(self, action: str, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
        keys, client = set_aside("user.1"), superuser()

        def fails(numbers: object) -> None:
            raise StoreUnavailable("it is away")

        with monkeypatch.context() as patch:
            patch.setattr(letters, verb, fails)
            page = confirm(client, ask(client, DeadLetter, action, keys))
        assert "it is away" in page.content.decode()
        assert LogEntry.objects.get().change_message.endswith("it is away")
        assert "1 dead letters." in confirm(client, page).content.decode(), "it can be carried on"


class TestDelete:
    def test_it_asks_first_and_then_deletes(self) -> None:
        first, second = set_aside("user.1", "user.2")
        client = login("view_deadletter", "delete_deadletter")
        question = ask(client, DeadLetter, "delete_letters", [first])
        assert DeadLetter.objects.count() == 2
        assert "Deleted 1 dead letters." in confirm(client, question).content.decode()
        assert [str(pk) for pk in DeadLetter.objects.values_list("pk", flat=True)] == [second]

    def test_all_that_match_the_filter_in_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(letters_admin.Delete, "batch", 2)
        keys = set_aside("user.1", "user.1", "user.1", "user.2")
        client = superuser()
        question = ask(client, DeadLetter, "delete_letters", keys[:1], "?q=user.1", select_across="1")
        assert "3 are chosen." in question.content.decode()
        assert "Deleted 3 dead letters." in confirm(client, question).content.decode()
        assert [str(pk) for pk in DeadLetter.objects.values_list("pk", flat=True)] == keys[3:]
