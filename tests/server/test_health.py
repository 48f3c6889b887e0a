"""The pages for liveness and readiness of real servers, through the example's own addresses."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth import get_user_model

from netra_queue.management.scenarios.server import Server
from tests.chaos.proxy import Proxy
from tests.server.conftest import Redis, World, play
from tests.server.test_authorization import hello, log_in, opened
from tests.server.test_outages import ON_POSTGRESQL, through
from tests.waiting import await_until

APPLICATION = "project.asgi.application"
TOKEN = "a token of enough characters"
Answer = tuple[int, dict[str, Any]]


def get(server: Server, page: str) -> Answer:
    url = f"http://127.0.0.1:{server.port}/netra_queue/health/{page}/"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def ready(server: Server) -> tuple[int, dict[str, str]]:
    """The status, and how each part is."""
    status, answer = await asyncio.to_thread(get, server, "ready")
    return status, {one["name"]: one["health"] for one in answer["probes"]}


async def becomes(server: Server, status: int, **parts: str) -> None:
    async def is_so() -> bool:
        found, healths = await ready(server)
        return found == status and healths.items() >= {k.replace("_", " "): v for k, v in parts.items()}.items()

    await await_until(is_so, 30)
    assert await asyncio.to_thread(get, server, "live") == (200, {"health": "ok"})


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_a_server_that_is_well(sqlite_world: World, kind: str) -> None:
    user = get_user_model().objects.create_user("ann")
    server = sqlite_world.start(kind, application=APPLICATION, METRICS_TOKEN=TOKEN)

    async def played() -> None:
        await becomes(server, 200, store="ok", channel_layer="ok", hub="ok", sweep="ok")
        async with opened(server, log_in_cookie) as socket:
            await hello(socket)
            await asyncio.sleep(1.1)  # an answer is kept for a second
            _, answer = await asyncio.to_thread(get, server, "ready")
            texts = {one["name"]: one["text"] for one in answer["probes"]}
            assert texts["hub"].startswith("its event loop answers")

    _, log_in_cookie = log_in(user)
    play(played())


def test_while_redis_is_away(make_world: Callable[..., World], transactional_db: None, own_redis: Redis) -> None:
    world = make_world("default", own_redis.url)
    server = world.start("daphne", application=APPLICATION, METRICS_TOKEN=TOKEN)

    async def played() -> None:
        await becomes(server, 200, channel_layer="ok")
        own_redis.stop()
        await becomes(server, 200, channel_layer="failed", store="ok")
        own_redis.start()
        await becomes(server, 200, channel_layer="ok")

    play(played())


@pytest.mark.parametrize("alias", ON_POSTGRESQL)
@pytest.mark.parametrize("is_silent", [False, True], ids=["refuses", "silent"])
def test_while_the_database_is_away(make_world: Callable[..., World], alias: str, is_silent: bool) -> None:
    """Also when it swallows everything: the answer comes in time, and the process lives."""
    world = make_world(alias)
    parts = urlsplit(world.environment["DATABASE_URL"])
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)

    async def played() -> None:
        async with proxy:
            world.environment["DATABASE_URL"] = through(proxy, world.environment["DATABASE_URL"])
            server = await asyncio.to_thread(
                world.start, "daphne", application=APPLICATION, METRICS_TOKEN=TOKEN, STORE_TIMEOUT_SECONDS=1.5
            )
            await becomes(server, 200, store="ok")
            proxy.is_silent = is_silent
            if not is_silent:
                await proxy.cut()
            await becomes(server, 503, store="failed")
            for _ in range(5):
                began = time.monotonic()
                assert (await ready(server))[0] == 503
                assert time.monotonic() - began < 3
            await proxy.restore()
            await becomes(server, 200, store="ok")

    play(played())
