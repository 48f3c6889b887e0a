"""DatabaseStore keeps the contract on every database."""

from __future__ import annotations

import pytest

from tests.making import AdvancingDatabaseStore

from .contract_groups import GroupContract
from .contracts import StoreContract


class TestDatabaseStore(StoreContract):
    @pytest.fixture
    def store(self, database: str) -> AdvancingDatabaseStore:
        return AdvancingDatabaseStore(database)


class TestDatabaseGroups(GroupContract):
    @pytest.fixture
    def store(self, database: str) -> AdvancingDatabaseStore:
        return AdvancingDatabaseStore(database)
