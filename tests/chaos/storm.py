"""A storm: servers, senders in processes of their own, clients, and faults that strike at random; then the account.

    senders --> PostgreSQL <--[proxy]-- two servers <--[proxies]-- clients
                                  |
                              [proxy]--> Redis

Everything that a sender was told is accepted has to reach its client's application, in order, or be told as lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg

import netra_queue
from netra_queue.management.scenarios import server as servers
from netra_queue.management.scenarios.server import Server
from tests.chaos.proxy import Proxy
from tests.chaos.surfer import Surfer
from tests.server.conftest import Redis, new_queue

KINDS = ("daphne", "uvicorn")
POLICIES = {
    "roomy": {"MAX_MESSAGES": 100_000, "MAX_BYTES": 1 << 30, "HEARTBEAT_SECONDS": 1.5, "ACK_TIMEOUT_SECONDS": 4},
    "tight": {"MAX_MESSAGES": 40, "TTL": 4, "HEARTBEAT_SECONDS": 1.5, "ACK_TIMEOUT_SECONDS": 4, "WINDOW": 8},
}
SETTINGS = {"POLICIES": POLICIES, "POLL_SECONDS": 0.5, "SERVER_HEARTBEAT_SECONDS": 1.0, "STORE_TIMEOUT_SECONDS": 2.5}
SETTLE_SECONDS = 90.0
QUIET_SECONDS = 3.0


@dataclass(slots=True)
class Post:
    """A server's place: whichever process stands there is reached through the same proxy."""

    kind: str
    proxy: Proxy
    server: Server


@dataclass(slots=True)
class Account:
    """What became of everything."""

    accepted: int = 0
    delivered: int = 0
    wire_repeats: int = 0
    application_repeats: int = 0
    told_lost: int = 0
    lost: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    longest_recovery: float = 0.0

    def __str__(self) -> str:
        return (
            f"accepted {self.accepted}, delivered {self.delivered}, repeated on the wire {self.wire_repeats}, "
            f"repeated to the application {self.application_repeats}, told as lost {self.told_lost}, "
            f"lost {len(self.lost)}, out of order {len(self.out_of_order)}, "
            f"longest recovery {self.longest_recovery:.2f} s"
        )


@dataclass(slots=True)
class Storm:
    """``database_url`` and ``redis`` are reached directly by senders, and through proxies by servers."""

    database_url: str
    redis: Redis
    log: Path
    seed: int
    queues: int = 8
    group: str = field(default_factory=new_queue)
    random: random.Random = field(init=False)
    posts: list[Post] = field(default_factory=list)
    surfers: list[Surfer] = field(default_factory=list)
    ledger: list[tuple[str, str, int, str]] = field(default_factory=list)  # queue, priority, number, id
    senders: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    struck: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _database: Proxy = field(init=False)
    _layer: Proxy = field(init=False)
    _names: int = 0
    _until: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    async def __aenter__(self) -> Self:
        parts = urlsplit(self.database_url)
        self._database = await self._stack.enter_async_context(Proxy("127.0.0.1", parts.port or 5432))
        self._layer = await self._stack.enter_async_context(Proxy("127.0.0.1", self.redis.port))
        for kind in KINDS:
            server = await self._start(kind)
            proxy = await self._stack.enter_async_context(Proxy("127.0.0.1", server.port))
            self.posts.append(Post(kind, proxy, server))
        for number in range(self.queues):
            policy = "tight" if number % 4 == 3 else "roomy"
            surfer = Surfer(f"{policy}.{new_queue()}", self._url)
            await netra_queue.asubscribe(surfer.queue, self.group)
            self.surfers.append(surfer)
            self._background(surfer.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        for surfer in self.surfers:
            surfer.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self.senders.values():
            if process.returncode is None:
                process.kill()
                await process.wait()
        for post in self.posts:
            if post.server.process.poll() is None:
                await asyncio.to_thread(post.server.stop, signal.SIGKILL)
        await self._stack.aclose()
        await (
            self.end_the_databases_sessions()
        )  # PostgreSQL may not have noticed yet; the test database is to be removed

    # --- parts -------------------------------------------------------------------------------------------------

    def _url(self, queue: str) -> str:
        post = random.choice(self.posts)
        policy = queue.partition(".")[0]
        return f"ws://127.0.0.1:{post.proxy.own_port}/{post.server.token}/async/{policy}/{queue}?client=device"

    async def _start(self, kind: str) -> Server:
        parts = urlsplit(self.database_url)
        through = parts._replace(netloc=f"{parts.username}@127.0.0.1:{self._database.own_port}")
        environment = {
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DATABASE_URL": urlunsplit(through),
            "REDIS_URL": f"redis://127.0.0.1:{self._layer.own_port}/0",
            servers.OVERRIDES: json.dumps(SETTINGS),
        }
        with self.log.open("ab") as log:
            return await asyncio.to_thread(servers.start, kind, environment=environment, log=log)

    async def _start_sender(self) -> None:
        self._names += 1
        name, seconds = f"s{self._names}", max(0.1, self._until - time.monotonic())
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis.url,
            servers.OVERRIDES: json.dumps(SETTINGS),
        }
        command = [
            "-m",
            "tests.chaos.sender",
            name,
            str(seconds),
            self.group,
            *(surfer.queue for surfer in self.surfers),
        ]
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        self.senders[name] = process
        self._background(self._read_ledger(name, process))

    async def _read_ledger(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            queue, priority, number, id = line.decode().split()
            self.ledger.append((queue, f"{name} {priority}", int(number), id))
        await process.wait()

    def _background(self, work: Any) -> None:
        self._tasks.add(asyncio.ensure_future(work))

    # --- faults ------------------------------------------------------------------------------------------------

    async def cut_a_client(self) -> None:
        self.random.choice(self.surfers).cut()

    async def half_open_clients(self) -> None:
        await self._for_a_while(self.random.choice(self.posts).proxy, is_silent=True)

    async def slow_clients(self) -> None:
        await self._for_a_while(self.random.choice(self.posts).proxy, bytes_per_second=30_000)

    async def terminate_a_server(self) -> None:
        await self._replace(self.random.choice(self.posts), signal.SIGTERM)

    async def kill_a_server(self) -> None:
        await self._replace(self.random.choice(self.posts), signal.SIGKILL)

    async def _replace(self, post: Post, how: signal.Signals) -> None:
        await asyncio.to_thread(post.server.stop, how)
        post.server = await self._start(post.kind)
        post.proxy.port = post.server.port

    async def kill_a_sender(self) -> None:
        running = [process for process in self.senders.values() if process.returncode is None]
        if running:
            self.random.choice(running).kill()
            await self._start_sender()

    async def restart_redis(self) -> None:
        await asyncio.to_thread(self.redis.stop)
        await asyncio.sleep(self.random.uniform(0, 1))
        await asyncio.to_thread(self.redis.start)

    async def empty_redis(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.redis.port)
        writer.write(b"FLUSHALL\r\n")
        await reader.readline()
        writer.close()

    async def slow_redis(self) -> None:
        await self._for_a_while(self._layer, delay_seconds=0.2)

    async def reset_the_database(self) -> None:
        await self._database.reset()

    async def end_the_databases_sessions(self) -> None:
        """As a restart does, the senders' included."""
        async with await psycopg.AsyncConnection.connect(self.database_url, autocommit=True) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    async def take_the_database_away(self) -> None:
        await self._database.cut()
        await asyncio.sleep(self.random.uniform(0.2, 3))
        await self._database.restore()

    async def silence_the_database(self) -> None:
        await self._for_a_while(self._database, is_silent=True)

    async def slow_database(self) -> None:
        await self._for_a_while(self._database, delay_seconds=0.05)

    async def _for_a_while(self, proxy: Proxy, **how: Any) -> None:
        for name, value in how.items():
            setattr(proxy, name, value)
        await asyncio.sleep(self.random.uniform(0.5, 3))
        await proxy.restore()

    @property
    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.cut_a_client,
            self.half_open_clients,
            self.slow_clients,
            self.terminate_a_server,
            self.kill_a_server,
            self.kill_a_sender,
            self.restart_redis,
            self.empty_redis,
            self.slow_redis,
            self.reset_the_database,
            self.end_the_databases_sessions,
            self.take_the_database_away,
            self.silence_the_database,
            self.slow_database,
        ]

    # --- the run -----------------------------------------------------------------------------------------------

    async def rage(self, seconds: float, senders: int = 2) -> Account:
        """Strike for so long; each kind of fault once before any comes again. Then wait until all is quiet."""
        self._until = time.monotonic() + seconds
        for _ in range(senders):
            await self._start_sender()
        deck: list[Callable[[], Awaitable[None]]] = []
        while time.monotonic() < self._until:
            deck = deck or self.random.sample(self.faults, len(self.faults))
            fault = deck.pop()
            self.struck[fault.__name__] += 1
            await fault()
            await asyncio.sleep(self.random.uniform(0, 0.5))
        await asyncio.gather(*(process.wait() for process in self.senders.values()))
        await self._settle()
        return self.account()

    async def _settle(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        quiet_since, before = time.monotonic(), -1
        while time.monotonic() < deadline:
            wire = sum(surfer.wire for surfer in self.surfers)
            if wire != before:
                quiet_since, before = time.monotonic(), wire
            if not self.account().lost and time.monotonic() - quiet_since > QUIET_SECONDS:
                return
            await asyncio.sleep(0.2)

    def account(self) -> Account:
        account = Account(accepted=len(self.ledger))
        for surfer in self.surfers:
            mine = {id: f"{sender} {number}" for queue, sender, number, id in self.ledger if queue == surfer.queue}
            missing = [f"{surfer.queue}: {what}" for id, what in mine.items() if id not in surfer.handled]
            names = [(data["sender"], data["number"]) for data in surfer.handled.values()]
            account.delivered += len(surfer.handled)
            account.wire_repeats += surfer.wire - len(surfer.handled)
            account.application_repeats += len(names) - len(set(names))
            account.told_lost += surfer.lost
            account.lost += missing[surfer.lost :]
            account.out_of_order += _out_of_order(surfer)
            account.longest_recovery = max(account.longest_recovery, surfer.recovery)
        return account


def _out_of_order(surfer: Surfer) -> list[str]:
    last: dict[tuple[str, str], int] = {}
    wrong: list[str] = []
    for data in surfer.handled.values():
        line = data["sender"], data["priority"]
        if data["number"] < last.get(line, 0):
            wrong.append(f"{surfer.queue}: {line} {data['number']} after {last[line]}")
        last[line] = max(data["number"], last.get(line, 0))
    return wrong
