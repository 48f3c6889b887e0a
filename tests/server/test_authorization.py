"""Who may open a queue is asked again on every connect: by real sessions and cookies, and by a consumer's own rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.test import Client as Browser
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

import netra_queue
from netra_queue.core.wire import SUBPROTOCOL, CloseCode
from netra_queue.management.scenarios.server import Server
from tests.server.conftest import World, holds, live, new_queue, play

pytestmark = pytest.mark.parametrize("kind", ["daphne", "uvicorn"])


@pytest.fixture
def example(sqlite_world: World, kind: str) -> Iterator[Server]:
    """The example project, with its login and its origin check."""
    return sqlite_world.start(kind, application="project.asgi.application")


def log_in(user: Any) -> tuple[Browser, str]:
    """A browser of this user's, and the cookie that its WebSockets come with."""
    browser = Browser()
    browser.force_login(user)
    name = django_settings.SESSION_COOKIE_NAME
    return browser, f"{name}={browser.cookies[name].value}"


def opened(server: Server, cookie: str) -> connect:
    return connect(
        f"ws://127.0.0.1:{server.port}/ws/notifications/",
        origin=Origin("http://127.0.0.1:8000"),
        additional_headers={"Cookie": cookie},
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        proxy=None,
    )


async def hello(socket: ClientConnection) -> tuple[str, int]:
    frame = json.loads(await socket.recv())
    return frame["queue"], frame["waiting"]


async def end_of(socket: ClientConnection) -> tuple[list[str | bytes], int | None]:
    """What came before the server closed, and its code."""
    frames: list[str | bytes] = []
    try:
        async with asyncio.timeout(10):
            while True:
                frames.append(await socket.recv())
    except ConnectionClosed:
        return frames, socket.close_code


def test_a_cookie_from_before_the_logout_opens_nothing(example: Server, sqlite_world: World) -> None:
    async def comes_back() -> None:
        user = await sync_to_async(get_user_model().objects.create_user)("reader", password="reader")
        queue = f"user.{user.pk}"
        browser, old = await sync_to_async(log_in)(user)
        async with opened(example, old) as socket:
            assert await hello(socket) == (queue, 0)
        await netra_queue.asend_to_user(user, "secret")
        await sync_to_async(browser.logout)()
        for cookie in (old, "sessionid=guessed", ""):
            async with opened(example, cookie) as socket:
                assert await end_of(socket) == ([], CloseCode.NOT_AUTHENTICATED)
        await holds(queue, 1)
        _, new = await sync_to_async(log_in)(user)
        async with opened(example, new) as socket:
            assert await hello(socket) == (queue, 1)

    play(comes_back())


def test_a_cookie_opens_its_own_users_queue(example: Server, sqlite_world: World) -> None:
    """Whatever the client says of queues: nothing that it sends names one."""

    async def each_his_own() -> None:
        users = [await sync_to_async(get_user_model().objects.create_user)(f"reader-{n}") for n in range(2)]
        await netra_queue.asend_to_user(users[0], "secret")
        _, cookie = await sync_to_async(log_in)(users[1])
        async with opened(example, f"{cookie}; queue=user.{users[0].pk}") as socket:
            assert await hello(socket) == (f"user.{users[1].pk}", 0)
        await holds(f"user.{users[0].pk}", 1)

    play(each_his_own())


def test_authorization_is_asked_again_on_every_connect(sqlite_world: World, kind: str) -> None:
    server = sqlite_world.start(kind, POLL_SECONDS=0.2)

    async def revoked() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, consumer="revocable")
        for _ in range(2):
            async with client:
                await live(client)
        async with sqlite_world.client(server, queue, consumer="commanded") as other:
            await other.send({"do": "release"})
            await other.send({"do": "echo", "what": "released"})
            await other.take(1)
        await netra_queue.asend(queue, "not for the client")
        for _ in range(2):
            await client.connect()
            assert await client.closed() == CloseCode.NOT_YOUR_QUEUE
            assert (client.data, client.control) == ([], [])
        await holds(queue, 1)

    play(revoked())
