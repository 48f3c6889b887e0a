"""Handing over what nobody has acked in time: setting, signal, task, command, and the documents' example."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.core.management import call_command

import netra_queue
from netra_queue import Priority, conf, maintenance, policies, signals, tasks, testing
from netra_queue.core.tracking import UndeliveredMessage
from netra_queue.exceptions import NotConfigured
from netra_queue.stores import current_store
from tests.making import AdvancingStore, Oops, get, make_presence

RECEIPTS = Path(__file__).parent.parent / "docs/receipts.md"
EXAMPLE = re.compile(r"<!-- example: fallback -->\n```python\n(?P<code>.*?)```", re.DOTALL)
STORES = ["tests.making.AdvancingMemoryStore", "tests.making.AdvancingDatabaseStore"]
received: list[tuple[UndeliveredMessage, ...]] = []


def receive(messages: tuple[UndeliveredMessage, ...]) -> None:
    received.append(messages)


def fail(messages: tuple[UndeliveredMessage, ...]) -> None:
    raise Oops


HERE = f"{__name__}.receive"


@pytest.fixture(params=STORES, ids=["memory", "database"])
def use(
    settings: Any, transactional_db: None, request: pytest.FixtureRequest
) -> Iterator[Callable[..., AdvancingStore]]:
    """Makes the store, with these policies."""

    def make(**policies: Any) -> AdvancingStore:
        settings.NETRA_QUEUE = {"STORE": request.param, "POLICIES": policies}
        return current_store()  # type: ignore[return-value]

    received.clear()
    yield make
    testing.shutdown()


def data() -> list[list[Any]]:
    return [[message.data for message in messages] for messages in received]


def test_to_the_callable_of_the_policy(use: Callable[..., AdvancingStore]) -> None:
    store = use(default={"UNDELIVERED_SECONDS": 60, "ON_UNDELIVERED": HERE})
    netra_queue.send("user.1", {"n": 1})
    store.advance(61)
    assert maintenance.hand_over(dry_run=True).count == 1
    assert maintenance.hand_over() == maintenance.Removal(count=1, finished=True)
    assert maintenance.hand_over().count == 0
    assert data() == [[{"n": 1}]]


def test_in_batches(use: Callable[..., AdvancingStore]) -> None:
    store = use(default={"UNDELIVERED_SECONDS": 60, "ON_UNDELIVERED": HERE})
    netra_queue.send_many([("user.1", number) for number in range(5)])
    store.advance(61)
    assert maintenance.hand_over(batch=2).count == 5
    assert data() == [[0, 1], [2, 3], [4]]


def test_priorities_that_are_left_out_are_not_handed_over(use: Callable[..., AdvancingStore]) -> None:
    store = use(default={"UNDELIVERED_SECONDS": {"critical": 60}, "ON_UNDELIVERED": HERE})
    for priority in Priority:
        netra_queue.send("user.1", priority.name, priority=priority)
    store.advance(61)
    maintenance.hand_over()
    assert data() == [["CRITICAL"]]


def test_the_queues_policy_counts(use: Callable[..., AdvancingStore]) -> None:
    store = use(quick={"UNDELIVERED_SECONDS": 60, "ON_UNDELIVERED": HERE})
    policy = conf.policy("quick")
    store.attach(make_presence("user.1", policy="quick"), policy)
    policies.forget()
    netra_queue.send_many([("user.1", 1), ("user.2", 2)])
    store.advance(61)
    maintenance.hand_over()
    assert data() == [[1]]


def test_one_policys_error_does_not_stop_the_others(use: Callable[..., AdvancingStore], caplog: Any) -> None:
    given = {"UNDELIVERED_SECONDS": 60}
    wrong = {"a": {**given, "ON_UNDELIVERED": f"{__name__}.fail"}, "b": {**given, "ON_UNDELIVERED": "not.there"}}
    store = use(**wrong, c={**given, "ON_UNDELIVERED": HERE})
    for name in "abc":
        store.attach(make_presence(f"user.{name}", policy=name), conf.policy(name))
    policies.forget()
    netra_queue.send_many([(f"user.{name}", name) for name in "abc"])
    store.advance(61)
    with caplog.at_level(logging.CRITICAL), pytest.raises(Oops):
        maintenance.hand_over()
    assert data() == [["c"]]
    assert maintenance.hand_over(dry_run=True).count == 2, "they stay for the next run"


def test_to_the_signal(use: Callable[..., AdvancingStore]) -> None:
    store = use(default={"UNDELIVERED_SECONDS": 60})

    def listen(sender: object, messages: tuple[UndeliveredMessage, ...], **kwargs: object) -> None:
        receive(messages)
        if len(received) == 1:
            raise Oops

    netra_queue.send("user.1", 1)
    store.advance(61)
    signals.message_undelivered.connect(listen)
    try:
        with pytest.raises(Oops):
            maintenance.hand_over()
        maintenance.hand_over()
    finally:
        signals.message_undelivered.disconnect(listen)
    assert data() == [[1], [1]]


def test_to_nobody(use: Callable[..., AdvancingStore], caplog: pytest.LogCaptureFixture) -> None:
    store = use(default={"UNDELIVERED_SECONDS": 60})
    netra_queue.send("user.1", 1)
    store.advance(61)
    assert maintenance.hand_over().count == 1
    assert "handed over to nobody" in caplog.text


def test_the_task_and_the_command(use: Callable[..., AdvancingStore], capsys: pytest.CaptureFixture[str]) -> None:
    store = use(default={"UNDELIVERED_SECONDS": 60, "ON_UNDELIVERED": HERE})
    netra_queue.send("user.1", "task")
    store.advance(61)
    tasks.hand_over.apply().get()
    netra_queue.send("user.1", "command")
    store.advance(61)
    call_command("netra_queue", "sweep")
    assert "unacknowledged messages: 1 handed over\n" in capsys.readouterr().out
    assert data() == [["task"], ["command"]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"UNDELIVERED_SECONDS": 0},
        {"UNDELIVERED_SECONDS": "60"},
        {"UNDELIVERED_SECONDS": {"urgent": 60}},
        {"UNDELIVERED_SECONDS": {"high": None}},
        {"UNDELIVERED_SECONDS": 10**15},
        {"ON_UNDELIVERED": receive},
        {"ON_UNDELIVERED": "receive"},
        {"TRACK_SECONDS": 0},
        {"TRACK_SECONDS": 10**15},
    ],
)
def test_settings_that_are_refused(settings: Any, wrong: dict[str, Any]) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"default": wrong}}
    with pytest.raises(NotConfigured, match=next(iter(wrong))):
        conf.policy("default")


def test_settings_by_priority(settings: Any) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"all": {"UNDELIVERED_SECONDS": 5}, "off": {"UNDELIVERED_SECONDS": None}}}
    assert conf.policy("all").undelivered == dict.fromkeys(Priority, 5.0)
    assert conf.policy("off").undelivered == conf.policy("default").undelivered == {}


def test_the_documents_example_mails_users_who_have_not_seen_it(
    use: Callable[..., AdvancingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = EXAMPLE.search(RECEIPTS.read_text())
    assert found is not None
    namespace: dict[str, Any] = {}
    exec(compile(found["code"], str(RECEIPTS), "exec"), namespace)
    monkeypatch.setattr(f"{__name__}.receive", namespace["send_by_mail"])
    store = use(default={"UNDELIVERED_SECONDS": {"critical": 600}, "ON_UNDELIVERED": HERE})
    away, reading, nameless = (
        User.objects.create(username=name, email=email)
        for name, email in (("away", "away@example.com"), ("reading", "reading@example.com"), ("nameless", ""))
    )
    for user in (away, reading, nameless):
        netra_queue.send_to_user(user, "The boiler is on fire", priority=Priority.CRITICAL)
    netra_queue.send("no.user", "The boiler is on fire", priority=Priority.CRITICAL)
    netra_queue.send(f"user.{away.pk}/phone", "Leave the house", priority=Priority.CRITICAL)
    netra_queue.send_to_user(away, "It is Tuesday")
    queue = f"user.{reading.pk}"
    store.ack({queue: [message.position for message in get(store, queue).messages]})
    store.advance(601)
    tasks.hand_over.apply().get()
    tasks.hand_over.apply().get()
    (letter,) = mail.outbox
    assert (letter.to, letter.body) == (["away@example.com"], "The boiler is on fire\nLeave the house")
