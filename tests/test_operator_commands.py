"""``manage.py netra_queue``: the operator's verbs."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from netra_queue.core.message import LossReason, Priority
from netra_queue.management.subcommands import telling
from netra_queue.models import Message
from netra_queue.operators import disconnecting
from netra_queue.stores import current_store
from netra_queue.stores.base import MISSED_HEARTBEATS
from tests.making import HERE, AdvancingStore, get, make_draft, make_policy, make_presence, put

pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).parent.parent


@pytest.fixture
def store(settings: Any, monkeypatch: pytest.MonkeyPatch) -> AdvancingStore:
    settings.NETRA_QUEUE = {
        "STORE": "tests.making.AdvancingDatabaseStore",
        "POLICIES": {"default": {"DEAD_LETTERS": ["expired"]}},
    }
    monkeypatch.setattr(disconnecting, "GONE_SECONDS", 0.1)
    return current_store()  # type: ignore[return-value]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def netra_queue(*arguments: str, err: io.StringIO | None = None) -> str:
    out = io.StringIO()
    call_command("netra_queue", *arguments, stdout=out, stderr=err or io.StringIO())
    return out.getvalue()


def fails(*arguments: str, status: int, match: str = "") -> str:
    """The command ends with this exit status. Returns what it has written before."""
    out = io.StringIO()
    with pytest.raises(CommandError, match=match) as error:
        call_command("netra_queue", *arguments, stdout=out, stderr=io.StringIO())
    assert error.value.returncode == status
    return out.getvalue()


def attach(store: AdvancingStore, *lines: str) -> None:
    store.heartbeat(HERE)
    for line in lines:
        store.attach(make_presence(line), make_policy())


class TestPurge:
    def test_several_queues_with_their_devices(self, store: AdvancingStore) -> None:
        attach(store, "user.1/phone", "user.1/tab")
        put(store, make_draft(), make_draft("user.2"), make_draft("user.3"))
        assert netra_queue("purge", "user.1", "user.2", "--dry-run") == "messages of 2 queues: 3 would be removed\n"
        assert netra_queue("purge", "user.1/tab") == "messages of user.1/tab: 1 removed\n"
        found = json.loads(netra_queue("purge", "user.1", "user.2", "--json"))
        assert found == {"count": 2, "dry_run": False, "is_done": True}
        assert store.stat("user.3").messages == 1

    def test_by_priorities_and_only_what_has_expired(self, store: AdvancingStore) -> None:
        put(store, *(make_draft(priority=p, ttl=10) for p in Priority), make_draft())
        store.advance(11)
        arguments = ("purge", "user.1", "--priority", "low", "--priority", "high", "--only-expired")
        assert netra_queue(*arguments) == "expired messages of user.1 with priority low, high: 2 removed\n"
        assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 2
        assert store.stat("user.1").messages == 3

    def test_everything_is_asked_for(self, store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
        store.ensure(["user.1", "user.2"])
        put(store, make_draft(), make_draft("user.2"))
        assert netra_queue("purge", "--all", "--dry-run") == "messages of all queues: 2 would be removed\n"
        fails("purge", "--all", status=2, match="--yes")
        monkeypatch.setattr("sys.stdin", Terminal("no\n"))
        fails("purge", "--all", status=1, match="Nothing was done")
        monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
        assert netra_queue("purge", "--all") == "messages of all queues: 2 removed\n"
        assert (
            fails("purge", "--all", "--yes", status=1, match="Nothing matched") == "messages of all queues: 0 removed\n"
        )

    def test_what_it_refuses(self, store: AdvancingStore) -> None:
        put(store, make_draft())
        fails("purge", status=2, match="--all")
        fails("purge", "user.1", "--all", status=2, match="--all")
        fails("purge", "user 1", status=2, match="queue name")
        fails("purge", "user.1", "user.404", status=1, match=r"user\.404")
        assert store.stat("user.1").messages == 1

    def test_a_bar_on_a_terminal_and_nowhere_else(self, store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(telling, "BAR_EVERY_SECONDS", 0)
        put(store, *(make_draft() for _ in range(4)))
        terminal, pipe = Terminal(), io.StringIO()
        assert netra_queue("purge", "user.1", err=terminal) == "messages of user.1: 4 removed\n"
        assert "[##############################] 4 of 4, 100 %" in terminal.getvalue()
        assert terminal.getvalue().endswith(" \r"), "it is gone afterwards"
        put(store, make_draft())
        netra_queue("purge", "user.1", err=pipe)
        assert pipe.getvalue() == ""


class TestPauseAndResume:
    def test_for_a_while_and_back(self, store: AdvancingStore) -> None:
        put(store, make_draft())
        assert netra_queue("pause") == "No queue is paused.\n"
        assert netra_queue("pause", "user.1", "--dry-run").startswith("queues: 1 would be paused")
        assert netra_queue("pause") == "No queue is paused.\n"
        text = netra_queue("pause", "user.1", "--minutes", "5", "--reason", "a bad release", "--by", "ann")
        assert text.startswith("queues: 1 paused until 2")
        assert get(store).is_paused
        until = store.paused(["user.1"])["user.1"].until
        assert until is not None
        assert abs((until - store.now()).total_seconds() - 300) < 10
        listed = netra_queue("pause")
        assert listed.startswith("user.1: paused since ")
        assert listed.endswith("by ann: a bad release\n")
        (found,) = json.loads(netra_queue("pause", "--json"))
        assert (found["queue"], found["until"], found["by"]) == ("user.1", until.isoformat(), "ann")
        assert netra_queue("resume", "user.1", "--dry-run") == "queues: 1 would be resumed\n"
        assert netra_queue("resume", "user.1") == "queues: 1 resumed\n"
        assert fails("resume", "user.1", status=1, match="Nothing matched") == "queues: 0 resumed\n"
        assert not get(store).is_paused

    def test_stats_and_inspect_show_it(self, store: AdvancingStore) -> None:
        store.ensure(["user.1"])
        put(store, make_draft())
        netra_queue("pause", "user.1", "--reason", "why", "--by", "ann")
        stats = netra_queue("stats")
        assert "paused                 1\n" in stats
        assert stats.endswith("user.1 (paused)\n")
        assert json.loads(netra_queue("stats", "--json"))["largest"][0]["pause"]["by"] == "ann"
        text = netra_queue("inspect", "user.1")
        assert " by ann: why\n" in text
        assert "  paused since " in text
        assert "    7 bytes" in text, "what waits is shown all the same"
        assert json.loads(netra_queue("inspect", "user.1", "--json"))["lines"][0]["pause"]["reason"] == "why"

    def test_a_queue_that_is_not_there_yet(self, store: AdvancingStore) -> None:
        err = io.StringIO()
        netra_queue("pause", "user.1", err=err)
        assert "There is no queue 'user.1' yet." in err.getvalue()
        assert netra_queue("resume", "--all", "--json") == '{\n  "count": 1,\n  "dry_run": false\n}\n'

    def test_what_it_refuses(self, store: AdvancingStore) -> None:
        fails("pause", "--reason", "x", status=2, match="names of queues")
        fails("pause", "user.1", "--until", "2020-01-01T00:00Z", status=2, match="until")
        fails("pause", "user.1", "--until", "tomorrow", status=1, match="--until")  # from a shell it is 2: see below
        fails("pause", "user 1", status=2, match="queue name")
        fails("pause", "user.1", "--reason", "x" * 201, status=2, match="reason")
        fails("resume", status=2, match="--all")
        assert store.pauses() == []


class TestConnections:
    def test_disconnect(self, store: AdvancingStore) -> None:
        attach(store, "user.1/phone", "user.1/tab")
        assert netra_queue("disconnect", "user.1", "--dry-run") == "connections of user.1: 2 would be closed\n"
        assert netra_queue("disconnect", "user.1/tab", "--after", "9") == "connections of user.1/tab: 1 are closed\n"
        ((id, seconds),) = store.sent_away(HERE.id).items()
        assert seconds == 9
        found = json.loads(netra_queue("disconnect", "user.1", "--connection", id, "--json"))
        assert found == {"count": 1, "dry_run": False}
        fails("disconnect", "user.1", "--connection", "other", status=1, match="Nothing matched")
        fails("disconnect", "user.1", "--after", "-1", status=2, match="after_seconds")
        fails("disconnect", "user.2", status=1, match="There is no queue")

    def test_resend(self, store: AdvancingStore) -> None:
        attach(store, "user.1/phone")
        assert netra_queue("resend", "user.1") == "queues and devices with connections: 1 rung\n"
        store.ensure(["user.2"])
        fails("resend", "user.2", status=1, match="Nothing matched")

    def test_forget(self, store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
        attach(store, "user.1/phone", "user.1/tab")
        put(store, make_draft())
        assert netra_queue("forget", "user.1/tab", "--dry-run") == "user.1/tab: 1 messages wait for it\n"
        fails("forget", "user.1/tab", status=2, match="--yes")
        monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
        assert netra_queue("forget", "user.1/tab") == "user.1/tab: 1 messages removed; it is forgotten\n"
        fails("forget", "user.1/tab", "--yes", status=1, match="There is no device")
        fails("forget", "user.1", "--yes", status=2, match="device's line")
        assert json.loads(netra_queue("forget", "user.1/phone", "--yes", "--json")) == {"count": 0, "dry_run": False}


def test_export(store: AdvancingStore) -> None:
    put(store, make_draft(text='{"n":1}'), make_draft(text='{"n":2}'))
    found = [json.loads(line) for line in netra_queue("export", "user.1").splitlines()]
    assert [one["data"] for one in found] == [{"n": 1}, {"n": 2}]
    store.ensure(["user.2"])
    fails("export", "user.2", status=1, match="Nothing matched")
    fails("export", "user.3", status=1, match="There is no queue")


def test_recover(store: AdvancingStore) -> None:
    attach(store, "user.1")
    put(store, make_draft())
    store.advance(MISSED_HEARTBEATS * 10.0 + 1)
    assert "connections of dead server processes: 1 would be removed\n" in netra_queue("recover", "--dry-run")
    found = json.loads(netra_queue("recover", "--json"))
    assert found == {"connections": 1, "queues": 1, "messages": 1, "resized": 0, "lost": 0, "dry_run": False}
    Message.objects.update(size=1)
    text = fails("recover", status=1, match="1 messages were damaged")
    assert "messages with a wrong size: 1 corrected\n" in text
    assert "messages with a wrong size: 0 corrected\n" in netra_queue("recover")


def test_requeue_by_queue_reason_and_time(store: AdvancingStore) -> None:
    store.ensure(["user.1", "user.2"])
    put(store, make_draft(ttl=10), make_draft("user.2", ttl=10))
    store.advance(11)
    store.sweep(10)
    soon = (store.now() + timedelta(seconds=5)).isoformat()
    fails("requeue", status=2, match="--all")
    fails("requeue", "user.1", "--since", soon, status=1, match="Nothing matched")
    fails("requeue", "--all", "--reason", "dead", status=1, match="Nothing matched")
    fails("requeue", "user.3", status=1, match="There is no queue")
    assert netra_queue("requeue", "--all", "--dry-run") == "dead letters: 2 would be requeued\n"
    found = json.loads(netra_queue("requeue", "user.1", "--reason", "expired", "--since", "2020-01-01T00:00", "--json"))
    assert found == {"count": 1, "dry_run": False, "refused": 0}
    assert netra_queue("requeue", "--all") == "dead letters: 1 requeued\n"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """As from a shell, on the test's own database."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DATABASE_URL": f"sqlite:///{connections['default'].settings_dict['NAME']}",
        "REDIS_URL": "",
    }
    command = [sys.executable, "-m", "django", "netra_queue", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_exit_statuses_in_a_shell(store: AdvancingStore) -> None:
    put(store, make_draft())
    done = run("export", "user.1")
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 1, "")
    assert run("resume", "user.1").returncode == 1
    for wrong in (("pause", "user.1", "--until", "tomorrow"), ("purge",), ("purge", "user 1")):
        assert run(*wrong).returncode == 2, wrong
