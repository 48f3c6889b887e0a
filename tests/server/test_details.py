"""An operator looks at a queue, and the servers say how its connections stand: on real servers."""

from __future__ import annotations

import html
import io
import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client as Browser
from django.urls import reverse

import netra_queue
from netra_queue import details
from netra_queue.models import queue_id
from tests.conftest import CONCURRENT_DATABASES_HERE, needs_redis
from tests.server.conftest import World, answers, live, new_queue, play, stat
from tests.settings import REDIS_URL
from tests.waiting import await_until

POLICIES = {"default": {"WINDOW": 8}}
PATIENT_SECONDS = 15.0  # how long a busy machine may take; who is answered waits no longer


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "WAIT_SECONDS", PATIENT_SECONDS)


def inspected(queue: str) -> dict[str, dict[str, Any]]:
    """By client, what the command says of each connection."""
    out = io.StringIO()
    call_command("netra_queue", "inspect", queue, "--json", stdout=out)
    return {each["client"]: each for each in json.loads(out.getvalue())["connections"]}


inspect = sync_to_async(inspected)


@sync_to_async
def page_of(queue: str) -> str:
    user = User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)[0]
    browser = Browser()
    browser.force_login(user)
    response = browser.get(reverse("admin:netra_queue_queue_change", args=[queue_id(queue)]))
    assert response.status_code == 200
    return " ".join(html.unescape(response.content.decode()).split())


async def described(world: World, kinds: list[str], look: Callable[[str], Any]) -> None:
    """A client that acks and one that does not, each on a server of its own."""
    servers = [world.start(kind, POLICIES=POLICIES) for kind in kinds]
    queue = new_queue()
    quick = world.client(servers[0], queue, query="?client=quick")
    stuck = world.client(servers[1], queue, query="?client=stuck", acks=False)
    for client in (quick, stuck):
        await client.connect()
        await live(client)
    keys = ("is_answer", "window", "unacked", "acked_at")
    found = await inspect(queue)
    assert [[found[name][key] for key in keys] for name in ("quick", "stuck")] == [[True, 8, 0, None]] * 2
    await netra_queue.asend_many([(queue, number) for number in range(5)])
    await quick.take(5)
    await stuck.take(5)
    await answers(quick)  # its acks have been heard
    found = await inspect(queue)
    assert {name: (each["is_answer"], each["unacked"]) for name, each in found.items()} == {
        "quick": (True, 0),
        "stuck": (True, 5),
    }
    acked_at = datetime.fromisoformat(found["quick"]["acked_at"])
    assert abs(datetime.now(UTC) - acked_at) < timedelta(seconds=10)
    assert found["stuck"]["acked_at"] is None
    await stuck.ack(2)
    await answers(stuck)
    assert (await inspect(queue))["stuck"]["unacked"] == 3
    await look(queue)
    await quick.disconnect()

    async def has_stayed() -> bool:
        last = (await stat(f"{queue}/quick")).acked_at
        return last is not None and abs(last - acked_at) < timedelta(seconds=1)

    await await_until(has_stayed)
    await stuck.disconnect()


async def nothing(queue: str) -> None: ...


@needs_redis
@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE)
def test_servers_say_how_their_connections_stand(make_world: Callable[..., World], patient: None, alias: str) -> None:
    play(described(make_world(alias, REDIS_URL), ["daphne", "uvicorn"], nothing))


@needs_redis
def test_the_page_shows_what_a_client_has_not_acked(
    transactional_db: None, make_world: Callable[..., World], patient: None
) -> None:
    async def look(queue: str) -> None:
        page = await page_of(queue)
        row = page.partition(f'<th scope="row">{queue}/stuck</th> <td>')[2].partition("</tr>")[0]
        assert "<td>8</td><td>3</td>" in row
        assert "<td>now</td>" in row

    play(described(make_world("default", REDIS_URL), ["daphne", "daphne"], look))


@needs_redis
@pytest.mark.parametrize("alias", CONCURRENT_DATABASES_HERE[:1])
def test_a_raw_client_and_a_server_that_hangs(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, patient: None, alias: str
) -> None:
    world = make_world(alias, REDIS_URL)

    async def looked() -> None:
        server = world.start("uvicorn", POLICIES=POLICIES)
        queue = new_queue()
        async with world.client(server, queue, query="?client=raw", raw=True) as client:
            await netra_queue.asend(queue, 1)
            await client.take(1)
            found = (await inspect(queue))["raw"]
            assert (found["is_answer"], found["unacked"]) == (True, 1), "it counts as delivered later"
            monkeypatch.setattr(details, "WAIT_SECONDS", 0.2)
            server.process.send_signal(signal.SIGSTOP)
            try:
                found = (await inspect(queue))["raw"]
            finally:
                server.process.send_signal(signal.SIGCONT)
            assert (found["is_answer"], found["unacked"], found["is_alive"]) == (False, 1, True)

    play(looked())
