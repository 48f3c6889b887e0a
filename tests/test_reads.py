"""How often the store is read."""

from __future__ import annotations

import pytest

from netra_queue.reads import pause_after


@pytest.mark.parametrize(("connections", "seconds"), [(1, 0.002), (5, 0.002), (10, 0.004), (50, 0.02), (10_000, 0.02)])
def test_a_read_for_many_connections_leaves_time_for_their_frames(connections: int, seconds: float) -> None:
    assert pause_after(connections) == pytest.approx(seconds)
