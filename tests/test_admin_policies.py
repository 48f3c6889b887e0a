"""Policies and patterns in the admin: what is refused, what is written, and what the history says."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import path

from netra_queue import conf, controls, operating, policies
from netra_queue.core.breaker import BreakerState
from netra_queue.core.policy import Policy
from netra_queue.models import ControlState, PolicyPattern, Queue, QueuePolicy, queue_id
from netra_queue.stores import current_store
from netra_queue.stores.guarded import current_guard
from tests.making import make_policy, make_presence
from tests.test_admin import login, superuser, url_of

urlpatterns = [path("admin/", admin.site.urls)]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls(__name__)]
EMPTY = dict.fromkeys(conf.POLICY_DEFAULTS, "")
DIGEST = "netra_queue.maintenance.purge"


@pytest.fixture(autouse=True)
def begin_anew(settings: Any) -> Iterator[None]:
    settings.NETRA_QUEUE = {
        "POLICIES": {
            "default": {"WINDOW": 64},
            "loud": {"ON_UNDELIVERED": DIGEST, "MAX_MESSAGE_BYTES": 5000, "MAX_BYTES": 9000},
        }
    }
    yield
    policies.forget()


def save(client: Client, model: Any, key: str | None = None, **values: Any) -> str:
    """Post the form of a new row, or of the row with this key. Returns the page that comes then."""
    url = url_of(model, "add") if key is None else url_of(model, "change", key)
    empty = EMPTY if model is QueuePolicy else {}
    response = client.post(url, {**empty, **values}, follow=True)
    assert response.status_code == 200
    return html.unescape(response.content.decode())


def page(client: Client, model: Any, *arguments: object) -> str:
    response = client.get(url_of(model, *arguments))
    assert response.status_code == 200
    return html.unescape(response.content.decode())


def in_force(queue: str) -> Policy:
    return policies.of(current_store(), [queue])[queue]


def history(client: Client, model: Any, key: str) -> str:
    return page(client, model, "history", key)


def test_each_model_has_permissions_of_its_own() -> None:
    for model in (QueuePolicy, PolicyPattern):
        name = model._meta.model_name
        assert login().get(url_of(model)).status_code == 403
        assert login(f"view_{name}").get(url_of(model)).status_code == 200
        assert login(f"view_{name}").get(url_of(model, "add")).status_code == 403
        assert login(f"add_{name}").get(url_of(model, "add")).status_code == 200
    save(superuser(), QueuePolicy, name="large", WINDOW="9")
    viewer = login("view_queuepolicy")
    assert viewer.post(url_of(QueuePolicy, "change", "large"), {**EMPTY, "WINDOW": "8"}).status_code == 403
    assert viewer.post(url_of(QueuePolicy, "delete", "large"), {"post": "yes"}).status_code == 403
    assert QueuePolicy.objects.get().values == '{"WINDOW": 9}'


def test_a_policy_is_made_changed_and_removed() -> None:
    client = login(*(f"{verb}_queuepolicy" for verb in ("view", "add", "change", "delete")))
    save(client, QueuePolicy, name="large", MAX_MESSAGES="5000", TTL='{"normal": 60}', OVERFLOW='"reject"')
    policy = conf.policy("large")
    assert (policy.max_messages, policy.window, policy.overflow.value) == (5000, 64, "reject")
    save(client, QueuePolicy, "large", MAX_MESSAGES="6000", OVERFLOW='"reject"')
    assert QueuePolicy.objects.get().values == '{"MAX_MESSAGES": 6000, "OVERFLOW": "reject"}'
    assert conf.policy("large").max_messages == 6000
    client.post(url_of(QueuePolicy, "delete", "large"), {"post": "yes"})
    policies.fresh_store()
    assert not QueuePolicy.objects.exists()
    assert [policy.name for policy in conf.policies()] == ["default", "loud"]


def test_the_history_says_from_what_to_what() -> None:
    client = superuser()
    save(client, QueuePolicy, name="large", MAX_MESSAGES="5000", UNDELIVERED_SECONDS="null")
    save(client, QueuePolicy, "large", MAX_MESSAGES="6000")
    text = history(client, QueuePolicy, "large")
    assert "MAX_MESSAGES: inherited → 5000; UNDELIVERED_SECONDS: inherited → null" in text
    assert "MAX_MESSAGES: 5000 → 6000; UNDELIVERED_SECONDS: null → inherited" in text
    assert "root" in text
    client.post(url_of(QueuePolicy, "delete", "large"), {"post": "yes"})
    assert LogEntry.objects.first().change_message == 'Deleted; it was {"MAX_MESSAGES": 6000}.'  # type: ignore[union-attr]
    save(client, QueuePolicy, name="large", WINDOW="1")
    assert "5000 → 6000" in history(client, QueuePolicy, "large"), "also of the one that was there before"


def test_the_form_shows_what_is_inherited_and_what_is_set() -> None:
    client = superuser()
    save(client, QueuePolicy, name="default", OVERFLOW='"reject"', UNDELIVERED_SECONDS="null")
    save(client, QueuePolicy, name="loud", DEAD_LETTERS="[]", OVERFLOW='"drop_newest"')
    text = page(client, QueuePolicy, "change", "loud")
    assert 'Inherited: 64 (settings, policy "default").' in text
    assert 'Inherited: 5000 (settings, policy "loud").' in text
    assert 'Inherited: "reject" (database, policy "default").' in text
    assert "Inherited: 25 (built in)." in text
    assert 'name="DEAD_LETTERS" value="[]"' in text
    assert 'value=""drop_newest"" selected' in text
    assert "settings, policy" in page(client, QueuePolicy), "the list says what is in force"
    assert 'Inherited: 5000 (settings, policy "loud")' in html.unescape(
        client.get(url_of(QueuePolicy, "add") + "?name=loud").content.decode()
    )


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("large", {"WINDOW": "0"}, "WINDOW: expected a whole number above 0, got 0"),
        ("large", {"WINDOW": "1.5"}, "WINDOW: expected a whole number above 0, got 1.5"),
        ("large", {"MAX_MESSAGES": "1" + "0" * 30}, "MAX_MESSAGES: expected at most"),
        ("large", {"TTL": "soon"}, "Expected JSON, for example 86400"),
        ("large", {"TTL": "NaN"}, "Expected JSON"),
        ("large", {"TTL": "[" * 100_000}, "Expected JSON"),
        ("large", {"TTL": '{"urgent": 5}'}, "unknown priorities ['urgent']"),
        ("large", {"OVERFLOW": '"explode"'}, "'explode' is not a valid Overflow"),
        ("large", {"REPLAY": '{"NEWEST": 1, "DIGEST": "os.system"}'}, "not among the callables that the settings name"),
        ("large", {"ON_UNDELIVERED": '"os.system"'}, "not among the callables that the settings name"),
        ("x" * 101, {}, "at most 100 characters"),
        ("default", {"MAX_BYTES": "4000"}, "MAX_MESSAGE_BYTES is larger than MAX_BYTES"),
        ("default", {"MAX_MESSAGE_BYTES": "10", "MAX_BYTES": "0"}, "MAX_BYTES: expected"),
    ],
)
def test_what_is_impossible_is_refused(name: str, values: dict[str, str], text: str) -> None:
    assert text in save(superuser(), QueuePolicy, name=name, **values)
    assert not QueuePolicy.objects.exists()
    assert not LogEntry.objects.exists()


def test_what_would_break_another_policy_is_refused() -> None:
    client = superuser()
    save(client, QueuePolicy, name="default", MAX_BYTES="20000000")
    save(client, QueuePolicy, name="huge", MAX_MESSAGE_BYTES="10000000")
    text = save(client, QueuePolicy, "default", MAX_BYTES="9000000")
    assert "policy 'huge'" in text or "MAX_MESSAGE_BYTES is larger than MAX_BYTES" in text
    response = client.post(url_of(QueuePolicy, "delete", "default"), {"post": "yes"}, follow=True)
    assert "larger than MAX_BYTES" in html.unescape(response.content.decode())
    assert conf.policy("huge").max_bytes == 20_000_000
    assert QueuePolicy.objects.count() == 2


def test_what_another_operator_has_changed_meanwhile_stays() -> None:
    """The form knows what it has changed, and writes that alone."""
    client = superuser()
    save(client, QueuePolicy, name="large", WINDOW="9", MAX_LINES="3")
    before = QueuePolicy.objects.get()
    given = {**EMPTY, "name": "large", "WINDOW": "8", "MAX_LINES": "3"}
    form = admin.site.get_model_admin(QueuePolicy).form(given, instance=before)
    assert form.is_valid(), form.errors
    operating.carry_out(operating.policy_changed("large", {"MAX_LINES": 4}))
    operating.carry_out(form.change())
    assert QueuePolicy.objects.get().values == '{"WINDOW": 8, "MAX_LINES": 4}'


def test_a_row_that_no_store_has_written_can_be_put_right() -> None:
    QueuePolicy.objects.create(name="large", values="{", changed_at="2026-01-01T00:00Z")
    operating.carry_out(operating.policy_changed("other", {}))
    client = superuser()
    assert "expected a JSON object, got '{'" in page(client, QueuePolicy, "change", "large")
    assert "icon-no" in page(client, QueuePolicy)
    save(client, QueuePolicy, "large", WINDOW="9")
    assert QueuePolicy.objects.get(name="large").values == '{"WINDOW": 9}'


def test_patterns() -> None:
    client = superuser()
    assert "expected letters of a queue's name" in save(
        client, PolicyPattern, pattern="user.(1|2)", place="1", policy="loud"
    )
    save(client, PolicyPattern, pattern="user.*", place="10", policy="loud")
    assert 'value="20"' in page(client, PolicyPattern, "add"), "the next one's place"
    save(client, PolicyPattern, pattern="user.4?", place="5", policy="default")
    assert [in_force(queue).name for queue in ("user.1", "user.42", "room.1")] == ["loud", "default", "default"]
    save(client, PolicyPattern, "user.4?", place="15", policy="default")
    assert in_force("user.42").name == "loud"
    assert "place: 5 → 15" in history(client, PolicyPattern, "user.4?")
    save(client, QueuePolicy, name="new", WINDOW="5")
    save(client, PolicyPattern, "user.4?", place="1", policy="new")
    assert in_force("user.42/phone").window == 5
    response = client.post(url_of(QueuePolicy, "delete", "new"), {"post": "yes"}, follow=True)
    assert "there is no policy 'new'" in html.unescape(response.content.decode()), "a pattern names it"
    client.post(url_of(PolicyPattern, "delete", "user.4?"), {"post": "yes"})
    assert in_force("user.42").name == "loud"


def test_a_queues_page_says_which_policy_and_why(settings: Any) -> None:
    store, client = current_store(), superuser()
    store.attach(make_presence("user.1", policy="loud"), make_policy())
    store.attach(make_presence("user.2", policy="gone"), make_policy())
    store.attach(make_presence("user.3", policy=""), make_policy())
    reasons = {
        "user.1": "the consumer's queue_policy",
        "user.2": "the consumer's queue_policy, which names 'gone'; there is no such policy",
        "user.3": "nothing else was chosen",
    }
    for name, reason in reasons.items():
        assert f"{reason}</div>" in page(client, Queue, "change", queue_id(name))
    operating.carry_out(operating.pattern_set("*.1", "default", 1))
    text = page(client, Queue, "change", queue_id("user.1"))
    assert "an operator's pattern, *.1" in text
    assert '<th>WINDOW</th><td>64</td><td>settings, policy "default"</td>' in text
    assert controls.current().rules


class TestBreaker:
    def test_forced_and_let_go_with_a_history(self) -> None:
        client = login("view_controlstate", "change_controlstate")
        assert "does what the store shows" in page(client, ControlState, "changelist")
        (row,) = ControlState.objects.all()
        save(client, ControlState, str(row.pk), word="open", minutes="5")
        assert "open: nobody asks the store" in page(client, ControlState, "changelist")
        controls.refresh(current_store())
        assert current_guard().state is BreakerState.OPEN
        save(client, ControlState, str(row.pk), word="auto", minutes="5")
        controls.refresh(current_store())
        assert current_guard().state is BreakerState.CLOSED
        assert "breaker: auto → open for 5 minutes" in history(client, ControlState, str(row.pk))
        assert "breaker: open → auto" in history(client, ControlState, str(row.pk))

    def test_impossible_times_are_refused(self) -> None:
        client = login("view_controlstate", "change_controlstate")
        page(client, ControlState, "changelist")
        (row,) = ControlState.objects.all()
        assert "greater than or equal to 1" in save(client, ControlState, str(row.pk), word="open", minutes="0")
        assert ControlState.objects.get().is_breaker_open is None


class TestKillSwitch:
    url = "/admin/netra_queue/controlstate/switch/"

    def test_pulled_and_put_back_by_one_click_with_a_history(self) -> None:
        client = login("view_controlstate", "switch_off")
        assert "Not pulled" in page(client, ControlState, "changelist")
        assert "Every queue is plain Channels now." in _text(client.post(self.url, {"is_off": "1"}, follow=True))
        text = page(client, ControlState, "changelist")
        assert "Pulled: every queue is plain Channels." in text
        assert 'value="Put it back"' in text
        controls.refresh(current_store())
        assert controls.current().is_off
        client.post(self.url, {"is_off": "0"})
        assert not ControlState.objects.get().is_off
        found = history(client, ControlState, "1")
        assert "kill switch: pulled" in found
        assert "kill switch: put back" in found

    def test_only_for_those_who_may_and_only_by_a_form(self) -> None:
        client = login("view_controlstate", "change_controlstate")
        assert 'value="Pull it"' not in page(client, ControlState, "changelist")
        assert client.post(self.url, {"is_off": "1"}).status_code == 403
        assert login("view_controlstate", "switch_off").get(self.url).status_code == 405
        assert not ControlState.objects.get().is_off


def _text(response: Any) -> str:
    return str(response.content.decode())
