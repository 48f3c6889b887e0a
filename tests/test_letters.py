"""netra_queue.letters: what operators do with what was set aside."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import pytest
from django.core.management import CommandError
from django.db import transaction

from netra_queue import LossReason, letters, maintenance, sending, tasks, wakeup
from netra_queue.stores import current_store
from tests.making import HERE, AdvancingStore, get, ids, make_draft, make_policy, make_presence, put
from tests.test_command import netra_queue
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
DAY = 86_400
KEEPING = {"DEAD_LETTERS": ["dropped", "expired"], "DEAD_LETTER_SECONDS": DAY}


@pytest.fixture
def store(settings: Any) -> AdvancingStore:
    settings.NETRA_QUEUE = {
        "STORE": "tests.making.AdvancingDatabaseStore",
        "POLICIES": {"default": KEEPING},
    }
    return current_store()  # type: ignore[return-value]


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[Collection[str]]:
    found: list[Collection[str]] = []
    monkeypatch.setattr(sending, "announce", found.append)
    return found


def set_aside(store: AdvancingStore, *queues: str) -> list[int]:
    """One dropped message in each queue. Returns the numbers of the letters."""
    for queue in queues:
        put(store, make_draft(queue), make_draft(queue), policy=make_policy(max_messages=1))
        store.ensure([queue])
        store.purge(queue, 1)
    return sorted(letter.number for letter in store.letters(100))


class TestRequeue:
    def test_it_rings_once_for_all(self, store: AdvancingStore, rung: list[Collection[str]]) -> None:
        numbers = set_aside(store, "user.1", "user.2", "user.1")
        assert letters.requeue([*numbers, *numbers]) == letters.Requeued(count=3, refused=())
        assert rung == [{"user.1", "user.2"}]
        assert len(get(store, "user.1").messages) == 2
        assert letters.requeue(numbers) == letters.Requeued(count=0, refused=())
        assert len(rung) == 1, "nothing to ring for"

    def test_oldest_first(self, store: AdvancingStore, rung: list[Collection[str]]) -> None:
        first, second = set_aside(store, "user.1", "user.1")
        names = {letter.number: letter.id for letter in store.letters(9)}
        letters.requeue([second, first])
        assert ids(get(store)) == [names[first], names[second]]

    def test_in_a_transaction_it_rings_after_the_commit(
        self, store: AdvancingStore, rung: list[Collection[str]]
    ) -> None:
        numbers = set_aside(store, "user.1")
        with transaction.atomic():
            letters.requeue(numbers)
            assert rung == []
        assert rung == [{"user.1"}]

    def test_what_is_refused_is_named(self, store: AdvancingStore, rung: list[Collection[str]], settings: Any) -> None:
        one, two = set_aside(store, "user.1", "user.2")
        settings.NETRA_QUEUE = {
            **settings.NETRA_QUEUE,
            "POLICIES": {"default": {**KEEPING, "MAX_MESSAGES": 1, "OVERFLOW": "reject"}},
        }
        put(current_store(), make_draft("user.1"))
        assert letters.requeue([one, two]) == letters.Requeued(count=1, refused=(one,))
        assert [letter.number for letter in letters.letters()] == [one]


def test_listing_and_deleting(store: AdvancingStore) -> None:
    one, two, three = set_aside(store, "user.1", "user.2", "user.1")
    assert [letter.number for letter in letters.letters()] == [three, two, one]
    assert [letter.number for letter in letters.letters(queue="user.1", limit=1)] == [three]
    assert letters.letters(reason=LossReason.DEAD) == []
    assert letters.delete([one, two, 10**9]) == 2
    assert [letter.number for letter in letters.letters()] == [three]


class TestUpkeep:
    def test_old_letters_go(self, store: AdvancingStore) -> None:
        set_aside(store, "user.1", "user.2")
        assert maintenance.forget_letters() == maintenance.Removal(count=0, finished=True)
        store.advance(DAY)
        assert maintenance.forget_letters(dry_run=True).count == 2
        assert "dead letters that were kept long enough: 2 would be removed\n" in netra_queue("sweep", "--dry-run")
        assert maintenance.forget_letters(batch=1, budget_seconds=1e-9) == maintenance.Removal(count=1, finished=False)
        assert "dead letters that were kept long enough: 1 removed\n" in netra_queue("sweep")

    def test_the_task_removes_them(self, store: AdvancingStore) -> None:
        set_aside(store, "user.1")
        store.advance(DAY)
        tasks.upkeep()
        assert letters.letters() == []


class TestCommands:
    def test_letters(self, store: AdvancingStore) -> None:
        one, two = set_aside(store, "user.1", "user.2")
        lines = netra_queue("letters").splitlines()
        assert [line.split()[0] for line in lines] == ["number", str(two), str(one)]
        assert lines[2].endswith("user.1")
        assert "dropped" in lines[1]
        assert len(netra_queue("letters", "user.1").splitlines()) == 2
        assert len(netra_queue("letters", "--limit", "1").splitlines()) == 2
        assert len(netra_queue("letters", "--reason", "dead").splitlines()) == 1

    def test_letters_as_json(self, store: AdvancingStore) -> None:
        (number,) = set_aside(store, "user.1")
        (found,) = json.loads(netra_queue("letters", "--json"))
        assert (found["number"], found["queue"], found["reason"]) == (number, "user.1", "dropped")
        assert "payload" not in found

    def test_requeue_a_queue(self, store: AdvancingStore) -> None:
        set_aside(store, "user.1", "user.1", "user.2")
        assert netra_queue("requeue", "user.1", "--dry-run") == "dead letters: 2 would be requeued\n"
        assert get(store).messages == ()
        assert netra_queue("requeue", "user.1") == "dead letters: 2 requeued\n"
        assert len(get(store).messages) == 2
        with pytest.raises(CommandError, match="Nothing matched"):
            netra_queue("requeue", "user.1")
        with pytest.raises(CommandError, match=r"no queue 'user\.9'"):
            netra_queue("requeue", "user.9")

    def test_requeue_one(self, store: AdvancingStore) -> None:
        one, _ = set_aside(store, "user.1", "user.1")
        assert netra_queue("requeue", "--id", str(one)) == "dead letters: 1 requeued\n"
        with pytest.raises(CommandError, match=f"no dead letter {one}"):
            netra_queue("requeue", "--id", str(one))

    def test_requeue_needs_one_of_both(self, store: AdvancingStore) -> None:
        for arguments in ([], ["user.1", "--id", "1"]):
            with pytest.raises(CommandError):
                netra_queue("requeue", *arguments)

    def test_requeue_says_what_was_refused(self, store: AdvancingStore, settings: Any) -> None:
        set_aside(store, "user.1")
        settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": {"default": {"MAX_MESSAGE_BYTES": 2}}}
        with pytest.raises(CommandError, match="1 stay"):
            netra_queue("requeue", "user.1")


def test_a_requeued_message_reaches_a_process_that_holds_its_client(store: AdvancingStore, settings: Any) -> None:
    """Through the real bell: what ``announce`` does is asked for once, with the lines."""
    numbers = set_aside(store, "user.1")
    heard: list[Collection[str]] = []
    wakeup.register_local(HERE.id, heard.append)
    try:
        store.heartbeat(HERE)
        store.attach(make_presence("user.1", policy="default"), make_policy())
        letters.requeue(numbers)
        wait_until(lambda: heard)
    finally:
        wakeup.unregister_local(HERE.id)
    assert [sorted(queues) for queues in heard] == [["user.1"]]
