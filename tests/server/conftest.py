"""Real servers in processes of their own, on the test databases."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from netra_queue import testing
from netra_queue.hub import LOOK_AGAIN_SECONDS
from netra_queue.management.scenarios import server as servers
from netra_queue.management.scenarios.client import Client
from netra_queue.management.scenarios.server import Server
from netra_queue.stores import current_store
from netra_queue.stores.base import QueueStat
from netra_queue.stores.database import DatabaseStore
from project.environment import channel_layers
from tests.settings import MISSING, REDIS_URL
from tests.settings import SERVERS as URLS
from tests.waiting import await_until, wait_until

Result = TypeVar("Result")


class PostgresqlStore(DatabaseStore):
    def __init__(self) -> None:
        super().__init__("postgresql")


class MariadbStore(DatabaseStore):
    def __init__(self) -> None:
        super().__init__("mariadb")


APPLICATION = "tests.server.consumers.application"
STORES = {
    "default": "netra_queue.stores.database.DatabaseStore",
    "postgresql": f"{__name__}.PostgresqlStore",
    "mariadb": f"{__name__}.MariadbStore",
}


@dataclass(slots=True)
class World:
    """One database, one channel layer, and as many server processes as a test starts."""

    environment: dict[str, str]
    log: Path
    may_log_errors: bool = False  # the test makes consumers raise
    stack: ExitStack = field(default_factory=ExitStack)

    def start(self, kind: str = "daphne", *, application: str = APPLICATION, **overrides: Any) -> Server:
        """A server; ``overrides`` are keys of NETRA_QUEUE."""
        environment = {**self.environment, servers.OVERRIDES: json.dumps(overrides)}
        output = self.stack.enter_context(self.log.open("ab"))
        running = servers.running(kind, application=application, environment=environment, log=output)
        return self.stack.enter_context(running)

    def client(
        self,
        server: Server,
        queue: str = "",
        *,
        policy: str = "default",
        consumer: str = "async",
        query: str = "",
        **options: Any,
    ) -> Client:
        return Client(server.url(queue or new_queue(), policy, consumer) + query, **options)


def new_queue() -> str:
    return f"test.{os.urandom(8).hex()}"


def distinct(client: Client) -> list[Any]:
    """What it has received, without repeats: an ack may still be on its way when the other process reads."""
    return list({message["id"]: message["data"] for message in client.received}.values())


async def live(client: Client) -> None:
    """The replay has caught up."""
    await client.until(lambda: bool(client.frames("netra.live")))


async def answers(client: Client) -> None:
    """The connection is alive: a ping sent now is answered."""
    before = len(client.frames("netra.pong"))
    await client.send({"type": "netra.ping"})
    await client.until(lambda: len(client.frames("netra.pong")) > before)


async def has_looked_again() -> None:
    """A new connection looks for messages once more by itself: what comes after this came in another way."""
    await asyncio.sleep(2 * LOOK_AGAIN_SECONDS)


async def stat(queue: str) -> QueueStat:
    return await sync_to_async(current_store().stat)(queue)


async def connected(queue: str, count: int, seconds: float = 20) -> None:
    """The store knows of so many connections of this queue."""

    async def has_them() -> bool:
        return (await stat(queue)).connections == count

    await await_until(has_them, seconds)


async def holds(queue: str, count: int, seconds: float = 10) -> None:
    """The store has so many messages of this queue."""

    async def has_them() -> bool:
        return (await stat(queue)).messages == count

    await await_until(has_them, seconds)


async def nobody_holds(queue: str) -> None:
    """The store knows of no connection of this queue any more."""

    async def has_nobody() -> bool:
        return not await sync_to_async(current_store().holders)([queue])

    await await_until(has_nobody)


def play(work: Coroutine[Any, Any, Result]) -> Result:
    """Run this on an event loop of its own, and leave no thread with a database connection behind."""

    async def played() -> Result:
        try:
            return await work
        finally:
            await sync_to_async(connections.close_all)()

    try:
        return asyncio.run(played())
    finally:
        testing.shutdown()


def database_url(alias: str) -> str:
    name = connections[alias].settings_dict["NAME"]
    if alias == "default":
        return f"sqlite:///{name}"
    parts = urlsplit(URLS[alias])
    return urlunsplit(parts._replace(path=f"/{name}"))


# channels-redis leaves tasks of its own to themselves. One that was under way when Redis went says so.
CHANNELS_REDIS = re.compile(
    r"^Task exception was never retrieved\nfuture: <Task [^\n]* coro=<RedisChannelLayer\..*?(?=^\d{4}-\d\d-\d\d |\Z)",
    re.DOTALL | re.MULTILINE,
)


@pytest.fixture
def make_world(settings: Any, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Makes the World of a database alias; its servers end with the test, and their logs hold no traceback."""
    worlds: list[World] = []

    def make(alias: str, redis_url: str = "") -> World:
        settings.CHANNEL_LAYERS = channel_layers(redis_url)
        settings.NETRA_QUEUE = {"STORE": STORES[alias]}
        servers.configure()
        environment = {
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DATABASE_URL": database_url(alias),
            "REDIS_URL": redis_url,
        }
        worlds.append(World(environment, tmp_path / f"servers-{len(worlds)}.log"))
        return worlds[-1]

    yield make
    testing.shutdown()
    for world in worlds:
        world.stack.close()
        text = CHANNELS_REDIS.sub("", world.log.read_text()) if world.log.exists() else ""
        assert world.may_log_errors or "Traceback" not in text, text


@pytest.fixture
def world(database: str, make_world: Callable[..., World]) -> World:
    """Each database in turn; with Redis where it is, but on SQLite, which has the in-process layer."""
    return make_world(database, "" if database == "default" or "redis" in MISSING else REDIS_URL)


@pytest.fixture
def sqlite_world(transactional_db: None, make_world: Callable[..., World]) -> World:
    """The embedded defaults."""
    return make_world("default")


@dataclass(slots=True)
class Redis:
    """A Redis of the test's own, to be stopped and started."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--save", "", "--bind", "127.0.0.1"]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        wait_until(self._answers)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    if shutil.which("redis-server") is None:
        if os.environ.get("NETRA_REQUIRE_SERVERS") == "1":
            pytest.fail("NETRA_REQUIRE_SERVERS=1, but there is no redis-server to start")
        pytest.skip("there is no redis-server to start")
    redis = Redis(free_port(), tmp_path)
    redis.start()
    yield redis
    redis.stop()
