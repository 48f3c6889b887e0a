"""The pages for liveness and readiness: what they answer, to whom, and what they cost."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import AsyncClient, Client

from netra_queue import health, readiness, testing
from netra_queue.exceptions import StoreUnavailable
from netra_queue.stores import current_store
from netra_queue.stores.base import Store
from tests.making import force_breaker
from tests.test_health import LAYER, Layer
from tests.waiting import wait_until

TOKEN = "a token of enough characters"
LIVE, READY = "/health/live/", "/health/ready/"
PARTS = ["store", "channel layer", "hub", "sweep"]

pytestmark = pytest.mark.urls("netra_queue.urls")


@pytest.fixture
def store(settings: Any) -> Iterator[Store]:
    settings.NETRA_QUEUE = {"STORE": "netra_queue.stores.memory.MemoryStore", "METRICS_TOKEN": TOKEN}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": LAYER}}
    readiness.forget()
    yield current_store()
    Layer.may_go_on.set()
    testing.shutdown()
    readiness.forget()
    Layer.may_go_on.clear()


def away(*arguments: Any, **options: Any) -> Any:
    raise StoreUnavailable("away, at a secret address")


def get(path: str, token: str = "", **options: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = Client(headers=headers).get(path, **options)
    assert "no-store" in answer.headers["Cache-Control"]
    return answer.status_code, json.loads(answer.content)


def test_one_word_without_the_token(store: Store) -> None:
    assert get(LIVE) == (200, {"health": "ok"})
    assert get(READY) == get(READY, token=f"{TOKEN}x") == (200, {"health": "ok"})


def test_details_with_the_token(store: Store) -> None:
    status, answer = get(READY, TOKEN)
    assert (status, answer["health"]) == (200, "ok")
    assert [one["name"] for one in answer["probes"]] == PARTS
    assert set(answer["probes"][0]) == {"name", "health", "seconds", "text", "page"}


def test_no_token_in_the_settings_is_no_token(store: Store, settings: Any) -> None:
    for token in (None, ""):
        settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "METRICS_TOKEN": token}
        assert "probes" not in get(READY, "None")[1]


def test_not_ready_without_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "waiting", away)
    assert get(READY) == (503, {"health": "failed"})
    status, answer = get(READY, TOKEN)
    assert (status, answer["health"]) == (503, "failed")
    assert "secret address" in answer["probes"][0]["text"]
    assert get(LIVE) == (200, {"health": "ok"})


def test_not_ready_while_the_breaker_is_open(store: Store) -> None:
    force_breaker(store, is_open=True)
    assert get(READY) == (503, {"health": "failed"})


def test_ready_without_the_channel_layer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Layer, "fails", True)
    assert get(READY) == (200, {"health": "warn"})


def test_a_layer_that_cannot_be_cancelled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task holds the end of the loop that probed, and nobody else."""
    monkeypatch.setattr(Layer, "hangs", True)
    monkeypatch.setattr(readiness, "CACHE_SECONDS", 0)
    began = time.monotonic()
    assert [get(READY) for _ in range(3)] == 3 * [(200, {"health": "warn"})]
    assert time.monotonic() - began < 2 * health.LIMIT_SECONDS
    Layer.may_go_on.set()
    wait_until(lambda: all(thread.name != "netra-readiness" for thread in threading.enumerate()))


def test_a_store_that_hangs_is_waited_for_so_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    may_answer = threading.Event()
    monkeypatch.setattr(store, "waiting", lambda queues: may_answer.wait(20))
    began = time.monotonic()
    assert get(READY) == (503, {"health": "failed"})
    assert time.monotonic() - began < health.LIMIT_SECONDS + 1
    may_answer.set()
    wait_until(lambda: all(thread.name != "netra-store" for thread in threading.enumerate()))


def test_probes_that_hang_altogether(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()

    async def hangs() -> Any:
        may_end.wait(20)
        raise RuntimeError

    monkeypatch.setattr(health, "examine", hangs)
    monkeypatch.setattr(readiness, "WAIT_SECONDS", 0.2)
    assert get(READY, TOKEN) == (503, {"health": "failed"})
    may_end.set()


def test_the_event_loop_goes_on_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "waiting", lambda queues: time.sleep(1.0) or set())

    async def played() -> None:
        client = AsyncClient()
        answers = [asyncio.ensure_future(client.get(READY)) for _ in range(20)]
        longest, before = 0.0, time.monotonic()
        while not all(answer.done() for answer in answers):
            await asyncio.sleep(0.01)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
        assert {answer.result().status_code for answer in answers} == {200}
        assert longest < 0.9, "as long as the store takes"

    asyncio.run(played())


def test_the_store_is_not_asked_more_often(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(store, "waiting", lambda queues: asked.append(queues) or set())
    monkeypatch.setattr(readiness, "CACHE_SECONDS", 60)
    for _ in range(50):
        get(READY)
        get(LIVE)
    assert len(asked) == 1


def test_only_reading(store: Store) -> None:
    for path in (LIVE, READY):
        assert Client().post(path).status_code == 405
        assert Client().head(path).status_code == 200


@pytest.mark.django_db
def test_no_database_and_no_login_is_needed(
    store: Store, settings: Any, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    from django.db import connection

    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    with django_assert_num_queries(0):
        assert get(LIVE) == get(READY) == (200, {"health": "ok"})


# --- django-health-check -------------------------------------------------------------------------------------------


@pytest.fixture
def page(store: Store, rf: Any) -> Any:
    """What django-health-check's view answers with all our parts."""
    pytest.importorskip("health_check", reason="django-health-check is not installed")
    from health_check.views import HealthCheckView

    names = ("NetraQueueStore", "NetraQueueHub", "NetraQueueChannelLayer", "NetraQueueSweep")
    view = HealthCheckView.as_view(checks=[f"netra_queue.health_plugin.{name}" for name in names])

    def get() -> tuple[int, dict[str, str]]:
        answer = asyncio.run(view(rf.get("/", {"format": "json"})))
        return answer.status_code, json.loads(answer.content)

    return get


def test_all_parts_are_well(page: Any) -> None:
    status, parts = page()
    assert (status, set(parts.values()), len(parts)) == (200, {"OK"}, 4)


def test_a_part_that_fails_and_one_that_warns(
    page: Any, store: Store, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "waiting", away)
    settings.CHANNEL_LAYERS = {}
    status, parts = page()
    assert status == 500
    assert parts["NetraQueueStore()"].startswith("Unavailable: the message store is unavailable: away")
    assert health.DATABASE_PAGE in parts["NetraQueueStore()"]
    assert parts["NetraQueueChannelLayer()"].startswith("Warning: ")
    assert parts["NetraQueueHub()"] == "OK"
