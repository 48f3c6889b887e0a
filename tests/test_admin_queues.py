"""The list of queues by what they have most of, its filters, and the page of one queue."""

from __future__ import annotations

import html
import time
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import router
from django.utils import formats, timezone

from netra_queue import details, policies, wakeup
from netra_queue.admin import figures, queues, ranking
from netra_queue.core.message import Priority
from netra_queue.exceptions import StoreUnavailable
from netra_queue.models import LiveConnection, Loss, Message, Queue, ServerProcess, queue_id
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from netra_queue.stores.database import DatabaseStore
from netra_queue.stores.values import Detail
from tests.making import HERE, force_breaker, make_draft, make_policy, make_presence, put
from tests.test_admin import known, login, rows_of, show, statements, superuser, url_of

pytestmark = [pytest.mark.urls("tests.test_admin")]
in_sqlite = pytest.mark.django_db(transaction=True)


@pytest.fixture
def store() -> Store:
    return current_store()


@pytest.fixture
def each_store(database: str, monkeypatch: pytest.MonkeyPatch) -> DatabaseStore:
    """A store on each database, which the admin's questions go to as well."""
    store = DatabaseStore(database)
    monkeypatch.setattr(router, "db_for_read", lambda model, **hints: database)
    for module in (figures, ranking):
        monkeypatch.setattr(module, "current_store", lambda: store)
    return store


def fill(store: Store) -> None:
    """Messages: 3 in a, 2 in b, 1 in c, none in d. Losses: 1 in b, 2 in c. Connected: b."""
    known(store, "d")
    put(store, *(make_draft(name) for name, count in {"c": 1, "b": 2, "a": 3}.items() for _ in range(count)))
    known(store, "a", "b", "c")
    put(store, *(make_draft(name) for name in "bcc"), policy=make_policy(max_message_bytes=1))
    store.heartbeat(HERE)
    store.attach(make_presence("b"), make_policy())


def names(store: DatabaseStore, found: ranking.Ranking) -> str:
    known = Queue.objects.using(store.using).in_bulk(found.ids)
    return "".join(known[id].name for id in found.ids)


def test_each_measure_on_each_database(each_store: DatabaseStore) -> None:
    fill(each_store)
    assert names(each_store, ranking.ranking("depth", {})) == "abc"
    assert names(each_store, ranking.ranking("age", {})) == "cba", "in the order in which they were sent"
    assert names(each_store, ranking.ranking("lost", {})) == "cb"
    assert names(each_store, ranking.ranking("connected", {})) == "b"
    assert set(names(each_store, ranking.ranking("seen", {}))) == set("abcd")
    assert names(each_store, ranking.ranking(None, {"depth": "1", "lost": "yes", "connected": "no"})) == "c"
    assert names(each_store, ranking.ranking("lost", {"depth": "1", "connected": "yes"})) == "b"
    assert names(each_store, ranking.ranking(None, {"connected": "no"})) == "acd"
    assert names(each_store, ranking.ranking(None, {"age": "60"})) == ""


def test_of_many_messages_a_sample_is_looked_at(each_store: DatabaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "SCAN", 6)
    monkeypatch.setattr(ranking, "BLOCKS", 3)
    monkeypatch.setattr(ranking, "NEIGHBOURS", 2)
    put(each_store, *(make_draft("deep") for _ in range(40)))
    known(each_store, "deep", "lossy")
    put(each_store, make_draft("lossy"))
    put(each_store, make_draft("lossy"), policy=make_policy(max_message_bytes=1))
    found = ranking.ranking("depth", {})
    assert [each_store.stat(queue).messages for queue in ("deep", "lossy")] == [40, 1]
    assert found.ids == (queue_id("deep"), queue_id("lossy")), "the one by the sample, the other by its losses"
    assert "There are too many messages" in str(found.note)
    assert ranking.ranking("depth", {"depth": "100"}).ids == ()


def test_figures_on_each_database(each_store: DatabaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "DEPTH_LIMIT", 2)
    fill(each_store)
    found = figures.figures([queue_id(name) for name in "abcd"])
    texts = [(f.depth_text, f.size_text, f.connections, f.lost) for f in found.values()]
    assert texts == [("2+", "21+", 0, 0), ("2", "14", 1, 1), ("1", "7", 0, 2), ("0", "0", 0, 0)]
    assert found[queue_id("c")].oldest_at == each_store.stat("c").oldest_at
    assert found[queue_id("d")].oldest_at is None


# --- the list ------------------------------------------------------------------------------------------------------

COLUMNS = {"depth": 3, "age": 5, "connected": 6, "lost": 7, "seen": 9}


@pytest.mark.parametrize("sign", ["", "-"])
@in_sqlite
def test_a_columns_head_sorts_with_most_first(store: Store, sign: str) -> None:
    fill(store)
    client = superuser()
    page = show(client, Queue)
    for measure, column in COLUMNS.items():
        assert f'href="?o={column}' in page, measure
    assert [queue.name for queue in rows_of(client, Queue, f"?o={sign}{COLUMNS['depth']}")] == ["a", "b", "c"]
    assert [queue.name for queue in rows_of(client, Queue, f"?o={sign}{COLUMNS['lost']}&depth=1")] == ["c", "b"]
    assert [queue.name for queue in rows_of(client, Queue, "?o=2.nonsense.99")] == ["a", "b", "c", "d"]


@in_sqlite
def test_filters_and_the_search_together(store: Store) -> None:
    fill(store)
    client = superuser()
    assert [queue.name for queue in rows_of(client, Queue, "?depth=1&connected=no")] == ["a", "c"]
    assert [queue.name for queue in rows_of(client, Queue, "?q=b&depth=1")] == ["b"]
    assert [queue.name for queue in rows_of(client, Queue, "?q=b&depth=10")] == []
    assert [queue.name for queue in rows_of(client, Queue, "?depth=nonsense")] == ["a", "b", "c", "d"]
    assert client.get(url_of(Queue), {"policy": "x"}).status_code == 400
    assert client.get(url_of(Queue), {"depth": "1", "p": "9"}).status_code == 302
    ServerProcess.objects.update(heartbeat_at="2020-01-01T00:00Z")
    assert rows_of(client, Queue, "?connected=yes") == []


@in_sqlite
def test_a_page_of_a_ranking(store: Store) -> None:
    known(store, *(f"user.{number:03}" for number in range(120)))
    put(store, *(make_draft(f"user.{number:03}") for number in range(120)))
    client = superuser()
    first, third = (rows_of(client, Queue, f"?depth=1&p={page}") for page in (1, 3))
    assert (len(first), len(third)) == (50, 20)
    assert client.get(url_of(Queue), {"depth": "1"}).context["cl"].result_count == 120


@in_sqlite
def test_what_was_not_looked_at_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "SCAN", 2)
    monkeypatch.setattr(ranking, "JUDGED", 2)
    fill(store)
    client = superuser()
    assert "There are too many" in show(client, Queue, f"?o={COLUMNS['age']}")
    assert "Of the first 2 queues only" in show(client, Queue, "?connected=no")
    assert "Of the first 2 queues only" not in show(client, Queue)


@in_sqlite
def test_a_user_is_found_by_name_unless_a_queue_is(store: Store) -> None:
    user = User.objects.create_user("ada")
    known(store, f"user.{user.pk}", f"user.{user.pk}/phone", f"user.{user.pk}1", "ada.lovelace")
    client = superuser()
    assert [queue.name for queue in rows_of(client, Queue, "?q=ada")] == ["ada.lovelace"]
    Queue.objects.filter(name="ada.lovelace").delete()
    found = [queue.name for queue in rows_of(client, Queue, "?q=ada")]
    assert found == [f"user.{user.pk}", f"user.{user.pk}/phone"]
    assert rows_of(client, Queue, "?q=nobody") == []


@in_sqlite
def test_the_lists_columns(store: Store) -> None:
    fill(store)
    page = " ".join(show(superuser(), Queue, "?q=b").split())
    for text in ("default", "nothing else was chosen", 'class="field-lost">1<'):
        assert text in page


@pytest.mark.parametrize(
    "query", ["", "?o=3", "?o=5", "?o=7", "?depth=1&lost=yes&connected=no", "?q=user.&o=3", "?q=user.&connected=no"]
)
@in_sqlite
def test_lists_ask_as_often_for_many_queues(store: Store, query: str) -> None:
    client = superuser()
    counts = []
    for number in (2, 30):
        some = [f"user.{n}" for n in range(number)]
        known(store, *some)
        put(store, *(make_draft(name) for name in some))
        put(store, *(make_draft(name) for name in some), policy=make_policy(max_message_bytes=1))
        with statements() as found:
            assert rows_of(client, Queue, query)
        counts.append(len(found))
    assert counts[0] == counts[1] <= 14


# --- the page of one queue -----------------------------------------------------------------------------------------


def page_of(name: str, *codenames: str) -> str:
    response = login("view_queue", *codenames).get(url_of(Queue, "change", queue_id(name)))
    assert response.status_code == 200
    return " ".join(html.unescape(response.content.decode()).split())


def recipient(store: Store) -> None:
    """user.1 with a phone that is connected and a tablet that is not, what waits for them, and what was lost."""
    store.heartbeat(HERE)
    store.attach(make_presence("user.1/phone"), make_policy())
    gone = make_presence("user.1/tablet")
    store.attach(gone, make_policy())
    store.detach([gone])
    put(store, make_draft(), make_draft(priority=Priority.HIGH), make_draft(priority=Priority.HIGH))
    store.purge("user.1/tablet", 1, Priority.NORMAL)


@in_sqlite
def test_the_page_shows_devices_connections_and_losses(store: Store) -> None:
    recipient(store)
    page = page_of("user.1")
    for text in (">phone</a>", ">tablet</a>", "<td>here:1</td>", "<td>256</td><td>at most 3</td>"):
        assert text in page
    assert '<th scope="row">user.1/tablet</th><td>dropped</td><td>normal</td><td>1</td>' in page
    assert "<td>0</td> <td>2</td> <td>1</td> <td>0</td> <td>21</td>" in page.replace("</td><td>", "</td> <td>")


@in_sqlite
def test_the_page_of_a_device_is_about_that_alone(store: Store) -> None:
    recipient(store)
    page = page_of("user.1/tablet")
    assert "phone" not in page
    assert "user.1/tablet" in page
    assert "here:1" not in page


@in_sqlite
def test_a_silent_servers_connection_is_marked(store: Store) -> None:
    recipient(store)
    ServerProcess.objects.update(heartbeat_at="2020-01-01T00:00Z")
    assert "here:1 (silent)" in page_of("user.1")
    ServerProcess.objects.all().delete()
    assert f"<td>{HERE.id} (silent)</td>" in page_of("user.1")


@in_sqlite
def test_the_page_reads_no_queue_to_its_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    known(store, "user.1")
    put(store, *(make_draft() for _ in range(5)))
    monkeypatch.setattr("netra_queue.admin.recipient.DEPTH_LIMIT", 3)
    assert "<td>3+</td>" in page_of("user.1")


@in_sqlite
def test_the_page_asks_as_often_for_many_devices(store: Store) -> None:
    client, counts = superuser(), []
    known(store, "user.1")
    client.get(url_of(Queue, "change", queue_id("user.1")))  # content types and the like, once
    for number in (1, 12):
        for n in range(number):
            store.attach(make_presence(f"user.1/d{n}"), make_policy())
        put(store, make_draft())
        with statements() as found:
            assert client.get(url_of(Queue, "change", queue_id("user.1"))).status_code == 200
        counts.append(len(found))
    assert counts[0] == counts[1] <= 16


@in_sqlite
def test_the_page_looks_for_answers_a_bounded_number_of_times(store: Store) -> None:
    client, counts = superuser(), []
    recipient(store)
    client.get(url_of(Queue, "change", queue_id("user.1")))
    began = time.monotonic()
    for number in (1, 12):
        for n in range(number):
            store.attach(make_presence(f"user.1/d{n}"), make_policy())
        with statements() as found:
            client.get(url_of(Queue, "change", queue_id("user.1")))
        looks = [sql for sql in found if "told_at" in sql and "IN (" in sql]
        counts.append(len(found))
        assert 1 < len(looks) <= 3 + details.WAIT_SECONDS / details.LOOK_SECONDS
    assert max(counts) <= 16 + details.WAIT_SECONDS / details.LOOK_SECONDS
    assert time.monotonic() - began >= 2 * details.WAIT_SECONDS


@in_sqlite
def test_the_page_shows_what_servers_say_and_whether_it_is_of_now(store: Store) -> None:
    recipient(store)
    (phone,) = store.connected(["user.1/phone"], 10)
    assert "<td>not answered</td>" in page_of("user.1")
    acked_at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    said = Detail(connection=phone.id, window=77, unacked=5, acked_at=acked_at)

    def answer(lines: Collection[str]) -> None:
        assert lines == {"user.1/phone"}
        store.tell_details([said])

    wakeup.register_local(HERE.id, lambda queues: None, on_describe=answer)
    try:
        page = page_of("user.1")
    finally:
        wakeup.unregister_local(HERE.id)
    shown = formats.localize(timezone.localtime(acked_at))
    assert f"<td>77</td><td>5</td><td>{shown}</td> <td>now</td>" in page
    assert f"<td>{shown}</td> <td>0</td>" in page, "the line's last one"
    page = page_of("user.1")
    assert f"<td>77</td><td>5</td><td>{shown}</td>" in page
    assert "(not answered)</td>" in page, "what was said is shown with its time"


@in_sqlite
def test_the_last_ack_of_a_device_that_has_left(store: Store) -> None:
    acked_at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    gone = make_presence("user.1/phone")
    store.attach(gone, make_policy())
    store.detach([replace(gone, acked_at=acked_at)])
    assert f"<td>{formats.localize(timezone.localtime(acked_at))}</td> <td>0</td>" in page_of("user.1")


@in_sqlite
@pytest.mark.parametrize(
    ("rollout", "is_off", "expected"),
    [
        ({}, False, "durable: "),
        ({"SHADOW": True}, False, "shadow: "),
        ({"PERCENT": 0}, False, "outside of the rollout: "),
        ({}, True, "off: "),
    ],
)
def test_what_the_queue_is_to_the_store(
    store: Store, settings: Any, rollout: dict[str, Any], is_off: bool, expected: str
) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"ROLLOUT": rollout}}}
    known(store, "user.1")
    store.change_controls(lambda given: replace(given, is_off=is_off))
    policies.forget()
    try:
        assert f'<div class="readonly">{expected}' in page_of("user.1")
    finally:
        store.change_controls(lambda given: replace(given, is_off=False))
        policies.forget()


@in_sqlite
def test_the_page_while_the_store_does_not_answer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*given: object) -> None:
        raise StoreUnavailable("away")

    known(store, "user.1")
    monkeypatch.setattr(queues, "recipient", away)
    response = login("view_queue").get(url_of(Queue, "change", queue_id("user.1")), follow=True)
    assert response.redirect_chain == [(url_of(Queue), 302)]
    assert "he message store is unavailable: away" in response.content.decode()


@in_sqlite
def test_pages_and_lists_while_operators_hold_the_breaker_open(store: Store) -> None:
    recipient(store)
    client = superuser()
    force_breaker(store, True)
    try:
        assert ">phone</a>" in page_of("user.1")
        assert rows_of(client, Queue, "?connected=yes")
    finally:
        force_breaker(store, None)


@in_sqlite
def test_looking_changes_nothing(store: Store) -> None:
    recipient(store)
    tables = (Queue, Message, Loss, LiveConnection)
    before = [list(model.objects.order_by("pk").values()) for model in tables]
    client = superuser()
    page_of("user.1")
    show(client, Queue, "?o=3")
    show(client, Message, f"?queue={queue_id('user.1/phone')}&q=n")
    client.get(url_of(Message, "change", Message.objects.first().pk))  # type: ignore[union-attr]
    assert [list(model.objects.order_by("pk").values()) for model in tables] == before
