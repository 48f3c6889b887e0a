"""Whether servers grow under clients that misbehave. Only at length, as `make chaos` has it (NETRA_CHAOS_SECONDS)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.chaos.databases import OwnPostgresql
from tests.chaos.soak import MOST_GROWTH, MOST_GROWTH_BYTES, SOAK_SETTINGS, Soak
from tests.chaos.storm import Storm
from tests.server.conftest import Redis

SECONDS = float(os.environ.get("NETRA_CHAOS_SECONDS", "0"))


@pytest.mark.skipif(SECONDS == 0, reason="a soak takes ten minutes: make chaos, or NETRA_CHAOS_SECONDS")
def test_servers_do_not_grow_under_clients_that_misbehave(
    postgresql: OwnPostgresql, own_redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> Soak:
        storm = Storm(postgresql, own_redis, tmp_path, seed=0, queues=0, settings=SOAK_SETTINGS)
        async with storm:
            soak = Soak(storm)
            await soak.run(SECONDS)
            return soak

    soak = asyncio.run(run())
    connects = sum(surfer.connects for surfer in soak.storm.surfers)
    handled = sum(len(surfer.handled) for surfer in soak.storm.surfers)
    counts = f"{len(soak.storm.ledger)} accepted, {handled} handled, {connects} connects"
    report = f"soak, {SECONDS:g} s: {counts}; " + "; ".join(map(soak.figures, soak.sizes))
    with capsys.disabled():
        os.write(1, f"\n{report}\n".encode())
    assert min(len(soak.storm.ledger), handled) > SECONDS, report
    for kind in soak.sizes:
        middle, last = soak.growth(kind)
        assert last <= middle * MOST_GROWTH + MOST_GROWTH_BYTES, report
