"""The operator's verbs, on the store that is configured."""

from __future__ import annotations

import base64
import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from netra_queue import InvalidMessage, operators
from netra_queue.core.message import Draft, LossReason, Priority
from netra_queue.core.wire import bytes_payload, text_payload
from netra_queue.models import Body, Message
from netra_queue.operators import RecoverReport, disconnecting, naming
from netra_queue.stores import current_store
from netra_queue.stores.base import MISSED_HEARTBEATS
from tests.making import HERE, AdvancingStore, get, make_draft, make_policy, make_presence, put, rolled_back

pytestmark = pytest.mark.django_db(transaction=True)
HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW


@pytest.fixture(params=["tests.making.AdvancingDatabaseStore", "tests.making.AdvancingMemoryStore"])
def store(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> AdvancingStore:
    settings.NETRA_QUEUE = {
        "STORE": request.param,
        "POLICIES": {"default": {"DEAD_LETTERS": ["expired"]}},
    }
    monkeypatch.setattr(disconnecting, "GONE_SECONDS", 0.2)
    return current_store()  # type: ignore[return-value]


@pytest.fixture
def database_store(settings: Any) -> AdvancingStore:
    settings.NETRA_QUEUE = {"STORE": "tests.making.AdvancingDatabaseStore"}
    return current_store()  # type: ignore[return-value]


def devices(store: AdvancingStore, *clients: str) -> None:
    for client in clients:
        store.attach(make_presence(f"user.1/{client}"), make_policy())


class Watched:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((done, total))


@pytest.mark.parametrize("verb", [operators.purge, operators.pause, operators.resume, operators.resend])
@pytest.mark.parametrize("queues", ["user.1", ["user 1"], ["user.1", "user.1/"], [42]])
def test_what_is_no_list_of_queues_is_refused_before_anything_is_done(
    store: AdvancingStore, verb: Any, queues: Any
) -> None:
    put(store, make_draft())
    with pytest.raises(InvalidMessage):
        verb(queues)
    assert (store.stat("user.1").messages, store.pauses()) == (1, [])


class TestPurge:
    def test_queues_with_their_devices(self, store: AdvancingStore) -> None:
        devices(store, "phone", "tab")
        put(store, make_draft(), make_draft(priority=LOW), make_draft("user.2"), make_draft("user.3"))
        watched = Watched()
        assert operators.purge(["user.1", "user.2"], dry_run=True) == 5
        assert store.stat("user.1/tab").messages == 2
        assert operators.purge(iter(["user.1", "user.2", "user.1"]), progress=watched) == 5
        assert watched.seen[-1] == (5, 5)
        assert [store.stat(name).messages for name in ("user.1/phone", "user.1/tab", "user.2", "user.3")] == [
            0,
            0,
            0,
            1,
        ]
        assert operators.purge(["user.1", "user.404"]) == 0

    def test_one_device(self, store: AdvancingStore) -> None:
        devices(store, "phone", "tab")
        put(store, make_draft())
        assert operators.purge(["user.1/tab"]) == 1
        assert store.stat("user.1/phone").messages == 1

    def test_by_priority_and_only_what_has_expired(self, store: AdvancingStore) -> None:
        for ttl in (10, 1000):
            put(store, *(make_draft(priority=p, ttl=ttl) for p in (HIGH, NORMAL, LOW)))
        store.advance(11)
        wanted = {"priorities": [HIGH, LOW], "only_expired": True}
        assert operators.purge(["user.1"], **wanted, dry_run=True) == 2  # type: ignore[arg-type]
        assert operators.purge(["user.1"], **wanted) == 2  # type: ignore[arg-type]
        assert operators.purge(["user.1"], only_expired=True) == 1
        assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 3
        assert operators.purge(["user.1"], priorities=[NORMAL]) == 1
        assert store.stat("user.1").messages == 2

    def test_everything_in_steps(self, store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(naming, "STEP", 2)
        names = [f"user.{number}" for number in range(5)]
        store.ensure(names)
        put(store, *(make_draft(name) for name in names))
        assert sorted(operators.all_queues()) == names
        assert operators.purge(operators.all_queues()) == 5
        assert list(operators.all_queues()) == []


class TestPause:
    def test_it_counts_what_it_is_told(self, store: AdvancingStore) -> None:
        until = store.now() + timedelta(minutes=5)
        assert operators.pause(["user.1", "user.1", "user.2"], dry_run=True) == 2
        assert operators.paused() == []
        assert operators.pause(["user.1", "user.2"], until=until, reason="deploy", by="ann") == 2
        assert [name for name, _ in operators.paused()] == ["user.1", "user.2"]
        assert {(p.until, p.reason, p.by) for _, p in operators.paused()} == {(until, "deploy", "ann")}
        assert operators.resume(["user.1", "user.3"], dry_run=True) == 1
        assert operators.resume(["user.1", "user.3"]) == 1
        assert operators.resume(["user.1"]) == 0
        assert [name for name, _ in operators.paused()] == ["user.2"]

    def test_what_cannot_be_meant(self, store: AdvancingStore) -> None:
        past = store.now() - timedelta(seconds=1)
        for wrong in (
            {"until": past},
            {"until": datetime(2999, 1, 1)},
            {"until": 5},
            {"reason": "x" * 201},
            {"by": "x" * 151},
            {"by": None},
        ):
            with pytest.raises(InvalidMessage, match=next(iter(wrong))):
                operators.pause(["user.1"], **wrong)  # type: ignore[arg-type]
        assert operators.paused() == []


class TestDisconnect:
    def test_it_counts_connections(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)
        devices(store, "phone", "tab")
        assert operators.disconnect("user.1", dry_run=True) == 2
        assert store.sent_away(HERE.id) == {}
        assert operators.disconnect("user.1/tab", after_seconds=0) == 1
        assert list(store.sent_away(HERE.id).values()) == [0]
        assert operators.disconnect("user.1", after_seconds=7) == 2
        assert list(store.sent_away(HERE.id).values()) == [7, 7]
        assert operators.disconnect("user.2") == 0

    @pytest.mark.parametrize("seconds", [-1, 3601, float("nan"), "5", True, None])
    def test_impossible_seconds(self, store: AdvancingStore, seconds: Any) -> None:
        with pytest.raises(InvalidMessage, match="after_seconds"):
            operators.disconnect("user.1", after_seconds=seconds)


class TestForget:
    def test_what_waits_for_it_alone_goes(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)
        devices(store, "phone", "tab")
        put(store, make_draft(), make_draft("user.1/tab"))
        assert operators.forget("user.1/tab", dry_run=True) == 2
        assert operators.forget("user.1/tab") == 2
        assert [line.name for line in store.lines("user.1")] == ["user.1/phone"]
        assert len(store.sent_away(HERE.id)) == 1, "its connection was sent away before"
        assert operators.forget("user.1/tab") == 0
        assert store.stat("user.1/phone").messages == 1

    def test_what_waits_for_the_last_one_goes_on_waiting(self, store: AdvancingStore) -> None:
        devices(store, "phone")
        put(store, make_draft())
        store.advance(MISSED_HEARTBEATS * 10.0 + 1)
        store.reap()
        assert operators.forget("user.1/phone") == 0
        assert store.stat("user.1").messages == 1

    def test_only_a_device_can_be_forgotten(self, store: AdvancingStore) -> None:
        with pytest.raises(InvalidMessage, match="line"):
            operators.forget("user.1")


def test_resend_counts_who_is_there(store: AdvancingStore) -> None:
    store.heartbeat(HERE)
    devices(store, "phone", "tab")
    assert operators.resend(["user.1", "user.2"]) == 2
    assert operators.resend(["user.1/tab"]) == 1
    assert operators.resend(["user.2"]) == 0


class TestExport:
    def test_each_payload_as_it_was_given(self, store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("netra_queue.operators.exporting.STEP", 2)
        payloads = [
            text_payload('{"n": 1,\r\n "s": "Grüße\\n😀"}'),
            text_payload("not JSON\n"),
            bytes_payload(b"\x00\xff"),
            text_payload("null"),
            text_payload('"  "'),
        ]
        drafts = [
            Draft(queue="user.1", id=f"{n:032x}", payload=payload, priority=NORMAL, ttl_seconds=60)
            for n, payload in enumerate(payloads)
        ]
        put(store, *drafts, make_draft(priority=HIGH))
        operators.pause(["user.1"])
        before = store.stat("user.1")
        lines = list(operators.export("user.1"))
        assert all("\n" not in line and "\r" not in line for line in lines)
        first, *found = [json.loads(line) for line in lines]
        assert (first["priority"], first["queue"], first["deliveries"], first["data"]) == (
            "high",
            "user.1",
            0,
            {"n": 1},
        )
        assert [one["id"] for one in found] == [draft.id for draft in drafts]
        assert found[0]["data"] == {"n": 1, "s": "Grüße\n😀"}
        assert found[1]["text"] == "not JSON\n"
        assert base64.b64decode(found[2]["data_base64"]) == b"\x00\xff"
        assert (found[3]["data"], found[4]["data"]) == (None, "  ")
        assert store.stat("user.1") == before
        operators.resume(["user.1"])
        assert len(get(store).messages) == 6

    def test_with_devices_and_without_what_has_expired(self, store: AdvancingStore) -> None:
        devices(store, "phone", "tab")
        put(store, make_draft(), make_draft(ttl=5))
        store.advance(6)
        found = [json.loads(line) for line in operators.export("user.1")]
        assert [one["queue"] for one in found] == ["user.1/phone", "user.1/tab"]
        assert len(list(operators.export("user.1/tab"))) == 1
        assert list(operators.export("user.2")) == []

    def test_a_wrong_name_is_refused_at_the_call(self, store: AdvancingStore) -> None:
        with pytest.raises(InvalidMessage):
            operators.export("user 1")


class TestRequeue:
    def test_by_queue_reason_and_time(self, store: AdvancingStore) -> None:
        devices(store, "phone")
        store.ensure(["user.2"])
        put(store, make_draft(ttl=10), make_draft("user.2", ttl=10), make_draft("user.2", ttl=100))
        store.advance(11)
        store.sweep(10)
        since = store.now() + timedelta(seconds=1)
        store.advance(100)
        store.sweep(10)
        assert operators.requeue(dry_run=True).count == 3
        assert operators.requeue(reason=LossReason.DEAD).count == 0
        assert operators.requeue(since=since, queue="user.1").count == 0
        watched = Watched()
        assert operators.requeue(since=since, progress=watched).count == 1
        assert watched.seen == [(0, 1)]
        assert operators.requeue(queue="user.1", dry_run=True).count == 1, "with its devices"
        assert operators.requeue(queue="user.1", reason=LossReason.EXPIRED).count == 1
        assert store.stat("user.1/phone").messages == 1
        assert operators.requeue().count == 1
        assert store.letters(10) == []

    def test_a_time_without_a_time_zone(self, store: AdvancingStore) -> None:
        with pytest.raises(InvalidMessage, match="since"):
            operators.requeue(since=datetime(2026, 1, 1))


class TestRecover:
    def test_a_store_that_is_well(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)
        devices(store, "phone")
        put(store, make_draft(), make_draft("user.2"))
        store.ensure(["user.2"])
        watched = Watched()
        report = operators.recover(progress=watched)
        assert report == RecoverReport(connections=0, queues=2, messages=2, resized=0, lost=0)
        assert report.is_well
        assert watched.seen == [(2, 2)]

    def test_dead_servers(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)
        devices(store, "phone", "tab")
        store.advance(MISSED_HEARTBEATS * 10.0 + 1)
        assert operators.recover(dry_run=True).connections == 2
        assert operators.recover().connections == 2
        assert operators.recover().connections == 0

    def test_damaged_messages(self, database_store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("netra_queue.operators.recovering.CHECKED_TOGETHER", 2)
        store = database_store
        devices(store, "phone", "tab")
        put(store, make_draft(text='"shared"'), make_draft("user.2", text='"Grüße"'), make_draft("user.2"))
        wrong = Message.objects.filter(payload='"Grüße"')
        wrong.update(size=5)
        Body.objects.all().delete()
        assert operators.recover(dry_run=True) == RecoverReport(connections=0, queues=2, messages=4, resized=1, lost=2)
        assert wrong.get().size == 5
        report = operators.recover()
        assert (report.messages, report.resized, report.lost, report.is_well) == (4, 1, 2, False)
        assert wrong.get().size == len('"Grüße"'.encode())
        assert [store.stat(f"user.1/{device}").messages for device in ("phone", "tab")] == [0, 0]
        assert store.losses(["user.1/tab"])["user.1/tab"].total(LossReason.DROPPED) == 1, "its client is told"
        assert operators.recover().is_well


def test_what_is_done_in_a_transaction_belongs_to_it(database_store: AdvancingStore) -> None:
    store = database_store
    store.heartbeat(HERE)
    devices(store, "phone", "tab")
    put(store, make_draft())
    with rolled_back("default"):
        operators.pause(["user.1"])
        operators.disconnect("user.1/phone")
        operators.forget("user.1/tab")
        operators.purge(["user.1"])
    assert operators.paused() == []
    assert store.sent_away(HERE.id) == {}
    assert [store.stat(f"user.1/{device}").messages for device in ("phone", "tab")] == [1, 1]
    assert len(store.lines("user.1")) == 2
