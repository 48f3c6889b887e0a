"""Faults at random on real servers, PostgreSQL, MariaDB and Redis.

NETRA_CHAOS_SECONDS makes it longer; NETRA_CHAOS_SEED strikes with the same faults in the same order again.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.chaos import clocks
from tests.chaos.account import Account
from tests.chaos.databases import Database, OwnPostgresql, SharedMariadb
from tests.chaos.storm import Storm
from tests.server.conftest import Redis

SECONDS = float(os.environ.get("NETRA_CHAOS_SECONDS", "25"))
MARIADB_SHARE = 0.6  # of that time
SEED = int(os.environ.get("NETRA_CHAOS_SEED") or random.randrange(1_000_000))


def test_a_storm_on_postgresql(
    postgresql: OwnPostgresql, own_redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(postgresql, own_redis, tmp_path, capsys, SECONDS, can_restart=True)


def test_a_storm_on_mariadb(
    mariadb: SharedMariadb, own_redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(mariadb, own_redis, tmp_path, capsys, SECONDS * MARIADB_SHARE, can_restart=False)


def check(
    database: Database,
    redis: Redis,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    *,
    can_restart: bool,
) -> None:
    async def rage() -> tuple[Account, Storm]:
        async with Storm(database, redis, folder, SEED, can_restart) as storm:
            return await storm.rage(seconds), storm

    account, storm = asyncio.run(rage())
    struck = storm.struck
    faults = f"{sum(struck.values())} faults {dict(sorted(struck.items()))}"
    left_out = f"; {clocks.MISSING}" if clocks.LIBRARY is None else ""
    report = f"{database.url.partition(':')[0]}, seed {SEED}, {seconds:g} s: {account}; {faults}{left_out}"
    with capsys.disabled():
        os.write(1, f"\n{report}\n".encode())
    assert account.accepted - account.own_sends.total() > seconds, report
    wrong = [*account.lost, *account.out_of_order, *account.wrong_statuses]
    assert not wrong, f"{report}\n" + "\n".join([*wrong, *storm.events])
    assert account.application_repeats == 0, report
