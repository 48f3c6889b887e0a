"""The nine scenarios, on every database, under both servers, with both kinds of client."""

from __future__ import annotations

import pytest

from netra_queue.management.scenarios import plays
from tests.server.conftest import World, play


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("raw", [False, True], ids=["v1", "raw"])
def test_all_nine_hold(world: World, kind: str, raw: bool) -> None:
    server = world.start(kind)

    async def all_nine() -> list[plays.Result]:
        return [await plays.play(name, plays.Stage(server, raw)) for name in plays.PLAYS]

    results = play(all_nine())
    assert {result.scenario: result.problems for result in results} == {name: [] for name in plays.PLAYS}
    assert sum(result.lost + result.repeated + result.out_of_order for result in results) == 0
