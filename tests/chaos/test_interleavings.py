"""For ``make chaos``: the stories of tests/core/test_interleavings.py, new ones and more of them."""

import os

import pytest

from tests.core.test_interleavings import (
    policies,
    test_nothing_is_lost_for_any_interleaving,
    test_nothing_is_lost_on_a_database_either,
)

__all__ = ["policies", "test_nothing_is_lost_for_any_interleaving", "test_nothing_is_lost_on_a_database_either"]
pytestmark = pytest.mark.skipif("NETRA_CHAOS_SECONDS" not in os.environ, reason="ten minutes: make chaos")
