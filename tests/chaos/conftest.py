"""The servers that the storms need: Redis, and a database of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.chaos import clocks, databases
from tests.chaos.databases import OwnPostgresql, SharedMariadb
from tests.server.conftest import make_world, own_redis, sqlite_world
from tests.settings import MISSING

__all__ = ["make_world", "own_redis", "sqlite_world"]


def left_out(why: str) -> None:
    """Skip the test, unless everything has to be here."""
    if os.environ.get("NETRA_REQUIRE_SERVERS") == "1":
        pytest.fail(f"NETRA_REQUIRE_SERVERS=1, but {why}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def may_step_clocks() -> bool:
    """Whether libfaketime is here; where it must be and is not, an error."""
    if clocks.LIBRARY is None and os.environ.get("NETRA_REQUIRE_SERVERS") == "1":
        pytest.fail(f"NETRA_REQUIRE_SERVERS=1, but {clocks.MISSING}")
    return clocks.LIBRARY is not None


@pytest.fixture
def postgresql(may_step_clocks: bool) -> Iterator[OwnPostgresql]:
    binaries = databases.postgresql_binaries()
    if binaries is None:
        left_out("there is no initdb to make a PostgreSQL with")
    assert binaries is not None
    with databases.own_postgresql(binaries) as database:
        yield database


@pytest.fixture
def mariadb(may_step_clocks: bool) -> Iterator[SharedMariadb]:
    if "mariadb" in MISSING:
        pytest.skip(MISSING["mariadb"])
    with databases.shared_mariadb() as database:
        yield database
