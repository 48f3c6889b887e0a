"""Receipts: what the verbs return with ``track=True``, asked here and elsewhere, and waited for."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.db import transaction

import netra_queue
from netra_queue import (
    CalledOnEventLoop,
    InvalidMessage,
    MessageEnded,
    MessageState,
    MessageStatus,
    NotTracked,
    Outcome,
    Receipt,
    testing,
)
from netra_queue.stores import current_store
from netra_queue.stores.batching import current_writer
from tests.making import AdvancingStore, get, ids, rolled_back
from tests.server.conftest import play
from tests.stores.contract_receipts import ack

STORES = {"memory": "tests.making.AdvancingMemoryStore", "database": "tests.making.AdvancingDatabaseStore"}


@pytest.fixture(params=STORES)
def store(settings: Any, transactional_db: None, request: pytest.FixtureRequest) -> Iterator[AdvancingStore]:
    settings.NETRA_QUEUE = {"STORE": STORES[request.param]}
    yield current_store()  # type: ignore[misc]
    testing.shutdown()


@pytest.fixture
def database_store(settings: Any, transactional_db: None) -> Iterator[AdvancingStore]:
    settings.NETRA_QUEUE = {"STORE": STORES["database"]}
    yield current_store()  # type: ignore[misc]
    testing.shutdown()


def asynchronous(verb: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: play(verb(*args, **options))


VERBS: dict[str, Callable[..., Receipt]] = {
    "send": lambda user, **options: netra_queue.send(f"user.{user.pk}", 1, **options),
    "send_many": lambda user, **options: netra_queue.send_many([(f"user.{user.pk}", 1)], **options)[0],
    "send_to_user": lambda user, **options: netra_queue.send_to_user(user, 1, **options),
    "asend": lambda user, **options: play(netra_queue.asend(f"user.{user.pk}", 1, **options)),
    "asend_many": lambda user, **options: play(netra_queue.asend_many([(f"user.{user.pk}", 1)], **options))[0],
    "asend_to_user": lambda user, **options: play(netra_queue.asend_to_user(user, 1, **options)),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS.keys())
def test_every_verb_tracks_and_collapses(store: AdvancingStore, verb: Callable[..., Receipt]) -> None:
    user = User.objects.create(username="somebody")
    old, new = (verb(user, track=True, collapse="k") for _ in range(2))
    assert (new.outcome, new.tracked) == (Outcome.QUEUED, True)
    assert [message.id for message in get(store, f"user.{user.pk}").messages] == [new.id]
    statuses = [receipt.status() for receipt in (old, new)]
    assert [status and status.state for status in statuses] == [MessageState.SUPERSEDED, MessageState.DELIVERED]


@pytest.mark.parametrize("status", [Receipt.status, asynchronous(Receipt.astatus)], ids=["status", "astatus"])
class TestStatus:
    def test_as_it_goes(self, store: AdvancingStore, status: Callable[[Receipt], MessageStatus | None]) -> None:
        receipt = netra_queue.send("user.1", 1, track=True)
        found = [status(receipt)]
        get(store)
        found.append(status(receipt))
        ack(store)
        found.append(status(receipt))
        assert [one and one.state.value for one in found] == ["queued", "delivered", "acked"]
        store.advance(86_401)
        store.forget_keys(10)
        assert status(receipt) is None

    def test_of_what_is_not_tracked(
        self, store: AdvancingStore, status: Callable[[Receipt], MessageStatus | None]
    ) -> None:
        with pytest.raises(NotTracked):
            status(netra_queue.send("user.1", 1))

    def test_of_a_duplicate(self, store: AdvancingStore, status: Callable[[Receipt], MessageStatus | None]) -> None:
        netra_queue.send("user.1", 1, track=True, key="tracked")
        netra_queue.send("user.1", 1, key="not tracked")
        found = [status(netra_queue.send("user.1", 1, track=True, key=key)) for key in ("tracked", "not tracked")]
        assert [one and one.state.value for one in found] == ["queued", None]


def test_a_receipt_can_be_pickled(store: AdvancingStore) -> None:
    receipt = netra_queue.send("user.1", 1, track=True)
    again = pickle.loads(pickle.dumps(receipt))
    assert again == receipt
    status = again.status()
    assert status == pickle.loads(pickle.dumps(status))
    with pytest.raises(AttributeError):
        receipt.id = "other"  # type: ignore[misc]


def test_status_of_a_send_that_was_rolled_back(database_store: AdvancingStore) -> None:
    with rolled_back("default"):
        receipt = netra_queue.send("user.1", 1, track=True)
        assert receipt.status() is not None
        inner: Any = async_to_sync(receipt.astatus)()
        assert inner.state is MessageState.QUEUED, "below async_to_sync, it belongs to the transaction"
    assert receipt.status() is None


def test_status_on_an_event_loop(store: AdvancingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_ALLOW_ASYNC_UNSAFE", raising=False)

    async def ask() -> None:
        receipt = await netra_queue.asend("user.1", 1, track=True)
        with pytest.raises(CalledOnEventLoop, match="await astatus"):
            receipt.status()

    play(ask())


def test_sends_with_a_collapse_key_have_the_lane_for_those_that_may_wait(database_store: AdvancingStore) -> None:
    plain, keyed = current_writer(), current_writer(keyed=True)
    used: list[str] = []

    def spy(name: str, writer: Any) -> None:
        submit = writer.asubmit
        writer.asubmit = lambda *arguments: used.append(name) or submit(*arguments)

    spy("plain", plain)
    spy("keyed", keyed)

    async def send() -> None:
        await netra_queue.asend("user.1", 1, collapse="k")
        await netra_queue.asend("user.1", 1, track=True)

    play(send())
    assert used == ["keyed", "plain"]


@pytest.mark.parametrize("wrong", [{"collapse": ""}, {"collapse": 1}, {"collapse": "k" * 201}, {"track": 1}])
def test_what_is_refused(store: AdvancingStore, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage, match=next(iter(wrong))):
        netra_queue.send("user.1", 1, **wrong)
    assert ids(get(store)) == []


class TestWait:
    def test_until_it_is_acked(self, store: AdvancingStore) -> None:
        async def wait() -> MessageStatus:
            receipt = await netra_queue.asend("user.1", 1, track=True)
            waiting = asyncio.create_task(receipt.wait("acked", timeout=20))
            delivered = asyncio.create_task(receipt.wait(MessageState.DELIVERED, timeout=20))
            await asyncio.to_thread(get, store)
            assert (await delivered).state is MessageState.DELIVERED
            assert not waiting.done()
            await asyncio.to_thread(ack, store)
            assert (await receipt.wait("delivered")).state is MessageState.ACKED
            return await waiting

        status = play(wait())
        assert status.state is MessageState.ACKED
        assert status.ended_at is not None

    def test_no_longer_than_its_timeout(self, store: AdvancingStore) -> None:
        async def wait() -> None:
            receipt = await netra_queue.asend("user.1", 1, track=True)
            with pytest.raises(TimeoutError):
                await receipt.wait(timeout=0.1)

        play(wait())

    def test_no_longer_than_it_can_come_true(self, store: AdvancingStore) -> None:
        async def wait() -> None:
            receipt = await netra_queue.asend("user.1", 1, track=True, ttl=10)
            waiting = asyncio.create_task(receipt.wait(timeout=20))
            await asyncio.sleep(0)
            store.advance(10)
            with pytest.raises(MessageEnded) as caught:
                await waiting
            assert (caught.value.id, caught.value.status.state) == (receipt.id, MessageState.EXPIRED)

        play(wait())

    def test_for_delivery_that_came_before_the_end(self, store: AdvancingStore) -> None:
        async def wait() -> None:
            receipt = await netra_queue.asend("user.1", 1, track=True)
            await asyncio.to_thread(get, store)
            await asyncio.to_thread(store.purge, "user.1", 10)
            assert (await receipt.wait("delivered", timeout=20)).state is MessageState.DROPPED
            with pytest.raises(MessageEnded):
                await receipt.wait("acked", timeout=20)

        play(wait())

    def test_for_what_is_not_kept(self, database_store: AdvancingStore) -> None:
        with rolled_back("default"):
            gone = netra_queue.send("user.1", 1, track=True)
        untracked = netra_queue.send("user.1", 1)
        for receipt in (gone, untracked):
            with pytest.raises(NotTracked):
                play(receipt.wait(timeout=20))

    @pytest.mark.parametrize("state", ["queued", "expired", MessageState.DROPPED, None, 5])
    def test_for_another_state(self, store: AdvancingStore, state: Any) -> None:
        receipt = netra_queue.send("user.1", 1, track=True)
        with pytest.raises(InvalidMessage, match="one of"):
            play(receipt.wait(state))

    def test_inside_a_transaction_that_commits(self, database_store: AdvancingStore) -> None:
        with transaction.atomic():
            receipt = netra_queue.send("user.1", 1, track=True)
        ack(database_store)
        assert play(receipt.wait(timeout=20)).state is MessageState.ACKED
