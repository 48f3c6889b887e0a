"""What all tests share: which databases and servers are here."""

from __future__ import annotations

from typing import Any

import pytest

from netra_queue.counting import adder
from tests.settings import MISSING

pytest.register_assert_rewrite("tests.waiting", "tests.stores.contract", "tests.stores.contract_upkeep")
pytest.register_assert_rewrite("tests.stores.contract_threads", "tests.stores.contract_lines")
pytest.register_assert_rewrite("tests.stores.contract_linger", "tests.stores.contract_controls")
pytest.register_assert_rewrite("tests.stores.contract_groups", "tests.stores.contract_operators")
pytest.register_assert_rewrite("tests.stores.contract_rates", "tests.stores.contract_passing")
pytest.register_assert_rewrite("tests.stores.contract_receipts")
pytest.register_assert_rewrite("tests.stores.contract_letters", "tests.stores.contract_statistics")
pytest.register_assert_rewrite("tests.stores.contract_overview")
pytest.register_assert_rewrite("tests.core.interleavings.books", "tests.core.interleavings.ledger")
pytest.register_assert_rewrite("tests.core.interleavings.world", "tests.core.interleavings.stage")
pytest.register_assert_rewrite("tests.core.interleavings.machine")


def _database(name: str, alias: str) -> Any:
    """A parameter that is a Django alias, with the marks that a test on it needs."""
    marks = [pytest.mark.django_db(databases=[alias], transaction=True)]
    if name in MISSING:
        marks = [pytest.mark.skip(reason=MISSING[name])]
    return pytest.param(alias, id=name, marks=marks)


DATABASES_HERE = [
    _database("sqlite", "default"),
    _database("postgresql", "postgresql"),
    _database("mariadb", "mariadb"),
]
CONCURRENT_DATABASES_HERE = DATABASES_HERE[1:]  # those where two transactions can write at a time

needs_redis = pytest.mark.skipif("redis" in MISSING, reason=MISSING.get("redis", ""))

needs_rabbitmq = pytest.mark.skipif("rabbitmq" in MISSING, reason=MISSING.get("rabbitmq", ""))


@pytest.fixture(autouse=True)
def _nothing_writes_statistics_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread starts because something is counted: it would take what a test counts, and use its database."""
    monkeypatch.setattr(adder, "on_first", lambda: None)


@pytest.fixture(params=DATABASES_HERE)
def database(request: pytest.FixtureRequest) -> str:
    """The alias of each database in turn."""
    return str(request.param)


@pytest.fixture(params=CONCURRENT_DATABASES_HERE)
def concurrent_database(request: pytest.FixtureRequest) -> str:
    """The alias of each database in turn on which writers do not wait for each other."""
    return str(request.param)
