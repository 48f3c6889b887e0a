"""MemoryStore keeps the contract."""

from __future__ import annotations

import pytest

from tests.making import AdvancingMemoryStore

from .contract_groups import GroupContract
from .contracts import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> AdvancingMemoryStore:
        return AdvancingMemoryStore()

    def test_it_joins_no_transaction(self, store: AdvancingMemoryStore) -> None:
        assert not store.transactional
        assert not store.in_transaction()


class TestMemoryGroups(GroupContract):
    @pytest.fixture
    def store(self) -> AdvancingMemoryStore:
        return AdvancingMemoryStore()
