"""Alerts: what is looked at, what is written, and who is told of it, once."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.core.management import CommandError
from django.db import transaction

from netra_queue import alerts, fullness, maintenance, tasks
from netra_queue.core import alerting
from netra_queue.core.alert_rules import KEYS, RULES
from netra_queue.core.alerting import Alert, AlertState
from netra_queue.core.statistics import Bucket, Event, aligned
from netra_queue.exceptions import StoreUnavailable
from netra_queue.signals import alert_changed
from netra_queue.stores import current_store
from tests import counts
from tests.making import ADMINS, HERE, AdvancingStore, get, make_draft, make_policy, make_presence, put, rolled_back
from tests.server.conftest import STORES
from tests.test_command import netra_queue
from tests.waiting import together

pytestmark = pytest.mark.django_db(transaction=True)
EMBEDDED = {"STORE": "tests.making.AdvancingDatabaseStore"}
DEAD = replace(KEYS["dead_letters"], for_seconds=0)  # opens at once, and an hour later it is over


@pytest.fixture
def store(settings: Any) -> AdvancingStore:
    settings.ADMINS = ADMINS
    settings.NETRA_QUEUE = {**EMBEDDED, "ALERTS": only("dead_letters", FOR_SECONDS=0)}
    return current_store()  # type: ignore[return-value]


def only(*keys: str, **values: float) -> dict[str, Any]:
    return {key: values if key in keys else None for key in KEYS}


def happened(event: Event, number: int = 1) -> None:
    store = current_store()
    store.record_statistics("one", [Bucket(aligned(store.now()), counts.make(event, number))])


def a_minute_later(store: AdvancingStore, minutes: float = 1) -> list[Alert]:
    store.advance(60 * minutes)
    return alerts.evaluate()


@pytest.fixture
def heard() -> Iterator[list[tuple[str, str, str | None]]]:
    told: list[tuple[str, str, str | None]] = []

    def listen(*, alert: Alert, before: AlertState | None, **kwargs: Any) -> None:
        told.append((alert.name, alert.state.value, before.value if before else None))

    alert_changed.connect(listen)
    yield told
    alert_changed.disconnect(listen)


# --- from the tables to an alert -----------------------------------------------------------------------------------


def test_what_is_looked_at(database: str, settings: Any) -> None:
    """On every database, in what the store really holds."""
    settings.NETRA_QUEUE = {"STORE": STORES[database], "POLICIES": {"default": {"MAX_MESSAGES": 5}}}
    store = current_store()
    put(store, *(make_draft("user.1") for _ in range(4)), make_draft("user.2", ttl=0.001), make_draft("user.2"))
    store.heartbeat(HERE)
    store.attach(make_presence("user.3"), make_policy())
    happened(Event.DEAD, 7)
    situation = alerts.look(store)
    assert (situation.servers, situation.connections, list(situation.near_limit)) == (1, 1, ["user.1"])
    assert situation.count([Event.DEAD], 60) == 7
    assert 0 < situation.oldest_seconds < 60
    assert 0 < situation.expired_seconds < 60


def test_windows_of_days_are_read_from_what_was_rolled_up(store: AdvancingStore) -> None:
    for _ in range(5):
        happened(Event.EXPIRED, 3)
        store.advance(12 * 3600)
    maintenance.roll_up_statistics()
    situation = alerts.look(store)
    assert [situation.count([Event.EXPIRED], hours * 3600) for hours in (10, 20, 40, 72)] == [0, 3, 9, 15]


def test_it_opens_and_is_resolved(store: AdvancingStore) -> None:
    happened(Event.DEAD)
    (alert,) = alerts.evaluate()
    assert (alert.name, alert.state, alert.value) == ("NetraQueueDeadLetters", AlertState.OPEN, 1)
    assert a_minute_later(store) == [alert]
    assert a_minute_later(store, 61) == []
    assert [one.state for one in store.alerts(10)] == [AlertState.RESOLVED]


def test_nearly_full_by_the_limits_that_are_in_force_for_each(settings: Any) -> None:
    wide = {"MAX_MESSAGES": 50}
    settings.NETRA_QUEUE = {
        **EMBEDDED,
        "POLICIES": {"default": {"MAX_MESSAGES": 5, "MAX_BYTES": 300_000}, "wide": wide},
    }
    store = current_store()
    store.attach(make_presence("user.2", policy="wide"), make_policy())
    for queue in ("user.1", "user.2"):
        put(store, *(make_draft(queue) for _ in range(4)), policy=make_policy(max_messages=50))
    put(store, make_draft("user.3", text='"' + 240_000 * "x" + '"'))
    assert [stat.queue for stat in fullness.near_limit(store)] == ["user.1", "user.3"]


def test_many_evaluations_at_once_open_one_alert(store: AdvancingStore, heard: list[Any]) -> None:
    happened(Event.DEAD)
    together(*[alerts.evaluate] * 6)
    assert len(store.alerts(10)) == 1
    assert heard == [("NetraQueueDeadLetters", "open", None)]
    assert len(mail.outbox) == 1


def test_a_store_that_is_away_is_an_error_and_no_alert(store: AdvancingStore, monkeypatch: Any) -> None:
    def fails(*arguments: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(type(store), "statistics", fails)
    with pytest.raises(StoreUnavailable):
        alerts.evaluate()
    assert not mail.outbox


# --- who is told ---------------------------------------------------------------------------------------------------


def test_everybody_is_told_once_of_each_change(
    store: AdvancingStore, heard: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "netra_queue")
    happened(Event.DEAD, 3)
    alerts.evaluate()
    a_minute_later(store)
    a_minute_later(store)
    (alert,) = store.alerts(1)
    assert alert.number is not None
    assert [one.number for one in alerts.acknowledge([alert.number], "grace")] == [alert.number]
    assert alerts.acknowledge([alert.number], "ada") == []
    a_minute_later(store, 61)
    a_minute_later(store)
    name = "NetraQueueDeadLetters"
    assert heard == [(name, "open", None), (name, "acknowledged", "open"), (name, "resolved", "acknowledged")]
    lines = [(r.levelname, r.alert, r.state) for r in caplog.records if getattr(r, "action", "") == "alert_changed"]  # type: ignore[attr-defined]
    assert lines == [("WARNING", name, "open"), ("INFO", name, "acknowledged"), ("INFO", name, "resolved")]
    subjects = [message.subject for message in mail.outbox]
    assert subjects == [f"[Django] {name} is {state}" for state in ("open", "acknowledged", "resolved")]
    first, second, _ = (message.body for message in mail.outbox)
    assert first.startswith(f"{name}: open (warning): Messages make their clients fail\n3 messages were set aside")
    assert first.endswith("See docs/runbooks/dead_letters.md.")
    assert "Acknowledged by grace." in second


def test_one_mail_for_all_that_changes_at_once(store: AdvancingStore, settings: Any, caplog: Any) -> None:
    settings.NETRA_QUEUE = {**EMBEDDED, "ALERTS": only("dead_letters", "no_servers", FOR_SECONDS=0)}
    happened(Event.DEAD)
    alerts.evaluate()
    (message,) = mail.outbox
    assert message.subject == "[Django] NetraQueueDeadLetters is open and 1 more"
    assert "NetraQueueNoServers: open (critical)" in message.body
    assert [r.levelname for r in caplog.records] == ["WARNING", "ERROR"]


def test_nothing_is_told_of_a_change_that_was_rolled_back(store: AdvancingStore, heard: list[Any]) -> None:
    happened(Event.DEAD)
    with rolled_back("default"):
        alerts.evaluate()
    assert (heard, mail.outbox, store.alerts(1)) == ([], [], [])
    with transaction.atomic():
        alerts.evaluate()
        assert heard == []
    assert len(heard) == 1


class Failing(EmailBackend):  # type: ignore[misc]
    def send_messages(self, messages: Any) -> int:
        raise OSError("no mail today")


class Hanging(EmailBackend):  # type: ignore[misc]
    may_go_on = threading.Event()

    def send_messages(self, messages: Any) -> int:
        self.may_go_on.wait(20)
        return 0


def test_a_mail_server_that_fails_stops_nothing_and_nothing_is_repeated(
    store: AdvancingStore, settings: Any, heard: list[Any], caplog: Any
) -> None:
    settings.EMAIL_BACKEND = f"{__name__}.Failing"
    happened(Event.DEAD)
    assert len(alerts.evaluate()) == 1
    assert [r.action for r in caplog.records] == ["alert_changed", "alert_not_mailed"]
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    a_minute_later(store)
    assert len(heard) == 1
    assert not mail.outbox


def test_a_mail_server_that_hangs_holds_nobody_up(
    store: AdvancingStore, settings: Any, caplog: Any, monkeypatch: Any
) -> None:
    settings.EMAIL_BACKEND = f"{__name__}.Hanging"
    monkeypatch.setattr(alerts, "MAIL_SECONDS", 0.1)
    happened(Event.DEAD)
    try:
        assert len(alerts.evaluate()) == 1
        assert [r.action for r in caplog.records] == ["alert_changed", "alert_not_mailed"]
    finally:
        Hanging.may_go_on.set()


def test_a_real_mail_server_gets_the_mail(store: AdvancingStore, settings: Any) -> None:
    """Over a socket: what a fake backend would not show is that there is nothing that cannot be sent."""
    listening = socket.create_server(("127.0.0.1", 0))
    received: list[bytes] = []
    serving = threading.Thread(target=take_a_mail, args=(listening, received), daemon=True)
    serving.start()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = listening.getsockname()
    happened(Event.DEAD)
    alerts.evaluate()
    serving.join(10)
    listening.close()
    assert b"Subject: [Django] NetraQueueDeadLetters is open" in b"".join(received)
    assert b"To: operators@example.com" in b"".join(received)


def take_a_mail(listening: socket.socket, received: list[bytes]) -> None:
    """As much of SMTP as one mail needs."""
    connection, _ = listening.accept()
    with connection, connection.makefile("rb") as lines:
        connection.sendall(b"220 here\r\n")
        is_data = False
        for line in lines:
            if is_data and line != b".\r\n":
                received.append(line)
                continue
            answer = {b"DATA": b"354 go on", b"QUIT": b"221 bye"}.get(line.strip().upper(), b"250 ok")
            is_data = line.strip().upper() == b"DATA"
            connection.sendall(answer + b"\r\n")


def test_no_payload_anywhere(settings: Any, caplog: Any) -> None:
    settings.ADMINS = ADMINS
    settings.NETRA_QUEUE = {**EMBEDDED, "ALERTS": only("oldest_waiting", ABOVE=0, FOR_SECONDS=0)}
    store: AdvancingStore = current_store()  # type: ignore[assignment]
    put(store, make_draft(text='"s3cr3t"'))
    store.advance(60)
    (alert,) = alerts.evaluate()
    assert get(store).messages
    told = f"{mail.outbox[0].body} {caplog.text} {alert}"
    assert "oldest waiting message is 60" in told
    assert "s3cr3t" not in told


# --- settings ------------------------------------------------------------------------------------------------------


def test_without_settings_all_rules_are_in_force(settings: Any) -> None:
    settings.NETRA_QUEUE = {}
    assert alerts.rules() == RULES


def test_settings_change_thresholds_and_switch_off(settings: Any) -> None:
    settings.NETRA_QUEUE = {"ALERTS": {"oldest_waiting": {"ABOVE": 60, "FOR_SECONDS": 0}, "bells_missed": None}}
    rules = {rule.key: rule for rule in alerts.rules()}
    assert len(rules) == len(RULES) - 1
    assert (rules["oldest_waiting"].above, rules["oldest_waiting"].for_seconds) == (60, 0)
    assert rules["oldest_waiting"].keep_seconds == KEYS["oldest_waiting"].keep_seconds


# --- the command and the task --------------------------------------------------------------------------------------


def test_the_command_evaluates_shows_and_says_by_its_status(store: AdvancingStore) -> None:
    assert netra_queue("alerts") == "No alert.\n"
    assert json.loads(netra_queue("alerts", "--json")) == []
    happened(Event.DEAD)
    with pytest.raises(CommandError, match="1 alerts go on") as error:
        netra_queue("alerts")
    assert error.value.returncode == 2
    assert len(mail.outbox) == 1


def test_the_commands_json(store: AdvancingStore, capsys: Any) -> None:
    from django.core.management import call_command

    happened(Event.DEAD)
    with pytest.raises(CommandError):
        call_command("netra_queue", "alerts", "--json")
    (alert,) = json.loads(capsys.readouterr().out)
    assert (alert["name"], alert["state"], alert["severity"]) == ("NetraQueueDeadLetters", "open", "warning")
    assert alert["runbook"] == "docs/runbooks/dead_letters.md"


def test_the_task_evaluates(store: AdvancingStore) -> None:
    happened(Event.DEAD)
    tasks.evaluate_alerts.apply().get()
    assert [alert.name for alert in store.alerts(10)] == ["NetraQueueDeadLetters"]


def test_what_an_evaluation_reads_of_a_long_past(store: AdvancingStore) -> None:
    """Nothing before the longest window."""
    happened(Event.DEAD)
    store.advance(4 * 86_400)
    assert alerts.look(store).buckets == ()


def test_the_longest_window_is_the_longest_of_a_rule() -> None:
    from netra_queue.core.alert_rules import FAST, SLOW
    from netra_queue.core.situation import LONGEST_WINDOW_SECONDS

    assert max(window for _, *windows in (*FAST, *SLOW) for window in windows) == LONGEST_WINDOW_SECONDS
    assert timedelta(seconds=LONGEST_WINDOW_SECONDS) > alerts.RECENT
    assert timedelta(seconds=60) < alerting.GAP
