"""Actions in the admin: asked for, confirmed, carried out in steps, written down."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry

from netra_queue import maintenance, operating
from netra_queue.admin import actions, queue_actions
from netra_queue.core.controls import Controls
from netra_queue.core.message import LossReason, Priority
from netra_queue.exceptions import StoreUnavailable
from netra_queue.models import Message, Queue, queue_id
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from tests.making import HERE, make_draft, make_policy, make_presence, put
from tests.test_admin import act, ask, confirm, finish, known, login, rows_of, show, superuser, url_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.urls("tests.test_admin")]


@pytest.fixture
def store() -> Store:
    return current_store()


def keys(*names: str) -> list[int]:
    return [queue_id(name) for name in names]


class TestPurge:
    def test_it_asks_first_and_then_goes_through_the_store(self, store: Store) -> None:
        known(store, "user.1", "user.2")
        put(store, make_draft(), make_draft(), make_draft("user.2"))
        client = login("view_queue", "purge_queue")
        question = ask(client, Queue, "purge", keys("user.1"))
        page = " ".join(question.content.decode().split())
        assert "1 is chosen. 2 messages." in page
        assert "<li>user.1</li>" in page
        assert Message.objects.count() == 3
        assert "Purged 2 messages." in confirm(client, question).content.decode()
        assert list(Message.objects.values_list("queue_id", flat=True)) == keys("user.2")
        assert store.losses(["user.1"])["user.1"].total(LossReason.DROPPED) == 2

    def test_of_some_priorities_with_who_did_it(self, store: Store) -> None:
        known(store, "user.1")
        put(store, *(make_draft(priority=priority) for priority in Priority))
        act(login("view_queue", "purge_queue"), Queue, "purge", keys("user.1"), priorities=["low", "high"])
        assert set(Message.objects.values_list("priority", flat=True)) == {Priority.CRITICAL, Priority.NORMAL}
        entry = LogEntry.objects.get()
        assert entry.get_change_message() == "Purged 2 messages of priority high, low."
        said = (entry.object_id, entry.object_repr, entry.user.username)
        assert said == (str(queue_id("user.1")), "user.1", "operator-0")

    def test_it_needs_its_permission(self, store: Store) -> None:
        known(store, "user.1")
        put(store, make_draft())
        client = login("view_queue")
        assert 'value="purge"' not in show(client, Queue)
        assert "act/purge" not in client.get(url_of(Queue, "change", queue_id("user.1"))).content.decode()
        assert client.get(url_of(Queue, "act", "purge"), {"only": queue_id("user.1")}).status_code == 403
        assert client.post(url_of(Queue, "act", "purge"), {"job": "x"}).status_code == 403
        assert login("purge_queue").get(url_of(Queue, "act", "purge"), {"only": "1"}).status_code == 403
        assert Message.objects.count() == 1

    def test_what_is_filled_in_wrongly_is_asked_again(self, store: Store) -> None:
        known(store, "user.1")
        put(store, make_draft())
        client = superuser()
        answer = confirm(client, ask(client, Queue, "purge", keys("user.1")), priorities=["urgent"])
        assert "urgent is not one of the available choices" in answer.content.decode()
        assert Message.objects.count() == 1
        assert "Purged 1 messages." in confirm(client, answer, priorities=["normal"]).content.decode()


class TestSteps:
    def test_a_long_one_shows_how_far_it_is_and_goes_on(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(actions, "STEP_SECONDS", 1e-9)
        moments = iter(range(100))
        clock = SimpleNamespace(monotonic=lambda: next(moments) * 0.6e-9)  # one batch fits into a step
        monkeypatch.setattr(actions, "time", clock)
        names = ["user.1", "user.2", "user.3"]
        known(store, *names)
        put(store, *(make_draft(name) for name in names))
        client = superuser()
        page = confirm(client, ask(client, Queue, "purge", keys(*names)))
        text = page.content.decode()
        assert '<progress value="1" max="3"' in text
        assert "netra_queue/admin/continue.js" in text
        assert "Purged 1 messages." in text
        assert Message.objects.count() == 2
        page = confirm(client, confirm(client, page))
        assert "Purged 3 messages." in page.content.decode()
        assert not Message.objects.exists()
        assert LogEntry.objects.count() == 3

    def test_a_row_that_takes_long_is_taken_up_again(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        known(store, "user.1")
        put(store, *(make_draft() for _ in range(5)))
        monkeypatch.setattr(actions, "STEP_SECONDS", 0.05)
        purge = maintenance.purge
        monkeypatch.setattr(
            queue_actions.maintenance, "purge", lambda name, which, **_: purge(name, which, batch=1, budget_seconds=0)
        )
        assert "Purged 5 messages." in act(superuser(), Queue, "purge", keys("user.1"))

    def test_an_error_stops_it_and_it_can_be_carried_on(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        known(store, "user.1", "user.2")
        put(store, make_draft(), make_draft("user.2"))
        client = superuser()

        def fails(*given: object, **options: object) -> None:
            raise StoreUnavailable("it is away")

        with monkeypatch.context() as patch:
            patch.setattr(queue_actions.maintenance, "purge", fails)
            page = confirm(client, ask(client, Queue, "purge", keys("user.1", "user.2")))
        text = page.content.decode()
        assert "it is away" in text
        assert "continue.js" not in text, "a person decides whether to go on"
        assert "Purged 2 messages." in confirm(client, page).content.decode()

    def test_a_step_that_is_sent_twice_does_no_harm(self, store: Store) -> None:
        known(store, "user.1")
        put(store, make_draft())
        client = superuser()
        question = ask(client, Queue, "purge", keys("user.1"))
        confirm(client, question)
        assert "Purged 0 messages." in confirm(client, question).content.decode()

    def test_a_queue_that_is_gone_meanwhile(self, store: Store) -> None:
        known(store, "user.1")
        client = superuser()
        question = ask(client, Queue, "purge", keys("user.1"))
        Queue.objects.all().delete()
        assert "Purged 0 messages." in confirm(client, question).content.decode()


class TestWhatIsChosen:
    def test_all_that_match_and_not_only_the_page(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [f"user.{number:03}" for number in range(120)]
        known(store, *names, "other")
        put(store, *(make_draft(name) for name in names))
        client = superuser()
        question = ask(client, Queue, "purge", keys("user.000"), "?depth=1", select_across="1")
        text = " ".join(question.content.decode().split())
        assert "120 are chosen. 120 messages." in text
        assert "and 100 more" in text
        answer = finish(client, confirm(client, question))
        assert answer.redirect_chain == [(f"{url_of(Queue)}?depth=1", 302)]
        assert not Message.objects.exists()

    def test_no_more_than_the_cap(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(queue_actions.Purge, "cap", 2)
        known(store, "user.1", "user.2", "user.3")
        put(store, *(make_draft(f"user.{number}") for number in (1, 2, 3)))
        client = superuser()
        question = ask(client, Queue, "purge", keys("user.1", "user.2", "user.3"))
        assert "at most 2 at once" in question.content.decode()
        confirm(client, question)
        assert list(Message.objects.values_list("queue_id", flat=True)) == keys("user.3")

    def test_what_was_chosen_by_hand_stays_chosen_when_the_list_has_changed(self, store: Store) -> None:
        known(store, "user.1")
        question = ask(superuser(), Queue, "purge", keys("user.1"), "?depth=1")
        assert "1 is chosen." in question.content.decode()

    def test_one_queue_from_its_page_and_back(self, store: Store) -> None:
        known(store, "user.1")
        put(store, make_draft())
        client, page = superuser(), url_of(Queue, "change", queue_id("user.1"))
        link = f"{url_of(Queue, 'act', 'purge')}?only={queue_id('user.1')}"
        assert link in client.get(page).content.decode()
        question = client.get(link)
        assert Message.objects.count() == 1
        assert confirm(client, question).redirect_chain == [(page, 302)]
        assert not Message.objects.exists()
        assert client.get(f"{url_of(Queue, 'act', 'purge')}?only=77").status_code == 302

    @pytest.mark.parametrize("change", [lambda token: token[:-1] + "x", lambda token: ""])
    def test_what_was_chosen_cannot_be_changed_on_the_way(self, store: Store, change: Any) -> None:
        known(store, "user.1")
        put(store, make_draft())
        client = superuser()
        question = ask(client, Queue, "purge", keys("user.1"))
        token = change(question.context["token"])
        answer = client.post(question.context["act_url"], {"job": token}, follow=True)
        assert "This page is too old." in answer.content.decode()
        assert Message.objects.count() == 1

    def test_nor_carried_on_by_somebody_else(self, store: Store) -> None:
        known(store, "user.1")
        put(store, make_draft())
        question = ask(superuser(), Queue, "purge", keys("user.1"))
        answer = confirm(login("view_queue", "purge_queue"), question)
        assert "This page is too old." in answer.content.decode()
        assert Message.objects.count() == 1


def phone(store: Store) -> None:
    store.heartbeat(HERE)
    store.attach(make_presence("user.1/phone", id="c1"), make_policy())
    put(store, make_draft(text='{"card":"4711"}'))


def acts_on(client: Any, action: str, name: str, **fields: object) -> str:
    return act(client, Queue, action, keys(name), **fields)


class TestOthers:
    @pytest.mark.parametrize("action", [each for each in queue_actions.ACTIONS if each.name != "purge"])
    def test_each_needs_its_own_permission(self, store: Store, action: actions.Action) -> None:
        known(store, "user.1")
        url = f"{url_of(Queue, 'act', action.name)}?only={queue_id('user.1')}"
        mine = action.permission.partition(".")[2]
        others = {each.permission.partition(".")[2] for each in queue_actions.ACTIONS} - {mine}
        also = [name.partition(".")[2] for name in action.also]
        assert login("view_queue", *others, *also).get(url).status_code == 403
        assert login("view_queue", mine, *also).get(url).status_code == 200
        assert login(mine, *also).get(url).status_code == 403
        assert all(login("view_queue", mine).get(url).status_code == 403 for _ in also)

    def test_pause_and_resume(self, store: Store) -> None:
        known(store, "user.1", "user.2")
        client = superuser()
        assert "Paused 1 queues." in acts_on(client, "pause", "user.1", minutes="5", reason="repair")
        assert "Paused 1 queues." in acts_on(client, "pause", "user.2", minutes="", reason="")
        first, second = store.paused(["user.1"])["user.1"], store.paused(["user.2"])["user.2"]
        assert first.until is not None
        assert (first.by, first.reason, second.until) == ("root", "repair", None)
        assert [queue.name for queue in rows_of(client, Queue, "?paused=yes")] == ["user.2", "user.1"]
        assert "until it is resumed (root)" in show(client, Queue)
        assert "(root) (repair)" in client.get(url_of(Queue, "change", queue_id("user.1"))).content.decode()
        assert "Resumed 1 queues." in acts_on(client, "resume", "user.1")
        assert set(store.paused(["user.1", "user.2"])) == {"user.2"}
        texts = set(LogEntry.objects.values_list("change_message", flat=True))
        assert texts == {"Paused for 5 minutes: repair", "Paused until it is resumed.", "Resumed."}

    def test_minutes_that_are_none(self, store: Store) -> None:
        known(store, "user.1")
        client = superuser()
        answer = confirm(client, ask(client, Queue, "pause", keys("user.1")), minutes="-1")
        assert "greater than or equal to 1" in answer.content.decode()
        assert store.paused(["user.1"]) == {}

    def test_disconnect_one_connection_from_its_queues_page(self, store: Store) -> None:
        phone(store)
        client = superuser()
        page = client.get(url_of(Queue, "change", queue_id("user.1"))).content.decode()
        link = f"{url_of(Queue, 'act', 'disconnect')}?only={queue_id('user.1')}"
        assert f"{link}&amp;connection=c1" in page
        question = client.get(f"{link}&connection=c1")
        assert 'name="connection" value="c1"' in question.content.decode()
        confirm(client, question, connection="other", after_seconds="7")
        assert store.sent_away(HERE.id) == {}
        answer = confirm(client, question, connection="c1", after_seconds="7")
        assert "1 connections are being closed." in answer.content.decode()
        assert store.sent_away(HERE.id) == {"c1": 7.0}

    def test_resend_and_forget(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("netra_queue.operators.disconnecting.GONE_SECONDS", 0.0)
        phone(store)
        client = superuser()
        assert "1 queues and lines with connections" in acts_on(client, "resend", "user.1")
        assert "1 are no devices' lines" in acts_on(client, "forget", "user.1")
        assert "Forgotten, with 0 messages." in acts_on(client, "forget", "user.1/phone")
        assert store.lines("user.1") == []
        assert "act/forget" not in client.get(url_of(Queue, "change", queue_id("user.1"))).content.decode()

    def test_purge_takes_the_devices_too_and_expired_ones_alone(self, store: Store) -> None:
        phone(store)
        client = superuser()
        assert "Purged 0 messages." in acts_on(client, "purge", "user.1", only_expired="on")
        assert "Purged 1 messages." in acts_on(client, "purge", "user.1")

    def test_change_policy_goes_before_other_patterns_and_back(self, store: Store, settings: Any) -> None:
        settings.NETRA_QUEUE = {"POLICIES": {"large": {"MAX_MESSAGES": 5000}, "small": {"MAX_MESSAGES": 5}}}
        operating.carry_out(operating.pattern_set("user.*", "small", 0))
        known(store, "user.1", "user.1/phone")
        client = superuser()
        assert "Changed the policy of 1 queues." in acts_on(client, "set_policy", "user.1/phone", policy="large")
        (first, second) = (store.controls() or Controls()).rules
        assert (first.pattern, first.policy, second.pattern) == ("user.1", "large", "user.*")
        acts_on(client, "set_policy", "user.1", policy="")
        assert [rule.pattern for rule in (store.controls() or Controls()).rules] == ["user.*"]

    def test_export_as_json_lines_through_redact(self, store: Store, settings: Any) -> None:
        phone(store)
        client = superuser()
        question = ask(client, Queue, "export", keys("user.1"))
        answer = confirm(client, question)
        (line,) = map(json.loads, b"".join(answer.streaming_content).decode().splitlines())
        assert (line["queue"], line["data"]) == ("user.1/phone", {"card": "4711"})
        assert answer.headers["Content-Disposition"] == 'attachment; filename="messages.jsonl"'
        assert LogEntry.objects.get().change_message == "Export messages."
        settings.NETRA_QUEUE = {"REDACT": "tests.test_admin_search.without_card"}
        (line,) = map(json.loads, b"".join(confirm(client, question).streaming_content).decode().splitlines())
        assert line["shown"] == {"card": "…"}
        assert "data" not in line
