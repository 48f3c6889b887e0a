"""Prometheus' multiprocess mode with real servers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from tests.server.conftest import World, live, new_queue, play
from tests.test_metrics import SCRAPE, run, samples


def test_a_server_in_multiprocess_mode(sqlite_world: World, tmp_path: Path) -> None:
    world = sqlite_world
    folder = tmp_path / "prometheus"
    folder.mkdir()
    world.environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    servers = [world.start(), world.start()]
    environment = {**os.environ, **world.environment}

    async def seen() -> dict[str, float]:
        clients = [world.client(server, new_queue()) for server in servers]
        async with clients[0], clients[1]:
            for client in clients:
                await live(client)
            for _ in range(40):
                found = samples(await asyncio.to_thread(run, SCRAPE, environment=environment))
                if found.get("netra_queue_connections") == 2:
                    return found
                await asyncio.sleep(0.5)
            return found

    found = play(seen())
    assert found["netra_queue_connections"] == 2
    assert found["netra_queue_connections_opened_total"] == 2
    assert found["netra_queue_live_seconds_count"] == 2
