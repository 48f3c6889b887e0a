"""What every store promises about what operators see of connections (see ``stores.base_connections``)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from netra_queue.stores.base import MISSED_HEARTBEATS
from netra_queue.stores.values import Connected, Detail
from tests.making import HERE, THERE, AdvancingStore, make_policy, make_presence


def make_detail(connection: str, unacked: int = 3, acked_at: datetime | None = None) -> Detail:
    return Detail(connection=connection, window=256, unacked=unacked, acked_at=acked_at)


class ConnectionContract:
    def test_connections_of_some_queues_and_lines(self, store: AdvancingStore) -> None:
        for server in (HERE, THERE):
            store.heartbeat(server)
        phone = replace(make_presence("user.1/phone"), client="phone")
        opened = store.attach(phone, make_policy())
        for queue in ("user.1", "user.1/tab", "user.2"):
            store.attach(make_presence(queue, server=THERE), make_policy())
        found = {each.queue: each for each in store.connected(["user.1", "user.1/phone"], 10)}
        assert set(found) == {"user.1", "user.1/phone"}
        assert found["user.1/phone"] == Connected(
            id=phone.id,
            queue="user.1/phone",
            server=HERE.id,
            place="here:1",
            client="phone",
            since=opened.at,
            is_alive=True,
        )
        assert len(store.connected(["user.1", "user.1/phone", "user.1/tab"], 2)) == 2
        assert store.connected([], 10) == []
        store.detach([phone])
        assert store.connected(["user.1/phone"], 10) == []

    def test_a_silent_servers_connections_are_shown_as_such(self, store: AdvancingStore) -> None:
        store.heartbeat(HERE)
        store.attach(make_presence(), make_policy())
        store.advance(seconds=MISSED_HEARTBEATS * 10 + 1)
        assert [each.is_alive for each in store.connected(["user.1"], 10)] == [False]

    def test_what_servers_say_of_their_connections(self, store: AdvancingStore) -> None:
        one, other, quiet = make_presence(), make_presence(), make_presence()
        for presence in (one, other, quiet):
            store.attach(presence, make_policy())
        assert store.details([one.id]) == {}
        acked_at = store.now() - timedelta(seconds=5)
        said = [make_detail(one.id, 0, acked_at), make_detail(other.id, 256)]
        store.tell_details([*said, make_detail("0" * 32)])
        found = store.details([one.id, other.id, quiet.id, "0" * 32])
        assert [replace(found[each.connection], told_at=None) for each in said] == said
        assert set(found) == {one.id, other.id}
        first = found[one.id].told_at
        assert first is not None
        assert abs(store.now() - first) < timedelta(seconds=5), "by the store's time"
        store.advance(seconds=1)
        store.tell_details([make_detail(one.id, 7)])
        again = store.details([one.id, other.id])
        assert (again[one.id].unacked, again[one.id].acked_at) == (7, None)
        assert again[one.id].told_at != first
        assert again[other.id] == found[other.id]
        store.tell_details([])

    def test_of_many_connections_at_once(self, store: AdvancingStore) -> None:
        presences = [make_presence() for _ in range(20)]
        for presence in presences:
            store.attach(presence, make_policy())
        store.tell_details([make_detail(presence.id, number) for number, presence in enumerate(presences)])
        found = store.details([presence.id for presence in presences])
        assert [found[presence.id].unacked for presence in presences] == [*range(20)]

    def test_the_last_ack_stays_with_the_line(self, store: AdvancingStore) -> None:
        presences = [make_presence(name) for name in ("user.1", "user.1", "user.1/phone", "user.2")]
        for presence in presences:
            store.attach(presence, make_policy())
        early = store.now()
        late = early + timedelta(seconds=9)
        older, newer, phone, never = presences
        store.detach([never, replace(newer, acked_at=late), replace(phone, acked_at=early)])
        store.detach([replace(older, acked_at=early)])
        acks = {name: store.stat(name).acked_at for name in ("user.1", "user.1/phone", "user.2")}
        assert acks == {"user.1": late, "user.1/phone": early, "user.2": None}
        again = make_presence("user.1/phone")
        store.attach(again, make_policy())
        store.detach([again])
        assert store.stat("user.1/phone").acked_at == early, "it has not acked anything since"

    def test_two_that_leave_together(self, store: AdvancingStore) -> None:
        presences = [make_presence(), make_presence()]
        for presence in presences:
            store.attach(presence, make_policy())
        late = store.now()
        times = (late, late - timedelta(seconds=9))
        store.detach([replace(each, acked_at=at) for each, at in zip(presences, times, strict=True)])
        assert store.stat("user.1").acked_at == late

    def test_the_last_ack_of_one_that_lingers(self, store: AdvancingStore) -> None:
        gone = make_presence()
        store.attach(gone, make_policy())
        at = store.now()
        store.linger([(replace(gone, acked_at=at), 30)])
        assert store.stat("user.1").acked_at == at
