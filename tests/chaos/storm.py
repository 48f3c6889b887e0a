"""A storm: servers, senders in processes of their own, clients, and faults that strike at random; then the account.

    senders, upkeep --> database <--[proxy]-- two servers <--[proxies]-- clients
                                      |
                                  [proxy]--> Redis

Everything that a sender or a consumer was told is accepted has to reach the application of each of its queue's devices,
in order, or be told as lost.
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
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from netra_queue.management.scenarios import server as servers
from netra_queue.management.scenarios.server import Server
from tests.chaos import account
from tests.chaos.account import Account, Entry, Excuse
from tests.chaos.clocks import Clock
from tests.chaos.databases import Database
from tests.chaos.diary import VARIABLE, Diary
from tests.chaos.faults import Fault, Faults
from tests.chaos.proxy import Proxy
from tests.chaos.surfer import Surfer
from tests.server.conftest import Redis, new_queue
from tests.waiting import await_until

KINDS = ("daphne", "uvicorn")
CONSUMERS = ("talker", "alwaystalker", "async", "async")  # by the queue's number
APPLICATION = "tests.chaos.application.application"
QUICK = {"HEARTBEAT_SECONDS": 1.5, "ACK_TIMEOUT_SECONDS": 4}
POLICIES = {
    "roomy": {"MAX_MESSAGES": 100_000, "MAX_BYTES": 1 << 30, **QUICK},
    "tight": {"MAX_MESSAGES": 40, "TTL": 4, "WINDOW": 8, **QUICK},
}
SETTINGS = {"POLICIES": POLICIES, "POLL_SECONDS": 0.5, "SERVER_HEARTBEAT_SECONDS": 1.0, "STORE_TIMEOUT_SECONDS": 4.0}
START_SECONDS = 120.0
ASK_SECONDS = 30.0  # a server that has not ended by then writes into the log what it waits for
SETTLE_SECONDS = 90.0
QUIET_SECONDS = 3.0
STATUS_SECONDS = 10.0
LOG_TAIL = 20_000


@dataclass(slots=True)
class Post:
    """A server's place: whichever process stands there is reached through the same proxy, and has the same clock."""

    kind: str
    proxy: Proxy
    clock: Clock
    server: Server


@dataclass(slots=True)
class Storm:
    """``database`` and ``redis`` are reached directly by senders, and through proxies by servers."""

    database: Database
    redis: Redis
    folder: Path
    seed: int
    can_restart: bool = False
    queues: int = 8
    settings: dict[str, Any] = field(default_factory=lambda: SETTINGS)
    group: str = field(default_factory=new_queue)
    random: random.Random = field(init=False)
    posts: list[Post] = field(default_factory=list)
    surfers: list[Surfer] = field(default_factory=list)
    ledger: list[Entry] = field(default_factory=list)
    senders: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    excuse: Excuse = field(default_factory=Excuse)
    events: list[str] = field(default_factory=list)  # what struck when, for those who look for a cause
    struck: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    between: Proxy = field(init=False)  # servers and the database
    layer: Proxy = field(init=False)  # servers and Redis
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _keeper: asyncio.subprocess.Process | None = None
    _names: int = 0
    _until: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    async def __aenter__(self) -> Self:
        try:
            await self._start_everything()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _start_everything(self) -> None:
        await self.start_servers()
        for number in range(self.queues):
            policy = account.TIGHT if number % 4 == 3 else "roomy"
            queue, consumer = f"{policy}.{new_queue()}", CONSUMERS[number % len(CONSUMERS)]
            devices = ("phone", "laptop") if number < self.queues / 4 else ("phone",)
            self.surfers += [Surfer(queue, self.url, client, consumer) for client in devices]
        environment = self._environment(self.database.url, self.redis.url)
        self._keeper = await self._run(["tests.chaos.keeper"], environment)
        await self.ask_clerk("subscribe", [[queue, self.group] for queue in self.names])
        for surfer in self.surfers:
            self.background(surfer.run())
        await await_until(lambda: all(surfer.lives for surfer in self.surfers), START_SECONDS)  # each has its line now

    async def __aexit__(self, *error: object) -> None:
        for surfer in self.surfers:
            surfer.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in [*self.senders.values(), *([self._keeper] if self._keeper else [])]:
            if process.returncode is None:
                process.kill()
                await process.wait()
        for post in self.posts:
            if post.server.process.poll() is None:
                await asyncio.to_thread(post.server.stop, signal.SIGKILL)
        await self._stack.aclose()

    # --- parts -------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        return list({surfer.queue: None for surfer in self.surfers})

    @property
    def diary(self) -> Diary:
        return Diary(self.folder / "diary")

    def url(self, surfer: Surfer) -> str:
        post = random.choice(self.posts)
        path = f"{post.server.token}/{surfer.consumer}/{surfer.queue.partition('.')[0]}/{surfer.queue}"
        return f"ws://127.0.0.1:{post.proxy.own_port}/{path}?client={surfer.client}"

    async def start_servers(self) -> None:
        port = urlsplit(self.database.url).port
        assert port is not None
        self.between = await self._stack.enter_async_context(Proxy("127.0.0.1", port))
        self.layer = await self._stack.enter_async_context(Proxy("127.0.0.1", self.redis.port))
        for kind in KINDS:
            clock = Clock(self.folder / f"clock-{kind}")
            server = await self._start(kind, clock)
            proxy = await self._stack.enter_async_context(Proxy("127.0.0.1", server.port))
            self.posts.append(Post(kind, proxy, clock, server))

    async def _start(self, kind: str, clock: Clock) -> Server:
        parts = urlsplit(self.database.url)
        through = parts._replace(netloc=f"{parts.username}@127.0.0.1:{self.between.own_port}")
        environment = {
            **self._environment(urlunsplit(through), f"redis://127.0.0.1:{self.layer.own_port}/0"),
            **clock.environment,
            VARIABLE: str(self.diary.path),
        }
        with self.log.open("ab") as log:
            return await asyncio.to_thread(
                servers.start, kind, application=APPLICATION, environment=environment, log=log
            )

    @property
    def log(self) -> Path:
        return self.folder / "storm.log"

    async def replace(self, post: Post, how: signal.Signals) -> None:
        pid, at = post.server.process.pid, time.monotonic()
        asking = asyncio.get_running_loop().call_later(ASK_SECONDS, os.kill, pid, signal.SIGUSR1)
        try:
            status = await asyncio.to_thread(post.server.stop, how)
        except RuntimeError as error:
            error.add_note(self.log.read_text(errors="replace")[-LOG_TAIL:])  # with the stacks it was asked for
            raise
        finally:
            asking.cancel()
        if how is signal.SIGKILL or status == -signal.SIGSEGV:  # Daphne may end in that way before its own shutdown
            self.excuse.killed[pid] = time.monotonic()
        self.events.append(f"{at:.2f} {how.name} of {post.kind} {pid}, gone at {time.monotonic():.2f} with {status}")
        post.server = await self._start(post.kind, post.clock)
        post.proxy.port = post.server.port

    def _environment(self, database_url: str, redis_url: str) -> dict[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            servers.OVERRIDES: json.dumps(self.settings),
        }

    def clock_of(self, sender: str) -> Clock:
        return Clock(self.folder / f"clock-{sender}")

    @property
    def running_senders(self) -> list[str]:
        return [name for name, process in self.senders.items() if process.returncode is None]

    async def start_sender(self, die_at: int = 0) -> None:
        self._names += 1
        name, seconds = f"s{self._names}", max(0.1, self._until - time.monotonic())
        environment = self._environment(self.database.url, self.redis.url) | self.clock_of(name).environment
        command = ["tests.chaos.sender", name, str(seconds), self.group, str(die_at), *self.names]
        self.senders[name] = process = await self._run(command, environment)
        self.background(self._read_ledger(process))

    async def _run(self, command: list[str], environment: dict[str, str]) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", *command, env={**os.environ, **environment}, stdin=pipe, stdout=pipe, stderr=log
            )

    async def _read_ledger(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.ledger.append(Entry(**json.loads(line)))
        await process.wait()

    async def ask_clerk(self, verb: str, what: Any) -> Any:
        environment = self._environment(self.database.url, self.redis.url)
        process = await self._run(["tests.chaos.clerk", verb], environment)
        answer, _ = await process.communicate(json.dumps(what).encode())
        assert process.returncode == 0, self.log.read_text()[-2000:]
        return json.loads(answer)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    # --- the run -----------------------------------------------------------------------------------------------

    async def rage(self, seconds: float, senders: int = 2) -> Account:
        """Strike for so long; each kind of fault once before any comes again. Then wait until all is quiet."""
        await self.steady(seconds, senders)
        deck: list[Fault] = []
        faults = Faults(self)
        of_the_database = faults.of_the_database
        while time.monotonic() < self._until:
            deck = deck or self.random.sample(faults.all, len(faults.all))
            fault = deck.pop()
            self.struck[fault.__name__] += 1
            began_at = time.monotonic()
            await fault()
            self.events.append(f"{began_at:.2f} to {time.monotonic():.2f} {fault.__name__}")
            if fault in of_the_database:
                self.excuse.outages.append((began_at, time.monotonic()))
            await asyncio.sleep(self.random.uniform(0, 0.5))
        await asyncio.gather(*(process.wait() for process in self.senders.values()))
        self.diary.close()
        await self._settle()
        return await self._account()

    async def steady(self, seconds: float, senders: int = 2) -> None:
        """Start senders that go on for so long. Returns when they have begun."""
        self._until = time.monotonic() + seconds
        for _ in range(senders):
            await self.start_sender()
        await await_until(lambda: len({entry.sender for entry in self.ledger}) == senders, START_SECONDS)
        self._until = time.monotonic() + seconds

    async def _settle(self) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        quiet_since, before = time.monotonic(), -1
        while time.monotonic() < deadline:
            wire = sum(surfer.wire for surfer in self.surfers)
            if wire != before:
                quiet_since, before = time.monotonic(), wire
            if time.monotonic() - quiet_since > QUIET_SECONDS and not self._sum_up().lost:
                return
            await asyncio.sleep(0.2)

    def _sum_up(self) -> Account:
        return account.settle(self.surfers, [*self.ledger, *self.diary.entries()], self.excuse)

    async def _account(self) -> Account:
        """With what the store says of tracked messages: the last acks may be on their way to it."""
        total, deadline = self._sum_up(), time.monotonic() + STATUS_SECONDS
        tracked = [entry.id for entry in self.ledger if entry.track]
        while True:
            states = await self.ask_clerk("statuses", tracked)
            total.tracked = len(tracked)
            total.wrong_statuses = list(account.wrong_statuses(self.surfers, self.ledger, states))
            if not total.wrong_statuses or time.monotonic() > deadline:
                break
        if total.lost:
            lines = [f"{surfer.queue}/{surfer.client}" for surfer in self.surfers]
            total.lost += [f"{line}: {stat}" for line, stat in (await self.ask_clerk("stats", lines)).items()]
        return total
