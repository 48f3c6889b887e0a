"""The admin: what each permission opens, and what the lists ask of the database."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path, reverse

from netra_queue.admin import base, figures, messages
from netra_queue.admin.queue_actions import ACTIONS
from netra_queue.core.message import Priority
from netra_queue.models import Group, LiveConnection, Membership, Message, Queue, ServerProcess, queue_id
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from tests.making import HERE, make_draft, make_policy, make_presence, put

urlpatterns = [path("admin/", admin.site.urls)]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]
MODELS = [Queue, Message, ServerProcess, LiveConnection, Group, Membership]


@pytest.fixture
def store() -> Store:
    return current_store()


def login(*codenames: str) -> Client:
    """A member of staff with these permissions of ours."""
    user = User.objects.create_user(f"operator-{User.objects.count()}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="netra_queue", codename__in=codenames))
    assert user.user_permissions.count() == len(codenames)
    client = Client()
    client.force_login(user)
    return client


def superuser() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def url_of(model: Any, page: str = "changelist", *arguments: object) -> str:
    return reverse(f"admin:netra_queue_{model._meta.model_name}_{page}", args=arguments)


def show(client: Client, model: Any, query: str = "") -> str:
    response = client.get(url_of(model) + query)
    assert response.status_code == 200
    return html.unescape(response.content.decode())


def rows_of(client: Client, model: Any, query: str = "") -> list[Any]:
    response = client.get(url_of(model) + query)
    assert response.status_code == 200
    return list(response.context["cl"].result_list)


def known(store: Store, *names: str) -> None:
    store.ensure(names)


def ask(client: Client, model: Any, action: str, keys: Iterable[object], query: str = "", **fields: object) -> Any:
    """Choose an action in a list. Returns the page that asks."""
    data = {"action": action, "_selected_action": list(keys), "index": 0, **fields}
    return client.post(url_of(model) + query, data, follow=True)


def confirm(client: Client, question: Any, **fields: object) -> Any:
    """Answer the page that asks, or that shows progress, once. Returns what comes next."""
    return client.post(question.context["act_url"], {"job": question.context["token"], **fields}, follow=True)


def act(client: Client, model: Any, action: str, keys: Iterable[object], **fields: object) -> str:
    """Choose, confirm, and carry on until all is done. Returns the list that comes then, without entities."""
    page = finish(client, confirm(client, ask(client, model, action, keys), **fields))
    return html.unescape(page.content.decode())


def finish(client: Client, page: Any) -> Any:
    """Carry on, as the page that shows progress does by itself. Returns the one that comes then."""
    for _ in range(100):
        if "token" not in (page.context or {}):
            return page
        page = confirm(client, page)
    raise AssertionError("it does not end")


@contextmanager
def statements() -> Iterator[list[str]]:
    found: list[str] = []
    with CaptureQueriesContext(connection) as context:
        yield found
    sql = [query["sql"] for query in context.captured_queries if "netra_queue" in query["sql"]]
    found += [text for text in sql if "controlstate" not in text]  # which is asked for once in two seconds


# --- permissions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_list_needs_its_view_permission(model: Any) -> None:
    assert login().get(url_of(model)).status_code == 403
    assert login(f"view_{model._meta.model_name}").get(url_of(model)).status_code == 200


@pytest.mark.parametrize("model", MODELS)
def test_nobody_adds_changes_or_deletes_rows(model: Any, store: Store) -> None:
    put(store, make_draft())
    store.heartbeat(HERE)
    store.attach(make_presence(), make_policy())
    store.subscribe(["user.1"], "room.1")
    client, row = superuser(), model.objects.get()
    assert client.get(url_of(model, "add")).status_code == 403
    assert client.get(url_of(model, "delete", row.pk)).status_code == 403
    assert client.post(url_of(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    assert client.post(url_of(model, "change", row.pk), {"name": "other"}).status_code == 403
    assert client.get(url_of(model, "change", row.pk)).status_code == 200
    assert "delete_selected" not in show(client, model)
    assert list(model.objects.values()) == list(model.objects.filter(pk=row.pk).values())


def test_the_tables_have_no_permissions_that_nothing_asks_for() -> None:
    codenames = Permission.objects.filter(content_type__app_label="netra_queue").values_list("codename", flat=True)
    views = {f"view_{model._meta.model_name}" for model in MODELS}
    letters = {"view_deadletter", "requeue_deadletter", "delete_deadletter"}  # see test_admin_letters
    verbs = ("view", "add", "change", "delete")
    controls = {
        f"{verb}_{model}" for verb in verbs for model in ("queuepolicy", "policypattern")
    }  # test_admin_policies
    breaker = {"view_controlstate", "change_controlstate", "switch_off"}  # the same
    alerts = {"view_alert", "acknowledge_alert"}  # see test_admin_alerts
    acts = {action.permission.partition(".")[2] for action in ACTIONS}
    others = {"view_payload", "view_statistics", "view_dashboard"}
    assert set(codenames) == views | letters | controls | breaker | alerts | acts | others


def test_the_payload_needs_a_permission_of_its_own(store: Store) -> None:
    put(store, make_draft(text='{"secret":"<b>&"}'))
    url = url_of(Message, "change", Message.objects.get().pk)
    assert "secret" not in login("view_message").get(url).content.decode()
    page = login("view_message", "view_payload").get(url).content.decode()
    assert "{\n  &quot;secret&quot;: &quot;&lt;b&gt;&amp;&quot;\n}</textarea>" in page


@pytest.mark.parametrize("lookup", ["payload__contains", "payload__startswith", "messages__payload__contains"])
@pytest.mark.parametrize("model", [Message, Queue])
def test_addresses_cannot_ask_about_payloads(model: Any, lookup: str, store: Store) -> None:
    client = login("view_message", "view_queue", "view_payload")
    assert client.get(url_of(model), {lookup: "secret"}).status_code == 400


def test_a_long_payload_is_cut(store: Store) -> None:
    put(store, make_draft(text='"' + "x" * messages.PAYLOAD_LIMIT + 'the rest"'))
    client = superuser()
    page = client.get(url_of(Message, "change", Message.objects.get().pk)).content.decode()
    assert "the rest" not in page
    assert "… and 8 more characters" in page


# --- the list of queues --------------------------------------------------------------------------------------------


def test_the_queues_figures(store: Store) -> None:
    known(store, "user.2")
    put(store, make_draft(priority=Priority.LOW), make_draft(), make_draft("user.2"))
    store.heartbeat(HERE)
    store.attach(make_presence(policy="default"), make_policy())
    first, second = rows_of(superuser(), Queue)
    assert (first.name, first.policy, first.figures.depth_text, first.figures.is_connected) == (
        "user.1",
        "default",
        "2",
        True,
    )
    assert first.figures.oldest_at == store.stat("user.1").oldest_at
    assert (second.figures.depth, second.figures.is_connected, second.seen_at) == (1, False, None)


def test_a_depth_is_counted_up_to_a_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "DEPTH_LIMIT", 2)
    known(store, "user.1")
    put(store, *(make_draft() for _ in range(5)))
    (queue,) = rows_of(superuser(), Queue)
    assert queue.figures.depth_text == "2+"


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("user.1", ["user.1", "user.12"]),
        ("USER", []),
        ("ser.1", []),
        (" user.12 ", ["user.12"]),
        ("user_", ["user_1"]),
        ("%", []),
    ],
)
def test_queues_are_found_by_the_beginning_of_their_name(store: Store, term: str, expected: list[str]) -> None:
    known(store, "user.1", "user.12", "user.2", "user_1")
    response = superuser().get(url_of(Queue), {"q": term})
    assert [queue.name for queue in response.context["cl"].result_list] == expected


# --- the list of messages ------------------------------------------------------------------------------------------


def test_messages_newest_first_or_in_delivery_order_of_one_queue(store: Store) -> None:
    known(store, "user.1")
    put(store, make_draft(id="a"), make_draft("user.2", id="b"), make_draft(id="c", priority=Priority.HIGH))
    client = superuser()
    assert [row.uid for row in rows_of(client, Message)] == ["c", "b", "a"]
    for query in f"?queue={queue_id('user.1')}", "?q=user.1":
        assert [row.uid for row in rows_of(client, Message, query)] == ["c", "a"]
    assert [row.uid for row in rows_of(client, Message, "?q=user.1&priority=high")] == ["c"]
    assert rows_of(client, Message, "?q=user.404") == []


def test_a_search_that_is_refused_chooses_no_queue(store: Store) -> None:
    """Sorted by priority, it would sort the whole table."""
    put(store, make_draft(id="a"), make_draft("user.2", id="b", priority=Priority.HIGH), make_draft("user.3", id="c"))
    client = superuser()
    for query in "?q=%00", "?q=user%00.1", "?q=%00&priority=high":
        assert [row.uid for row in rows_of(client, Message, query)] == ["c", "b", "a"]


def test_the_priority_is_a_filter_within_a_queue_only(store: Store) -> None:
    put(store, make_draft(id="a"), make_draft(id="b", priority=Priority.HIGH))
    client = superuser()
    assert [row.uid for row in rows_of(client, Message, "?priority=high")] == ["b", "a"]
    assert "priority=high" not in show(client, Message)
    assert "priority=high" in show(client, Message, "?q=user.1")


def test_a_message_is_shown_while_its_queue_has_no_row(store: Store) -> None:
    put(store, make_draft())
    Queue.objects.all().delete()
    client = superuser()
    assert f"#{queue_id('user.1')}" in show(client, Message)
    assert f"#{queue_id('user.1')}" in show(client, Message, f"?queue={queue_id('user.1')}")
    page = client.get(url_of(Message, "change", Message.objects.get().pk)).content.decode()
    assert f"#{queue_id('user.1')}" in page


@pytest.mark.parametrize("id", ["x", "-1", str(2**63), "1.5", "\u0663"])
def test_an_impossible_queue_id_is_sent_back(id: str) -> None:
    response = superuser().get(url_of(Message), {"queue": id})
    assert (response.status_code, response.headers["Location"]) == (302, f"{url_of(Message)}?e=1")


# --- what the lists ask of the database ----------------------------------------------------------------------------

LISTS = [
    (Queue, ""),
    (Queue, "?q=user."),
    (Queue, "?connected=yes"),
    (Queue, "?o=2.-5"),
    (Queue, "?all="),
    (Queue, "?_facets=True"),
    (Message, "?q=user.1&_facets=True"),
    (Message, ""),
    (Message, "?q=user.1"),
    (Message, "?q=user.1&priority=normal"),
    (Message, "?o=5"),
    (ServerProcess, ""),
    (LiveConnection, ""),
]


def fill(store: Store, count: int) -> None:
    names = [f"user.{number}" for number in range(count)]
    known(store, *names)
    put(store, *(make_draft(name) for name in names for _ in range(2)))
    store.heartbeat(HERE)
    for name in names:
        store.attach(make_presence(name), make_policy())


@pytest.mark.parametrize(("model", "query"), LISTS)
def test_lists_count_nothing_without_a_limit_and_load_no_payloads(model: Any, query: str, store: Store) -> None:
    fill(store, 3)
    client = superuser()
    with statements() as found:
        rows_of(client, model, query)
    assert found
    for sql in found:
        assert '"payload"' not in sql
        if "COUNT(" in sql and "GROUP BY" not in sql:
            assert "LIMIT" in sql, sql
        if "ORDER BY" in sql:
            assert not any(column in sql.split("ORDER BY")[-1] for column in ('"policy"', '"size"', '"seen_at"'))


@pytest.mark.parametrize(("model", "query"), LISTS)
def test_lists_ask_as_often_for_many_rows_as_for_few(model: Any, query: str, store: Store) -> None:
    client = superuser()
    fill(store, 2)
    with statements() as few:
        rows_of(client, model, query)
    fill(store, 20)
    with statements() as many:
        rows_of(client, model, query)
    assert len(many) == len(few)


def test_a_page_that_lies_beyond_the_count_is_not_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "COUNT_LIMIT", 60)
    known(store, *(f"user.{number:03}" for number in range(120)))
    client = superuser()
    assert client.get(url_of(Queue)).context["cl"].result_count == 60
    assert len(rows_of(client, Queue)) == base.ROWS_PER_PAGE
    assert len(rows_of(client, Queue, "?all=")) == base.ROWS_PER_PAGE
    assert client.get(url_of(Queue), {"p": "3"}).status_code == 302


# --- servers and connections ---------------------------------------------------------------------------------------


def test_servers_and_their_connections(store: Store) -> None:
    store.heartbeat(HERE)
    store.attach(make_presence("user.1"), make_policy())
    client = superuser()
    (server,) = rows_of(client, ServerProcess)
    assert (server.is_alive, server.held) == (True, 1)
    (row,) = rows_of(client, LiveConnection)
    assert (row.known_queue, str(row.known_server)) == ("user.1", "here:1")
    ServerProcess.objects.update(heartbeat_at="2020-01-01T00:00Z")
    (server,) = rows_of(client, ServerProcess)
    assert not server.is_alive


# --- groups --------------------------------------------------------------------------------------------------------


def test_groups_and_their_members(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netra_queue.admin.groups.MEMBER_LIMIT", 2)
    known(store, "user.1", "user.2")
    store.subscribe(["user.1", "user.2"], "room.1")
    store.subscribe(["user.1", "user.2", "user.3"], "room.2")
    client = login("view_group", "view_membership")
    assert [(group.name, group.member_count) for group in rows_of(client, Group)] == [("room.1", 2), ("room.2", 3)]
    assert "more than 2" in show(client, Group, "?q=room.2")
    assert [group.name for group in rows_of(client, Group, "?q=room.1")] == ["room.1"]
    of_one = f"?group={Group.objects.get(name='room.1').pk}"
    for query in (of_one, "?q=room.1"):
        found = {(row.known_group, row.known_queue) for row in rows_of(client, Membership, query)}
        assert found == {("room.1", "user.1"), ("room.1", "user.2")}
    assert len(rows_of(client, Membership)) == 5
    assert f"#{queue_id('user.3')}" in show(client, Membership, "?q=room.2")
    assert client.get(url_of(Membership) + "?group=x").status_code == 302


def test_the_lists_of_groups_count_no_table_to_its_end(store: Store) -> None:
    store.subscribe(["user.1"], "room.1")
    client = login("view_group", "view_membership")
    for model in (Group, Membership):
        with statements() as found:
            show(client, model)
        counts = [sql for sql in found if "COUNT(" in sql]
        assert counts
        assert [sql for sql in counts if "LIMIT" not in sql] == []
