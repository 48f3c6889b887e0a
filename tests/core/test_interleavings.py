"""Nothing is lost that is not counted, whatever happens in between: see ``tests.core.interleavings``.

The same stories each time, so that a change is judged by itself; with NETRA_CHAOS_SECONDS new ones, and ten times more.
Against a mutant, three times as many.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

import pytest
from django.test import override_settings
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.core.interleavings.machine import Interleavings
from tests.core.interleavings.sight import StandingDatabaseStore, StandingStore
from tests.core.interleavings.stage import POLICIES

IS_LONG = "NETRA_CHAOS_SECONDS" in os.environ
IS_MUTANT = "NETRA_MUTANT" in os.environ  # that a story is found is enough: nobody reads it
STORIES = {"memory": 300, "default": 30, "postgresql": 10, "mariadb": 10}
STEPS = 60


@pytest.fixture(autouse=True)
def policies() -> Iterator[None]:
    with override_settings(NETRA_QUEUE={"POLICIES": POLICIES}):
        yield


def play(machine: type[Interleavings], store: str, phases: Collection[Phase] = tuple(Phase)) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=STORIES[store] * (10 if IS_LONG else 3 if IS_MUTANT else 1),
            stateful_step_count=STEPS,
            derandomize=not IS_LONG,
            phases=phases,
            print_blob=True,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_nothing_is_lost_for_any_interleaving() -> None:
    play(Interleavings, "memory", [Phase.generate] if IS_MUTANT else tuple(Phase))


def test_nothing_is_lost_on_a_database_either(database: str) -> None:
    class OnDatabase(Interleavings):
        def make_store(self) -> StandingStore:
            return StandingDatabaseStore(database)

    play(OnDatabase, database, [Phase.generate])  # to make a story shorter takes too long there
