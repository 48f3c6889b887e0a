"""The dashboard's WebSocket: on a real server, with a real client."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings as django_settings
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.test import Client
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from netra_queue.dashboard import consumer
from netra_queue.dashboard.consumer import DashboardConsumer
from netra_queue.stores import current_store
from tests.making import make_draft, put
from tests.server.conftest import World, make_world, sqlite_world

__all__ = ["make_world", "sqlite_world"]

PATH = "/ws/netra_queue/dashboard/"
MALFORMED = ['{"range": "2h"}', "{}", "[]", "1h", "null", "{", b"1h", '{"range": ["1h"]}', "[" * 900, "x" * 2000]
HOUR = json.dumps({"range": "1h"})


class Staff:
    """A user of the real server's database, and the cookie of a login."""

    def __init__(self) -> None:
        self.user = User.objects.create_user("clerk", password="p", is_staff=True)
        self.user.user_permissions.add(Permission.objects.get(codename="view_dashboard"))
        self.client = Client()
        self.client.force_login(self.user)
        self.cookie = f"sessionid={self.client.cookies[django_settings.SESSION_COOKIE_NAME].value}"


@pytest.fixture
def staff(sqlite_world: World) -> Staff:
    return Staff()


@pytest.fixture
def port(sqlite_world: World, staff: Staff) -> int:
    return sqlite_world.start("daphne", application="project.asgi.application").port


def opened(port: int, cookie: str = "") -> connect:
    origin = f"http://127.0.0.1:{port}"
    return connect(f"ws://127.0.0.1:{port}{PATH}", additional_headers={"Cookie": cookie}, origin=origin)


async def closed(socket: ClientConnection) -> int | None:
    """The code with which the server ends it, whatever it says before."""
    with suppress(ConnectionClosed):
        async with asyncio.timeout(20):
            async for _ in socket:
                pass
    return socket.close_code


@pytest.mark.asyncio
async def test_figures_come_when_they_are_asked_for(port: int, staff: Staff) -> None:
    await sync_to_async(lambda: put(current_store(), make_draft()))()
    async with opened(port, staff.cookie) as socket:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.5)
        for name in ("1h", "30d"):
            await socket.send(json.dumps({"range": name}))
            found = json.loads(await asyncio.wait_for(socket.recv(), 20))
            assert (found["range"], found["store"]["messages"]) == (name, 1)
        began = asyncio.get_running_loop().time()
        await socket.send(json.dumps({"range": "30d"}))
        await asyncio.wait_for(socket.recv(), 20)
        assert asyncio.get_running_loop().time() - began > 8, "the next ones of a range come after a while"


@pytest.mark.asyncio
async def test_a_permission_that_is_taken_away(port: int, staff: Staff) -> None:
    async with opened(port, staff.cookie) as socket:
        await socket.send(HOUR)
        await asyncio.wait_for(socket.recv(), 20)
        await sync_to_async(staff.user.user_permissions.clear)()
        await socket.send(json.dumps({"range": "6h"}))
        assert await closed(socket) == 4403


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["logout", "password", "deactivated", "deleted"])
async def test_a_login_that_has_ended(port: int, staff: Staff, how: str) -> None:
    async with opened(port, staff.cookie) as socket:
        await socket.send(HOUR)
        await asyncio.wait_for(socket.recv(), 20)
        await sync_to_async(end_login)(staff, how)
        await socket.send(json.dumps({"range": "6h"}))
        assert await closed(socket) == 4401


def end_login(staff: Staff, how: str) -> None:
    if how == "logout":
        staff.client.logout()
    elif how == "password":
        staff.user.set_password("another")
        staff.user.save()
    elif how == "deactivated":
        User.objects.update(is_active=False)
    else:
        User.objects.all().delete()


@pytest.mark.asyncio
async def test_who_may_not_come_in_is_told(port: int, staff: Staff) -> None:
    async with opened(port) as socket:
        assert await closed(socket) == 4401
    await sync_to_async(User.objects.update)(is_staff=False)
    async with opened(port, staff.cookie) as socket:
        assert await closed(socket) == 4403


@pytest.mark.asyncio
async def test_what_is_not_understood_ends_it(port: int, staff: Staff) -> None:
    for said in MALFORMED:
        async with opened(port, staff.cookie) as socket:
            await socket.send(said)
            assert await closed(socket) == 4400, said


# --- without a server: what it does with its time ------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore"}
    monkeypatch.setattr(consumer, "PUSH_SECONDS", 0.2)
    monkeypatch.setattr(consumer, "SHORTEST_SECONDS", 0.2)


async def communicator() -> WebsocketCommunicator:
    """Of a user whose connection came with a token rather than a session."""
    made = WebsocketCommunicator(DashboardConsumer.as_asgi(), PATH)
    made.scope["user"] = await sync_to_async(User.objects.create_superuser)("root")
    assert (await made.connect(20))[0]
    return made


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
async def test_who_asks_for_nothing_gets_nothing(quick: None) -> None:
    """So a client that reads nothing makes nothing pile up."""
    client = await communicator()
    await client.send_to(text_data=HOUR)
    await client.receive_from(20)
    assert await client.receive_nothing(0.6)
    await client.disconnect()


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
async def test_who_asks_much_gets_one_answer_at_a_time(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await communicator()
    await client.send_to(text_data=HOUR)
    await client.receive_from(20)
    monkeypatch.setattr(consumer, "SHORTEST_SECONDS", 0.5)
    for _ in range(20):
        for name in ("6h", "15m"):
            await client.send_to(text_data=json.dumps({"range": name}))
    assert json.loads(await client.receive_from(20))["range"] == "15m", "the last that was asked for"
    assert await client.receive_nothing(0.6)
    await client.disconnect()


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
async def test_nothing_goes_on_after_the_end(quick: None) -> None:
    client = await communicator()
    await client.send_to(text_data=HOUR)
    await client.receive_from(20)
    await client.send_to(text_data=HOUR)
    await asyncio.sleep(0)
    await client.disconnect()
    others = {task for task in asyncio.all_tasks() if "_answer" in repr(task.get_coro())}
    assert not any(not task.done() and not task.cancelling() for task in others)


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
async def test_an_error_of_ours_closes_it(quick: None, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("no figures today")

    client = await communicator()
    monkeypatch.setattr(consumer.asking, "answer", fail)
    await client.send_to(text_data=HOUR)
    assert await client.receive_output(20) == {"type": "websocket.close", "code": 4503}
    assert "dashboard_failed" in [getattr(record, "action", "") for record in caplog.records]
    await client.wait()


@pytest.mark.asyncio
@pytest.mark.parametrize("user", [None, AnonymousUser()])
async def test_without_a_user_in_the_scope(user: Any) -> None:
    client = WebsocketCommunicator(DashboardConsumer.as_asgi(), PATH)
    client.scope["user"] = user
    assert (await client.connect(20))[0]
    assert await client.receive_output(20) == {"type": "websocket.close", "code": 4401}
    await client.wait()
