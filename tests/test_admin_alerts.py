"""Alerts in the admin: who sees them, and who may say that somebody sees to one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core import mail
from django.test import Client

from netra_queue import alerts
from netra_queue.core.alerting import Alert as Value
from netra_queue.core.alerting import AlertState, Book
from netra_queue.exceptions import StoreUnavailable
from netra_queue.models import Alert
from netra_queue.stores import current_store
from tests.making import ADMINS
from tests.test_admin import login, rows_of, show, superuser, url_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.test_admin")]


def opened(*names: str) -> list[str]:
    """Returns their primary keys."""
    store = current_store()
    now = store.now()
    values = tuple(Value(name=name, opened_at=now, value=1, detail=f"Why: {name}") for name in names)
    store.change_alerts(lambda before: Book(evaluated_at=now, alerts=(*before.alerts, *values)))
    return [str(alert.number) for alert in reversed(store.alerts(len(names)))]


def act(client: Client, keys: list[str]) -> Any:
    return client.post(url_of(Alert), {"action": "acknowledge", "_selected_action": keys}, follow=True)


def test_a_list_needs_its_view_permission() -> None:
    assert login().get(url_of(Alert)).status_code == 403
    assert login("view_alert").get(url_of(Alert)).status_code == 200


def test_the_list_its_filter_and_a_page() -> None:
    opened("NetraQueueNoServers", "NetraQueueOfAnotherRelease")
    client = superuser()
    act(client, opened("NetraQueueBellsMissed"))
    assert rows_of(client, Alert)[0].name == "NetraQueueBellsMissed"
    assert [alert.name for alert in rows_of(client, Alert, "?state=acknowledged")] == ["NetraQueueBellsMissed"]
    assert len(rows_of(client, Alert, "?state=open")) == 2
    assert len(rows_of(client, Alert, "?state=nonsense")) == 3
    page = show(client, Alert)
    assert ">critical</td>" in page
    pages = [client.get(url_of(Alert, "change", alert.pk)).content.decode() for alert in Alert.objects.order_by("pk")]
    assert "docs/runbooks/no_servers.md" in pages[0]
    assert "No server process is alive" in pages[0]
    assert "Why: NetraQueueOfAnotherRelease" in pages[1]


def test_nobody_adds_changes_or_deletes_rows() -> None:
    (key,) = opened("NetraQueueNoServers")
    client = superuser()
    assert client.get(url_of(Alert, "add")).status_code == 403
    assert client.post(url_of(Alert, "delete", key), {"post": "yes"}).status_code == 403
    assert client.post(url_of(Alert, "change", key), {"state": "resolved"}).status_code == 403
    assert "delete_selected" not in show(client, Alert)


def test_to_acknowledge_needs_a_permission_of_its_own() -> None:
    (key,) = opened("NetraQueueNoServers")
    act(login("view_alert"), [key])
    assert Alert.objects.get().state == "open"
    act(login("view_alert", "acknowledge_alert"), [key])
    alert = Alert.objects.get()
    assert (alert.state, alert.acknowledged_by) == ("acknowledged", "operator-1")


def test_who_acknowledges_is_in_the_history_and_the_others_are_told(settings: Any) -> None:
    settings.ADMINS = ADMINS
    first, second = opened("NetraQueueNoServers", "NetraQueueBellsMissed")
    client = superuser()
    assert "Acknowledged 1 alerts." in act(client, [first]).content.decode()
    assert "Acknowledged 1 alerts." in act(client, [first, second]).content.decode()
    assert "Acknowledged 0 alerts." in act(client, [first, second]).content.decode()
    entries = LogEntry.objects.order_by("pk")
    assert [(entry.object_id, entry.change_message) for entry in entries] == [
        (first, "Acknowledged."),
        (second, "Acknowledged."),
    ]
    assert [message.subject for message in mail.outbox] == [
        "[Django] NetraQueueNoServers is acknowledged",
        "[Django] NetraQueueBellsMissed is acknowledged",
    ]
    assert {alert.state for alert in current_store().alerts(10)} == {AlertState.ACKNOWLEDGED}


def test_a_store_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = opened("NetraQueueNoServers")

    def fails(*arguments: object) -> None:
        raise StoreUnavailable("away")

    client = superuser()
    monkeypatch.setattr(alerts, "acknowledge", fails)
    assert "Failed: " in act(client, keys).content.decode()
    assert not LogEntry.objects.exists()


def test_that_nobody_evaluates_is_said() -> None:
    client = superuser()
    assert "have never been evaluated" in show(client, Alert)
    opened("NetraQueueNoServers")
    page = show(client, Alert)
    assert "never been evaluated" not in page
    assert "for the last time" not in page
    late = current_store().now() - timedelta(minutes=6)
    current_store().change_alerts(lambda before: Book(evaluated_at=late, alerts=before.alerts))
    assert "for the last time" in show(client, Alert)
