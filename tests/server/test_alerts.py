"""A part that really stops opens an alert, and its return resolves it: real servers, a real database."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

from asgiref.sync import sync_to_async
from django.core import mail

from netra_queue import alerts
from netra_queue.core.alert_rules import KEYS
from netra_queue.core.alerting import Alert
from netra_queue.stores import current_store
from tests.server.conftest import World, connected, live, new_queue, play
from tests.waiting import await_until

# As they are, only sooner.
RULES = [replace(KEYS[key], for_seconds=0.5, keep_seconds=0.5) for key in ("no_servers", "servers_stale")]
HEARTBEAT = {"SERVER_HEARTBEAT_SECONDS": 0.5, "STORE_TIMEOUT_SECONDS": 1.0}


async def evaluated() -> list[str]:
    """Which alerts go on."""
    found: list[Alert] = await sync_to_async(alerts.evaluate)(RULES)
    return [alert.name for alert in found]


async def until(*names: str) -> None:
    async def is_so() -> bool:
        return await evaluated() == list(names)

    await await_until(is_so, 30)


def test_killed_servers_open_alerts_that_their_return_resolves(world: World, settings: Any) -> None:
    settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, **HEARTBEAT}
    settings.ADMINS = [("Ada", "ada@example.com")]
    stays, goes = world.start(**HEARTBEAT), world.start(**HEARTBEAT)

    async def happens() -> None:
        queue = new_queue()
        async with world.client(stays, queue) as one, world.client(goes, queue) as other:
            await live(one)
            await live(other)
            await connected(queue, 2)
            assert await evaluated() == []
            goes.stop(signal.SIGKILL)
            await until("NetraQueueServersStale")
            again = world.start(**HEARTBEAT)
            async with world.client(again, queue) as back:
                await live(back)
                await until()
                for server in (stays, again):
                    server.stop(signal.SIGKILL)
                await until("NetraQueueNoServers")
        last = world.start(**HEARTBEAT)
        async with world.client(last, queue) as back:
            await live(back)
            await await_until(is_resolved, 30)

    async def is_resolved() -> bool:
        return "NetraQueueNoServers" not in await evaluated()

    play(happens())
    told = [message.subject.removeprefix("[Django] NetraQueue") for message in mail.outbox]
    assert told[:3] == ["ServersStale is open", "ServersStale is resolved", "NoServers is open"]
    assert "NoServers is resolved" in told[3]
    assert len(current_store().alerts(10)) >= 2
