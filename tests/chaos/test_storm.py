"""Faults at random on real servers, PostgreSQL and Redis.

NETRA_CHAOS_SECONDS makes it longer; NETRA_CHAOS_SEED strikes with the same faults in the same order again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import connections

from netra_queue import testing
from tests.chaos.storm import Account, Storm
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.server.conftest import Redis, World, database_url

SECONDS = float(os.environ.get("NETRA_CHAOS_SECONDS", "25"))
SEED = int(os.environ.get("NETRA_CHAOS_SEED") or random.randrange(1_000_000))


@needs_redis
@pytest.mark.parametrize("concurrent_database", CONCURRENT_DATABASES_HERE[:1], indirect=True)
def test_a_storm(
    concurrent_database: str,
    make_world: Callable[..., World],
    own_redis: Redis,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_world(concurrent_database)
    log = tmp_path / "storm.log"

    async def rage() -> tuple[Account, dict[str, int]]:
        async with Storm(database_url(concurrent_database), own_redis, log, SEED) as storm:
            return await storm.rage(SECONDS), storm.struck

    account, struck = asyncio.run(rage())
    testing.shutdown()
    connections[concurrent_database].close()  # it was among those that were ended
    report = f"seed {SEED}, {SECONDS:g} s: {account}; {sum(struck.values())} faults {dict(sorted(struck.items()))}"
    with capsys.disabled():
        os.write(1, f"\n{report}\n".encode())
    assert account.accepted > SECONDS, report
    assert not account.lost, f"{report}\n" + "\n".join(account.lost[:20])
    assert not account.out_of_order, f"{report}\n" + "\n".join(account.out_of_order[:20])
    assert account.application_repeats == 0, report
