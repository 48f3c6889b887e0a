"""What a socket cannot show of a hub: time limits, failures of the store, and the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from netra_queue import WaitingMessage, conf, controls, operating, process
from netra_queue.core.actions import Transmit
from netra_queue.core.connection import Connection
from netra_queue.core.message import Draft, Fate, LossReason
from netra_queue.core.policy import Policy
from netra_queue.core.states import State
from netra_queue.core.wire import Ack, Mode
from netra_queue.exceptions import StoreUnavailable, TooManyDevices
from netra_queue.hub import Hub
from netra_queue.link import Link
from netra_queue.permission import MayDeliver
from netra_queue.stores import current_store
from netra_queue.stores.base import Appended, Presence, Store
from tests.making import get, make_draft, make_message, put
from tests.waiting import await_until

DIGEST = f"{__name__}.slow_digest"
may_go_on = threading.Event()
is_digesting = threading.Event()


def slow_digest(messages: Sequence[WaitingMessage]) -> Any:
    is_digesting.set()
    assert may_go_on.wait(10)
    return "digest"


@pytest.fixture
def store(settings: Any) -> Iterator[Store]:
    settings.NETRA_QUEUE = {
        "STORE": "netra_queue.stores.memory.MemoryStore",
        "STORE_TIMEOUT_SECONDS": 0.3,
        "POLICIES": {"digest": {"REPLAY": {"NEWEST": 0, "DIGEST": DIGEST}}},
    }
    may_go_on.clear()
    is_digesting.clear()
    yield current_store()
    may_go_on.set()
    process.close()


async def connect(
    hub: Hub,
    policy: str = "default",
    may_deliver: MayDeliver | None = None,
    *,
    mode: Mode = Mode.PROTOCOL,
    connection: Connection | None = None,
    may_write: asyncio.Event | None = None,
) -> tuple[Link, list[str]]:
    """A connection of the hub's, and what is written to it: text, and codes with which it ends."""
    frames: list[str] = []

    async def write(frame: str | bytes) -> None:
        if may_write is not None:
            await may_write.wait()
        frames.append(str(frame))

    connection = connection or Connection("user.1", conf.policy(policy), mode, hub.loop.time())
    presence = Presence(id=f"c{id(frames)}", queue="user.1", server=hub.server, policy=policy)
    link = Link(
        connection,
        presence,
        write=write,
        timeout_seconds=5,
        on_end=lambda code, reason: frames.append(f"closed {code}"),
        on_broken=lambda: None,
        may_deliver=may_deliver,
    )
    await hub.attach(link)
    return link, frames


def play(work: Callable[[Hub], Awaitable[None]]) -> None:
    async def played() -> None:
        hub = process.current_hub()
        await work(hub)
        await process.stop_hub()

    asyncio.run(played())


def test_a_digest_that_takes_too_long_leaves_nothing_out(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put(store, make_draft(text='"first"'))

    async def replayed(hub: Hub) -> None:
        link, frames = await connect(hub, "digest")
        await await_until(lambda: any('"first"' in frame for frame in frames))
        may_go_on.set()
        await asyncio.to_thread(lambda: [hub._digest_pool.submit(lambda: None).result(5) for _ in range(8)])
        assert len(get(store).messages) == 1, "what came too late changes nothing"
        assert not store.losses(["user.1"])
        hub.carry_out(link, link.connection.receive(Ack(1), hub.loop.time()))

    play(replayed)
    assert "replay not shaped" in caplog.text


def test_a_permission_that_takes_too_long_ends_the_connection(store: Store) -> None:
    put(store, make_draft())

    async def never(messages: Sequence[WaitingMessage]) -> list[str]:
        await asyncio.sleep(60)
        return []

    async def ended(hub: Hub) -> None:
        _, frames = await connect(hub, may_deliver=never)
        await await_until(lambda: "closed 4503" in frames)
        assert len(get(store).messages) == 1

    play(ended)


def test_a_permission_that_is_cancelled_from_within_ends_the_connection(store: Store) -> None:
    """It awaited something of the consumer's that was cancelled: nobody else would read for this client again."""
    put(store, make_draft())

    async def cancelled(messages: Sequence[WaitingMessage]) -> list[str]:
        raise asyncio.CancelledError

    async def ended(hub: Hub) -> None:
        _, frames = await connect(hub, may_deliver=cancelled)
        await await_until(lambda: "closed 4503" in frames)
        assert len(get(store).messages) == 1

    play(ended)


def test_what_is_withheld_was_never_delivered(store: Store) -> None:
    secret, known = put(store, make_draft(text='"secret"', track=True), make_draft(track=True))

    async def discreet(messages: Sequence[WaitingMessage]) -> list[WaitingMessage]:
        assert all(found.delivered_at is None for found in store.tracked([secret.id, known.id]).values())
        return [message for message in messages if message.data != "secret"]

    async def said(hub: Hub) -> None:
        _, frames = await connect(hub, may_deliver=discreet)
        await await_until(lambda: any("netra.messages" in frame for frame in frames))
        await await_until(lambda: store.tracked([secret.id])[secret.id].fate is Fate.WITHHELD)
        found = store.tracked([secret.id, known.id])
        assert found[secret.id].delivered_at is None
        assert found[known.id].delivered_at is not None

    play(said)


def test_what_is_withheld_is_left_out_of_reads_until_the_store_removes_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, *(make_draft(text=f'"{number}"') for number in range(4)))
    asked: list[Any] = []
    withhold = store.withhold
    is_away = True

    def fails(positions: Any) -> Any:
        if is_away:
            raise StoreUnavailable("away")
        return withhold(positions)

    monkeypatch.setattr(store, "withhold", fails)

    async def none(messages: Sequence[WaitingMessage]) -> list[str]:
        asked.extend(message.data for message in messages)
        return []

    async def removed(hub: Hub) -> None:
        nonlocal is_away
        link, _ = await connect(hub, may_deliver=none)
        await await_until(lambda: link.connection.state is State.LIVE)
        for _ in range(3):
            hub.ring(["user.1"])
            await asyncio.sleep(0.05)
        assert asked == ["0", "1", "2", "3"]
        is_away = False
        await await_until(lambda: not get(store).messages)
        assert store.losses(["user.1"])["user.1"].total(LossReason.WITHHELD) == 4

    play(removed)


def test_deliveries_are_counted_when_the_store_is_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, make_draft())
    returned = store.returned
    calls: list[Any] = []

    def fails_once(returns: Any) -> int:
        calls.append(returns)
        if len(calls) == 1:
            raise StoreUnavailable("away")
        return returned(returns)

    monkeypatch.setattr(store, "returned", fails_once)

    async def counted(hub: Hub) -> None:
        link, frames = await connect(hub)
        await await_until(lambda: any("netra.messages" in frame for frame in frames))
        hub.release(link, 1006)
        await await_until(lambda: get(store).messages[0].deliveries == 1)

    play(counted)
    assert len(calls) == 2


def test_a_client_that_acks_costs_no_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, make_draft())
    calls: list[Any] = []
    monkeypatch.setattr(store, "returned", calls.append)

    async def acked(hub: Hub) -> None:
        link, frames = await connect(hub)
        await await_until(lambda: any("netra.messages" in frame for frame in frames))
        hub.carry_out(link, link.connection.receive(Ack(1), hub.loop.time()))
        hub.release(link, 1006)
        await await_until(lambda: not get(store).messages)

    play(acked)
    process.close()
    assert calls == []


@pytest.mark.parametrize("stops", [True, False], ids=["the hub ended", "the loop was left"])
def test_the_end_of_the_process_counts_too(store: Store, stops: bool) -> None:
    put(store, make_draft())

    async def left() -> None:
        hub = process.current_hub()
        _, frames = await connect(hub)
        await await_until(lambda: any("netra.messages" in frame for frame in frames))
        if stops:
            await process.stop_hub()

    asyncio.run(left())
    process.close()
    assert get(store).messages[0].deliveries == 1


@pytest.mark.parametrize("stops", [True, False])
def test_the_end_of_the_process_writes_what_was_sent_during_a_persist(
    store: Store, monkeypatch: pytest.MonkeyPatch, stops: bool
) -> None:
    """The store has the first message in hand when the connection ends; nothing has told it of the others yet."""
    append, is_slow = store.append, threading.Event()

    def slow_append(drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> list[Appended]:
        is_slow.set()
        assert may_go_on.wait(10)
        return append(drafts, policies)

    monkeypatch.setattr(store, "append", slow_append)

    async def left() -> None:
        hub = process.current_hub()
        link, _ = await connect(hub)
        await await_until(lambda: link.connection.state is State.LIVE)
        for number in range(3):
            message = make_message(id=f"own{number}")._replace(created_at=hub.now())
            hub.carry_out(link, link.connection.send_own(message, hub.loop.time()))
            if number == 0:
                await await_until(is_slow.is_set)
        if stops:
            await process.stop_hub()

    asyncio.run(left())
    threading.Timer(0.1, may_go_on.set).start()
    process.close()
    assert [message.id for message in get(store).messages] == ["own0", "own1", "own2"]


def test_what_a_sender_that_saw_no_connection_wrote_waits_for_no_poll(store: Store, settings: Any) -> None:
    """It looked who is connected before this connection was, and wrote after its first read: no bell rings."""
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLL_SECONDS": 600}

    async def rang_for_nobody(hub: Hub) -> None:
        link, frames = await connect(hub)
        await await_until(lambda: link.connection.state is State.LIVE)
        put(current_store(), make_draft(text='"late"'))
        await await_until(lambda: any('"late"' in frame for frame in frames))

    play(rang_for_nobody)


def test_a_connection_that_is_attached_again_too_late_stays_attached(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach_all, is_done = store.attach_all, threading.Event()

    def slow_attach_all(arrivals: Sequence[tuple[Presence, Policy]]) -> Any:
        assert may_go_on.wait(10)
        answers = attach_all(arrivals)
        is_done.set()
        return answers

    async def stays(hub: Hub) -> None:
        await connect(hub)
        monkeypatch.setattr(store, "attach_all", slow_attach_all)
        await hub._attach_again()  # gives up after STORE_TIMEOUT_SECONDS
        may_go_on.set()
        await await_until(is_done.is_set)
        await asyncio.sleep(0.1)  # a detachment would be written within 5 ms
        assert store.stat("user.1").connections == 1

    play(stays)


def test_a_connection_that_was_refused_and_comes_later_stays_attached(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first attempt is taken back when the store answers again, and by then it may have come once more."""
    attach_all, detach = store.attach_all, store.detach
    may_detach = threading.Event()

    def fail(arrivals: Sequence[tuple[Presence, Policy]]) -> Any:
        raise StoreUnavailable("away")

    def late_detach(presences: Sequence[Presence]) -> None:
        if not may_detach.is_set():
            raise StoreUnavailable("away")
        detach(presences)

    async def stays(hub: Hub) -> None:
        monkeypatch.setattr(store, "attach_all", fail)
        monkeypatch.setattr(store, "detach", late_detach)
        links: list[Link] = []
        monkeypatch.setattr(hub, "_forget", lambda link, **how: (links.append(link), Hub._forget(hub, link, **how)))
        with pytest.raises(StoreUnavailable):
            await connect(hub)
        monkeypatch.setattr(store, "attach_all", attach_all)
        (link,) = links
        hub.open_alone(link)
        await hub.attach_late(link)
        may_detach.set()
        await await_until(lambda: not hub._detaching._waiting)
        await asyncio.sleep(0.1)  # what is under way is done
        assert store.stat("user.1").connections == 1

    play(stays)


def test_a_connection_for_which_there_is_no_room_is_closed_when_it_comes_later(store: Store) -> None:
    async def closed(hub: Hub) -> None:
        link, frames = await connect(hub)

        async def refuse() -> None:
            raise TooManyDevices("user.1", limit=1)

        hub.joining.add(link, refuse)
        await await_until(lambda: "closed 4529" in frames)
        assert not hub.joining._waiting

    play(closed)


# --- what operators change -----------------------------------------------------------------------------------------


def change_policy(name: str, **values: Any) -> None:
    operating.carry_out(operating.policy_changed(name, values))


def test_open_connections_adopt_what_an_operator_changes(store: Store) -> None:
    async def adopted(hub: Hub) -> None:
        link, _ = await connect(hub)
        change_policy("default", WINDOW=3)
        await await_until(lambda: link.connection.policy.window == 3, 1)
        operating.carry_out(operating.pattern_set("user.*", "digest", 1))
        await await_until(lambda: link.connection.policy.name == "digest", 1)

    play(adopted)


def test_without_a_bell_they_adopt_it_within_two_seconds(store: Store) -> None:
    async def adopted(hub: Hub) -> None:
        link, _ = await connect(hub)
        for window in (3, 4):
            store.change_controls(operating.policy_changed("default", {"WINDOW": window}))
            await await_until(lambda window=window: link.connection.policy.window == window, 2)

    play(adopted)


def test_a_sender_that_asks_in_between_does_not_put_it_off(store: Store) -> None:
    """The hub has the store asked when that is due, whoever asked before."""

    async def adopted(hub: Hub) -> None:
        link, _ = await connect(hub)
        asked_at = controls._room.asked_at
        await await_until(lambda: controls._room.asked_at != asked_at)
        await asyncio.sleep(0.1)
        controls.refresh(store, 0)
        store.change_controls(operating.policy_changed("default", {"WINDOW": 3}))
        await await_until(lambda: link.connection.policy.window == 3, 2)

    play(adopted)


def test_a_connection_that_comes_during_a_change_has_the_new_policy(store: Store) -> None:
    async def adopted(hub: Hub) -> None:
        await hub.adopting.refresh()
        change_policy("default", WINDOW=3)
        old = conf.policy("default")
        assert old.window == 256
        await hub.adopting.refresh()
        await hub.adopting.watch()
        connection = Connection("user.1", old, Mode.PROTOCOL, hub.loop.time())
        link, _ = await connect(hub, connection=connection)
        assert link.connection.policy.window == 3

    play(adopted)


def test_frames_that_were_put_under_a_wider_window_do_not_end_the_connection(store: Store) -> None:
    put(store, *(make_draft() for _ in range(200)))

    async def narrowed(hub: Hub) -> None:
        may_write = asyncio.Event()
        link, frames = await connect(hub, mode=Mode.RAW, may_write=may_write)
        await await_until(lambda: len(link._frames) > 150)
        change_policy("default", WINDOW=2)
        await await_until(lambda: link.connection.policy.window == 2, 1)
        assert link.put(Transmit("one more"))
        may_write.set()
        await await_until(lambda: "one more" in frames)

    play(narrowed)


def test_a_store_that_does_not_answer_leaves_connections_as_they_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stays(hub: Hub) -> None:
        link, frames = await connect(hub)
        change_policy("default", WINDOW=3)
        await await_until(lambda: link.connection.policy.window == 3, 1)
        may_answer = threading.Event()
        monkeypatch.setattr(store, "controls", lambda known=None: may_answer.wait(5) and None)
        controls.expire()
        hub.adopting.ring()
        await asyncio.sleep(0.5)
        may_answer.set()
        assert link.connection.policy.window == 3
        assert not any("closed" in frame for frame in frames)

    play(stays)
