"""What strikes: each a coroutine that is over when the fault is."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.chaos.clocks import LIBRARY, Clock
from tests.chaos.proxy import Proxy
from tests.waiting import await_until

if TYPE_CHECKING:
    from tests.chaos.storm import Post, Storm

Fault = Callable[[], Awaitable[None]]
CLOCK_SECONDS = 900  # how far a clock is from the true time, at most
REPLAY_BYTES_PER_SECOND = 20_000


@dataclass(frozen=True, slots=True)
class Faults:
    storm: Storm

    @property
    def all(self) -> list[Fault]:
        """Those that the database and this machine allow."""
        of_clients = [self.cut_a_client, self.half_open_clients, self.slow_clients]
        of_servers = [self.terminate_a_server, self.kill_a_server]
        of_senders = [self.kill_a_sender, self.kill_a_sender_before_the_bell]
        of_redis = [self.restart_redis, self.empty_redis, self.slow_redis]
        return [*of_clients, *of_servers, *of_senders, *of_redis, *self.of_the_database, *self._of_clocks]

    @property
    def of_the_database(self) -> list[Fault]:
        away = [self.take_the_database_away, self.silence_the_database, self.slow_database]
        sessions = [self.reset_the_database, self.end_the_databases_sessions]
        restarts = [self.restart_the_database, self.crash_the_database, self.crash_the_database_in_a_replay]
        return [*away, *sessions, *(restarts if self.storm.can_restart else [])]

    @property
    def _of_clocks(self) -> list[Fault]:
        if LIBRARY is None:
            return []
        of_database = [self.step_the_databases_clock] if self.storm.database.clock else []
        return [*of_database, self.step_a_servers_clock, self.step_a_senders_clock]

    # --- clients -----------------------------------------------------------------------------------------------

    async def cut_a_client(self) -> None:
        self.storm.random.choice(self.storm.surfers).cut()

    async def half_open_clients(self) -> None:
        await self._for_a_while(self._a_post().proxy, is_silent=True)

    async def slow_clients(self) -> None:
        """Slower than the senders."""
        await self._for_a_while(self._a_post().proxy, bytes_per_second=5_000)

    # --- servers and senders -----------------------------------------------------------------------------------

    async def terminate_a_server(self) -> None:
        await self.storm.replace(self._a_post(), signal.SIGTERM)

    async def kill_a_server(self) -> None:
        await self.storm.replace(self._a_post(), signal.SIGKILL)

    async def kill_a_sender(self) -> None:
        running = self.storm.running_senders
        if running:
            self.storm.senders[self.storm.random.choice(running)].kill()
            await self.storm.start_sender()

    async def kill_a_sender_before_the_bell(self) -> None:
        """One more, which does it to itself."""
        await self.storm.start_sender(die_at=self.storm.random.randint(1, 20))

    # --- Redis -------------------------------------------------------------------------------------------------

    async def restart_redis(self) -> None:
        await asyncio.to_thread(self.storm.redis.stop)
        await asyncio.sleep(self.storm.random.uniform(0, 1))
        await asyncio.to_thread(self.storm.redis.start)

    async def empty_redis(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.storm.redis.port)
        writer.write(b"FLUSHALL\r\n")
        await reader.readline()
        writer.close()

    async def slow_redis(self) -> None:
        await self._for_a_while(self.storm.layer, delay_seconds=0.2)

    # --- the database ------------------------------------------------------------------------------------------

    async def reset_the_database(self) -> None:
        await self.storm.between.reset()

    async def end_the_databases_sessions(self) -> None:
        await asyncio.to_thread(self.storm.database.end_sessions)

    async def take_the_database_away(self) -> None:
        await self.storm.between.cut()
        await asyncio.sleep(self.storm.random.uniform(0.2, 3))
        await self.storm.between.restore()

    async def silence_the_database(self) -> None:
        await self._for_a_while(self.storm.between, is_silent=True)

    async def slow_database(self) -> None:
        """Slower than the clients."""
        await self._for_a_while(self.storm.between, delay_seconds=self.storm.random.choice([0.05, 0.3]))

    async def restart_the_database(self) -> None:
        await asyncio.to_thread(self.storm.database.restart, "fast")

    async def crash_the_database(self) -> None:
        await asyncio.to_thread(self.storm.database.restart, "immediate")

    async def crash_the_database_in_a_replay(self) -> None:
        """Clients that were away for a while come back over a slow network, and have not got everything yet."""
        for post in self.storm.posts:
            await post.proxy.cut()
        await asyncio.sleep(1.5)
        for post in self.storm.posts:
            await post.proxy.restore()
            post.proxy.bytes_per_second = REPLAY_BYTES_PER_SECOND
        with suppress(AssertionError):  # a server that is out of sorts for another reason may keep them waiting
            await await_until(lambda: any(surfer.is_replaying for surfer in self.storm.surfers))
            self.storm.struck["(in a replay)"] += 1
        await self.crash_the_database()
        for post in self.storm.posts:
            await post.proxy.restore()

    # --- clocks ------------------------------------------------------------------------------------------------

    async def step_the_databases_clock(self) -> None:
        assert self.storm.database.clock is not None
        self.storm.excuse.has_stepped_clock = True
        self._step(self.storm.database.clock)

    async def step_a_servers_clock(self) -> None:
        self._step(self._a_post().clock)

    async def step_a_senders_clock(self) -> None:
        if running := self.storm.running_senders:
            self._step(self.storm.clock_of(self.storm.random.choice(running)))

    def _step(self, clock: Clock) -> None:
        """Minutes forwards or back."""
        clock.step(self.storm.random.randint(-CLOCK_SECONDS, CLOCK_SECONDS))

    # -----------------------------------------------------------------------------------------------------------

    def _a_post(self) -> Post:
        return self.storm.random.choice(self.storm.posts)

    async def _for_a_while(self, proxy: Proxy, **how: Any) -> None:
        for name, value in how.items():
            setattr(proxy, name, value)
        await asyncio.sleep(self.storm.random.uniform(0.5, 3))
        await proxy.restore()
