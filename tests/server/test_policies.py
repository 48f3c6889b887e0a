"""What an operator changes is in force in every process within two seconds, with a bell and without."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.urls import reverse

import netra_queue
from netra_queue import conf, operating
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.server.conftest import World, answers, new_queue, play
from tests.settings import REDIS_URL

NEVER = 3600  # a poll interval that no test lives to see
PROMISED_SECONDS = 2.0
SENDER = """
import asyncio, sys, time, django
django.setup()
import netra_queue

async def asend():
    return await netra_queue.asend("sender.a", "x" * 100)

def outcome():
    try:
        loop.run_until_complete(asend()) if sys.argv[1] == "asend" else netra_queue.send("sender.s", "x" * 100)
    except netra_queue.MessageTooLarge:
        return "refused"
    return "sent"

loop, last = asyncio.new_event_loop(), ""
while True:
    now = outcome()
    if now != last:
        print(now, flush=True)
    last = now
    time.sleep(0.02)
"""
CHANGES = [(3, 50, "refused"), (4, 200, "sent"), (5, 50, "refused")]

Change = Callable[[dict[str, int]], None]


async def start_sender(world: World, verb: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, **world.environment}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", SENDER, verb, env=environment, stdout=asyncio.subprocess.PIPE
    )


async def says(sender: asyncio.subprocess.Process, expected: str, seconds: float) -> None:
    assert sender.stdout is not None
    line = await asyncio.wait_for(sender.stdout.readline(), seconds)
    assert line.decode().strip() == expected


async def in_force_everywhere(world: World, change: Change) -> list[float]:
    """Returns how long it took after each change until two servers had it for clients that were connected."""
    servers = [world.start("daphne", POLL_SECONDS=NEVER, POLICIES={"default": {"WINDOW": 2}}) for _ in range(2)]
    senders = [await start_sender(world, verb) for verb in ("send", "asend")]
    clients = [world.client(server, acks=False) for server in servers]
    delays: list[float] = []
    try:
        for client in clients:
            queue = client.url.rpartition("/")[2]
            await netra_queue.asend_many([(queue, number) for number in range(9)])
            await client.connect()
            await client.take(2)
        for sender in senders:
            await says(sender, "sent", 20)
        for window, size, outcome in CHANGES:
            await sync_to_async(change)({"WINDOW": window, "MAX_MESSAGE_BYTES": size})
            started = time.monotonic()
            said = [says(sender, outcome, PROMISED_SECONDS) for sender in senders]
            both = asyncio.gather(*(client.take(window, PROMISED_SECONDS) for client in clients))
            both.add_done_callback(lambda _, started=started: delays.append(time.monotonic() - started))
            await asyncio.gather(both, *said)
            assert [len(client.received) for client in clients] == [window] * 2
        for client in clients:
            await answers(client)
            await client.disconnect()
    finally:
        for sender in senders:
            sender.kill()
            await sender.wait()
    return delays


@needs_redis
@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE[:1])
def test_with_a_bell(make_world: Callable[..., World], alias: str) -> None:
    world = make_world(alias, REDIS_URL)
    delays = play(in_force_everywhere(world, lambda values: operating.carry_out(_default(values))))
    assert sum(delays) < 1.5, f"{delays}: asking the store takes each server up to 1.5 s"


def _default(values: dict[str, int]) -> operating.Change:
    return operating.policy_changed("default", values)


def test_without_a_bell_and_from_the_admin(sqlite_world: World) -> None:
    """The in-process channel layer of the embedded defaults reaches no other process."""
    browser = Browser()
    browser.force_login(User.objects.create_superuser("root"))

    def change(values: dict[str, int]) -> None:
        is_new = not browser.get(url := reverse("admin:netra_queue_queuepolicy_change", args=["default"])).context
        url = reverse("admin:netra_queue_queuepolicy_add") if is_new else url
        given: dict[str, Any] = {**dict.fromkeys(conf.POLICY_DEFAULTS, ""), "name": "default", **values}
        assert browser.post(url, given).status_code == 302

    play(in_force_everywhere(sqlite_world, change))


def test_a_pattern_names_the_policy_of_open_connections(sqlite_world: World) -> None:
    server = sqlite_world.start("daphne", POLL_SECONDS=NEVER, POLICIES={"narrow": {"WINDOW": 2}})

    async def narrowed() -> None:
        queue = new_queue()
        client = sqlite_world.client(server, queue, policy="narrow", acks=False)
        await netra_queue.asend_many([(queue, number) for number in range(5)])
        async with client:
            await client.take(2)
            await sync_to_async(operating.carry_out)(operating.policy_changed("wide", {"WINDOW": 4}))
            await sync_to_async(operating.carry_out)(operating.pattern_set("test.*", "wide", 1))
            await client.take(4, PROMISED_SECONDS)
            await sync_to_async(operating.carry_out)(operating.pattern_removed("test.*"))
            await answers(client)
            assert len(client.received) == 4

    play(narrowed())
