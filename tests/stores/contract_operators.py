"""What every store promises about what operators do to queues and connections (see ``stores.base_operators``)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import override_settings

from netra_queue.core.actions import ReadRequest
from netra_queue.core.message import LossReason, Priority
from netra_queue.stores.base import MISSED_HEARTBEATS, Pause
from tests.making import HERE, THERE, AdvancingStore, get, ids, make_draft, make_policy, make_presence, put

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
DAY = 86_400


def version(store: AdvancingStore) -> int:
    found = store.controls()
    assert found is not None
    return found.version


def is_told(store: AdvancingStore, before: int) -> bool:
    """Servers find that an operator has done something."""
    return store.controls(known=before) is not None


def pause(store: AdvancingStore, *queues: str, seconds: float | None = None, reason: str = "", by: str = "") -> None:
    until = None if seconds is None else store.now() + timedelta(seconds=seconds)
    store.pause(queues, until, reason, by)


class PauseContract:
    def test_a_paused_queue_gives_nothing_and_takes_everything(self, store: AdvancingStore) -> None:
        first, second = make_draft(), make_draft()
        put(store, first, make_draft("user.2"))
        before = version(store)
        pause(store, "user.1", reason="a bad release", by="ann")
        assert is_told(store, before)
        put(store, second)
        batch = get(store)
        assert (batch.messages, batch.more, batch.is_paused, batch.resumes_at) == ((), False, True, None)
        assert not get(store, "user.2").is_paused
        assert len(get(store, "user.2").messages) == 1
        assert store.waiting(["user.1", "user.2"]) == {"user.2"}
        before = version(store)
        assert store.resume(["user.1", "user.2"]) == 1
        assert is_told(store, before)
        assert ids(get(store)) == [first.id, second.id]
        assert not get(store).is_paused
        assert store.waiting(["user.1"]) == {"user.1"}
        assert store.resume(["user.1"]) == 0

    def test_many_queues_in_one_read(self, store: AdvancingStore) -> None:
        """Each has its own answer, whatever the order."""
        names = [f"user.{number}" for number in range(150)]
        put(store, *(make_draft(name) for name in names))
        pause(store, *names[::3])
        batches = store.read([(name, ReadRequest(5, 10**6, frozenset())) for name in names])
        assert [batch.is_paused for batch in batches] == [number % 3 == 0 for number in range(150)]
        assert [len(batch.messages) for batch in batches] == [int(number % 3 != 0) for number in range(150)]

    def test_a_queue_is_paused_with_its_lines_and_a_line_alone(self, store: AdvancingStore) -> None:
        for line in ("user.1/phone", "user.1/tab"):
            store.attach(make_presence(line), make_policy())
        put(store, make_draft())
        pause(store, "user.1/tab")
        assert get(store, "user.1/tab").is_paused
        assert len(get(store, "user.1/phone").messages) == 1
        pause(store, "user.1")
        store.attach(make_presence("user.1/new"), make_policy())
        put(store, make_draft())
        assert all(get(store, f"user.1/{device}").is_paused for device in ("phone", "tab", "new"))
        assert set(store.paused(["user.1/phone", "user.1", "user.2"])) == {"user.1/phone", "user.1"}
        assert store.resume(["user.1"]) == 1
        assert get(store, "user.1/tab").is_paused
        assert len(get(store, "user.1/phone").messages) == 2

    def test_a_pause_ends_by_itself(self, store: AdvancingStore) -> None:
        put(store, make_draft())
        pause(store, "user.1", seconds=60)
        end = store.paused(["user.1"])["user.1"].until
        assert end is not None
        assert get(store).resumes_at == end
        store.advance(59)
        assert get(store).is_paused
        store.advance(2)
        assert store.paused(["user.1"]) == {}
        assert store.waiting(["user.1"]) == {"user.1"}
        assert len(get(store).messages) == 1
        assert store.resume(["user.1"]) == 0

    def test_of_a_lines_pause_and_its_queues_the_longer_one_counts(self, store: AdvancingStore) -> None:
        pause(store, "user.1", seconds=60)
        pause(store, "user.1/tab", seconds=120)
        assert get(store, "user.1/tab").resumes_at == store.paused(["user.1/tab"])["user.1/tab"].until
        store.advance(61)
        assert get(store, "user.1/tab").is_paused
        assert not get(store, "user.1").is_paused
        pause(store, "user.1")
        assert get(store, "user.1/tab").resumes_at is None

    def test_who_paused_it_and_why(self, store: AdvancingStore) -> None:
        until = store.now() + timedelta(hours=1)
        store.pause(["user.1"], until, "Grüße 😀", "ann")
        found = store.paused(["user.1"])["user.1"]
        assert found == Pause(since=found.since, until=until, reason="Grüße 😀", by="ann")
        assert abs((until - found.since).total_seconds() - 3600) < 5
        assert store.stat("user.1").pause == store.stat("user.1/phone").pause == found
        put(store, make_draft())
        overview = store.overview(10, 100)
        assert overview.paused == 1
        assert overview.largest[0].pause == found
        store.pause(["user.1"], None, "", "bob")
        assert store.paused(["user.1"])["user.1"].by == "bob"
        assert store.paused(["user.1"])["user.1"].until is None
        store.resume(["user.1"])
        assert (store.stat("user.1").pause, store.overview(10, 100).paused) == (None, 0)

    def test_time_passes_and_losses_are_told_while_it_is_paused(self, store: AdvancingStore) -> None:
        put(store, make_draft(ttl=10), make_draft(ttl=1000))
        pause(store, "user.1")
        store.advance(11)
        assert store.sweep(10) == 1
        assert store.losses(["user.1"])["user.1"].total(LossReason.EXPIRED) == 1
        assert store.stat("user.1").messages == 1

    def test_what_is_in_flight_can_be_acked(self, store: AdvancingStore) -> None:
        put(store, make_draft())
        (message,) = get(store).messages
        pause(store, "user.1")
        assert store.ack({"user.1": [message.position]}) == {}
        assert store.stat("user.1").messages == 0

    def test_what_waits_for_the_first_device_goes_on_waiting(self, store: AdvancingStore) -> None:
        draft = make_draft()
        put(store, draft)
        pause(store, "user.1")
        assert store.attach(make_presence("user.1/phone"), make_policy()).waiting == 1
        assert get(store, "user.1/phone").is_paused
        store.resume(["user.1"])
        assert ids(get(store, "user.1/phone")) == [draft.id]

    @override_settings(NETRA_QUEUE={"IDLE_QUEUE_SECONDS": DAY})
    def test_a_paused_queue_is_not_forgotten(self, store: AdvancingStore) -> None:
        pause(store, "user.1")
        pause(store, "user.2", seconds=DAY / 2)
        store.advance(DAY + 1)
        assert store.due(10).idle_queues == store.forget_idle(10) == 1
        put(store, make_draft())
        assert get(store).is_paused

    def test_a_tentative_read_gives_nothing_either(self, store: AdvancingStore) -> None:
        put(store, make_draft())
        pause(store, "user.1")
        batch = get(store, is_tentative=True)
        assert (batch.messages, batch.unnoted, batch.is_paused) == ((), frozenset(), True)


class SendAwayContract:
    def connect(self, store: AdvancingStore) -> dict[str, str]:
        """Three connections. Returns their ids by line."""
        for server in (HERE, THERE):
            store.heartbeat(server)
        found = {
            "user.1": make_presence("user.1"),
            "user.1/phone": make_presence("user.1/phone", server=THERE),
            "user.2": make_presence("user.2"),
        }
        for presence in found.values():
            store.attach(presence, make_policy())
        self.presences = found
        return {line: presence.id for line, presence in found.items()}

    def test_all_of_a_queue(self, store: AdvancingStore) -> None:
        ids = self.connect(store)
        before = version(store)
        assert store.send_away("user.1", 5) == 2
        assert is_told(store, before)
        assert store.sent_away(HERE.id) == {ids["user.1"]: 5}
        assert store.sent_away(THERE.id) == {ids["user.1/phone"]: 5}
        store.detach([self.presences["user.1"]])
        assert store.sent_away(HERE.id) == {}

    def test_one_device(self, store: AdvancingStore) -> None:
        ids = self.connect(store)
        assert store.send_away("user.1/phone", 2.5) == 1
        assert (store.sent_away(HERE.id), store.sent_away(THERE.id)) == ({}, {ids["user.1/phone"]: 2.5})

    def test_one_connection(self, store: AdvancingStore) -> None:
        ids = self.connect(store)
        assert store.send_away("user.1", 1, ids["user.2"]) == 0, "it is another queue's"
        assert store.send_away("user.1", 1, ids["user.1"]) == 1
        assert (store.sent_away(HERE.id), store.sent_away(THERE.id)) == ({ids["user.1"]: 1}, {})

    def test_nobody_is_told_of_nothing(self, store: AdvancingStore) -> None:
        self.connect(store)
        before = version(store)
        assert store.send_away("user.3", 1) == 0
        assert not is_told(store, before)

    def test_attaching_again_does_not_take_it_back(self, store: AdvancingStore) -> None:
        self.connect(store)
        store.send_away("user.2", 1)
        store.attach(self.presences["user.2"], make_policy())
        assert len(store.sent_away(HERE.id)) == 1

    def test_what_a_dead_server_holds_does_not_count(self, store: AdvancingStore) -> None:
        self.connect(store)
        store.advance(MISSED_HEARTBEATS * 10.0 + 1)
        store.heartbeat(THERE)
        assert store.send_away("user.1", 1) == 1


class LookContract:
    def test_the_family_of_a_queue(self, store: AdvancingStore) -> None:
        store.attach(make_presence("user.1/phone"), make_policy())
        store.attach(make_presence("user.10/tab"), make_policy())
        store.forget_line("user.1/phone", make_policy())
        assert store.family(["user.1"]) == ["user.1", "user.1/phone"]
        assert store.family(["user.1/phone", "user.404"]) == ["user.1/phone", "user.404"]
        assert store.family([]) == []

    def test_what_holds_messages_in_steps(self, store: AdvancingStore) -> None:
        names = [f"user.{number}" for number in range(7)]
        store.ensure([*names, "empty"])
        put(store, *(make_draft(name) for name in names))
        found: list[str] = []
        while step := store.filled(3, found[-1] if found else None):
            assert len(step) <= 3
            found += step
        assert sorted(found) == names
        assert len(found) == 7

    def test_messages_in_steps(self, store: AdvancingStore) -> None:
        drafts = [make_draft(priority=priority) for priority in (LOW, HIGH, NORMAL, HIGH, LOW)]
        put(store, *drafts, make_draft(ttl=5), make_draft("user.2"))
        store.advance(6)
        pause(store, "user.1")
        before, found = store.stat("user.1"), []
        while step := store.peek("user.1", 2, (found[-1].priority, found[-1].position) if found else None):
            found += step
        assert [message.id for message in found] == [drafts[n].id for n in (1, 3, 2, 0, 4)]
        assert store.stat("user.1") == before
        store.resume(["user.1"])
        assert [message.id for message in get(store).messages] == [message.id for message in found]

    def test_a_shared_payload_can_be_seen(self, store: AdvancingStore) -> None:
        for line in ("user.1/phone", "user.1/tab"):
            store.attach(make_presence(line), make_policy())
        put(store, make_draft(text='{"x":"Grüße"}'))
        (message,) = store.peek("user.1/tab", 5)
        assert message.payload.text == '{"x":"Grüße"}'


class PurgeContract:
    @pytest.mark.parametrize(("priority", "expected"), [(None, 3), (LOW, 2), (HIGH, 1)])
    def test_only_what_has_expired(self, store: AdvancingStore, priority: Priority | None, expected: int) -> None:
        for ttl in (10, 1000):
            put(store, *(make_draft(priority=p, ttl=ttl) for p in (LOW, HIGH, LOW)))
        store.advance(11)
        assert store.matching(["user.1", "user.2"], priority, only_expired=True) == expected
        assert store.purge("user.1", 10, priority, only_expired=True) == expected
        assert store.matching(["user.1"], priority, only_expired=True) == 0
        losses = store.losses(["user.1"])["user.1"]
        assert (losses.total(LossReason.EXPIRED), losses.total(LossReason.DROPPED)) == (expected, 0)
        assert store.matching(["user.1"]) == 6 - expected

    def test_it_is_bounded(self, store: AdvancingStore) -> None:
        put(store, *(make_draft(ttl=10) for _ in range(5)))
        store.advance(11)
        assert [store.purge("user.1", 2, only_expired=True) for _ in range(4)] == [2, 2, 1, 0]

    @override_settings(NETRA_QUEUE={"POLICIES": {"default": {"DEAD_LETTERS": ["expired", "dropped"]}}})
    def test_what_a_policy_keeps_of_what_expires_is_kept(self, store: AdvancingStore) -> None:
        put(store, make_draft(ttl=10), make_draft(ttl=1000))
        store.advance(11)
        store.purge("user.1", 10, only_expired=True)
        assert [letter.reason for letter in store.letters(10)] == [LossReason.EXPIRED]
        store.purge("user.1", 10)
        assert len(store.letters(10)) == 1, "what an operator removes is gone"


class MendContract:
    def test_nothing_is_wrong(self, store: AdvancingStore) -> None:
        put(store, *(make_draft(text=f'"{"ü" * size}"') for size in range(5)))
        found = store.mend(3)
        assert (found.checked, found.resized, found.lost) == (3, 0, 0)
        assert found.last is not None
        found = store.mend(3, found.last)
        assert (found.checked, found.resized, found.lost) == (2, 0, 0)
        assert found.last is not None
        assert store.mend(3, found.last).last is None


class LettersSinceContract:
    @override_settings(NETRA_QUEUE={"POLICIES": {"default": {"DEAD_LETTERS": ["expired"]}}})
    def test_letters_since(self, store: AdvancingStore) -> None:
        put(store, make_draft(ttl=10), make_draft(ttl=100))
        store.advance(11)
        store.sweep(10)
        since = store.now() + timedelta(seconds=1)
        store.advance(100)
        store.sweep(10)
        assert len(store.letters(10)) == 2
        assert len(store.letters(10, since=since)) == 1
        assert store.letters(10, since=store.now() + timedelta(seconds=1)) == []


class OperatorContract(
    PauseContract, SendAwayContract, LookContract, PurgeContract, MendContract, LettersSinceContract
): ...
