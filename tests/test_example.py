"""The example project: the page's endpoints, the agent, the demo login, and the way through its ASGI application."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.test import Client

import netra_queue
from netra_queue import testing
from netra_queue.models import Message
from netra_queue.stores import current_store
from project import agent, consumers
from project.asgi import application
from project.models import Agent
from tests.making import make_policy, make_presence
from tests.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    yield
    testing.shutdown()


@pytest.fixture
def user() -> Any:
    return get_user_model().objects.create_user("reader", password="reader")


@pytest.fixture
def browser(user: Any) -> Client:
    client = Client()
    client.force_login(user)
    return client


def depth(user: Any) -> int:
    return current_store().stat(f"user.{user.pk}").messages


def test_everything_asks_for_a_login() -> None:
    anonymous = Client()
    for path in ("/", "/queue/"):
        assert anonymous.get(path).headers["Location"] == f"/login/?next={path}"
    for path in ("/agent/start/", "/agent/urgent/", "/restart/"):
        assert anonymous.post(path).headers["Location"] == f"/login/?next={path}"


def test_the_login_page_lets_in(user: Any) -> None:
    response = Client().post("/login/", {"username": "reader", "password": "reader"})
    assert response.headers["Location"] == "/"


def test_the_page_loads_nothing_from_elsewhere(browser: Client) -> None:
    page = browser.get("/").content.decode()
    assert "/static/project/page.js" in page
    assert "//" not in page.replace("<!doctype html>", "")


def test_posts_without_the_csrf_token_are_refused(user: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.post("/agent/start/", {"steps": 1}).status_code == 403
    assert client.post("/agent/urgent/").status_code == 403
    assert depth(user) == 0


@pytest.mark.parametrize(
    "fields",
    [
        *({"steps": steps} for steps in ("x", 0, 501)),
        *({"steps": 1, "pause": pause} for pause in ("-1", "nan")),
        *({"steps": 1, "ttl": ttl} for ttl in ("x", "0.5", "nan")),
    ],
)
def test_a_run_with_impossible_numbers_is_not_started(browser: Client, user: Any, fields: dict[str, Any]) -> None:
    response = browser.post("/agent/start/", fields)
    assert response.status_code == 400
    assert "error" in response.json()
    assert depth(user) == 0


def test_a_run_sends_its_steps_to_the_users_queue(browser: Client, user: Any) -> None:
    run = browser.post("/agent/start/", {"steps": 7, "pause": 0}).json()["run"]
    wait_until(lambda: browser.get("/queue/").json()["messages"] == 4 * 7)
    state = browser.get("/queue/").json()
    assert state["by_priority"] == {"critical": 7, "high": 7, "normal": 7, "low": 7}
    assert state["agents"] == [
        {"run": run, "name": name, "sent": 7} for name in ("logger", "writer", "planner", "guard")
    ], "the newest first"


def test_no_two_steps_of_a_run_have_the_same_number(user: Any) -> None:
    for name in agent.AGENTS:
        agent.work(user.pk, "run-1", name, 3, 0)
    numbers = [json.loads(message.payload)["number"] for message in Message.objects.all()]
    assert sorted(numbers) == list(range(1, 13))


def test_a_run_may_be_short_lived(browser: Client, user: Any) -> None:
    browser.post("/agent/start/", {"steps": 1, "pause": 0, "ttl": 3})
    wait_until(lambda: depth(user) == 4)
    lifetimes = {message.expires_at - message.created_at for message in Message.objects.all()}
    assert lifetimes == {timedelta(seconds=3)}


def test_an_urgent_message_is_critical(browser: Client) -> None:
    assert browser.post("/agent/urgent/").json()["outcome"] == "queued"
    assert browser.post("/agent/urgent/").json()["outcome"] == "queued"
    assert browser.get("/queue/").json() == {
        "messages": 2,
        "by_priority": {"critical": 2},
        "connections": 0,
        "agents": [{"run": "urgent", "name": "you", "sent": 2}],
    }


def test_a_step_that_is_refused_is_not_counted(user: Any, settings: Any) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"MAX_MESSAGES": 2, "OVERFLOW": "reject"}}}
    Agent.objects.create(user=user, run="run-1", name="writer")
    with pytest.raises(netra_queue.QueueFull):
        agent.work(user.pk, "run-1", "writer", 3, 0)
    assert Agent.objects.get().sent == depth(user) == 2


@pytest.mark.parametrize(("debug", "is_staff", "may"), [(True, True, True), (False, True, False), (True, False, False)])
def test_only_staff_may_close_all_sockets_and_only_with_debug(
    browser: Client, user: Any, settings: Any, debug: bool, is_staff: bool, may: bool
) -> None:
    settings.DEBUG = debug
    get_user_model().objects.update(is_staff=is_staff)
    assert browser.post("/restart/").status_code == (200 if may else 403)
    assert ('id="restart"' in browser.get("/").content.decode()) is may


def test_every_page_forbids_inline_scripts_and_foreign_ones(browser: Client) -> None:
    for path in ("/", "/login/", "/admin/login/", "/queue/"):
        policy = browser.get(path).headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy


def test_each_tab_sees_what_waits_for_it(browser: Client, user: Any) -> None:
    store = current_store()
    for tab in ("tab-1", "tab-2"):
        store.attach(make_presence(f"user.{user.pk}/{tab}"), make_policy())
    browser.post("/agent/urgent/")
    for query, depth_ in (("", 0), ("?client=tab-1", 1), ("?client=tab-2", 1), ("?client=tab-3", 0)):
        assert browser.get(f"/queue/{query}").json()["messages"] == depth_
    answer = browser.get("/queue/?client=../user.1")
    assert (answer.status_code, "line" in answer.json()["error"]) == (400, True)


def test_a_run_that_celery_repeats_sends_no_step_twice(user: Any) -> None:
    Agent.objects.create(user=user, run="run-1", name="writer")
    agent.work(user.pk, "run-1", "writer", 3, 0)
    agent.work(user.pk, "run-1", "writer", 3, 0)
    assert (depth(user), Agent.objects.get().sent) == (3, 3)


def test_demo_user_may_be_repeated(settings: Any) -> None:
    settings.DEBUG = True
    output = StringIO()
    call_command("demo_user", stdout=output)
    get_user_model().objects.update(is_active=False)
    call_command("demo_user", stdout=output)
    assert "Login: demo, password: demo" in output.getvalue()
    assert Client().login(username="demo", password="demo")
    assert get_user_model().objects.get().is_superuser


def test_demo_user_refuses_without_debug() -> None:
    with pytest.raises(CommandError, match="DEBUG"):
        call_command("demo_user")
    assert not get_user_model().objects.exists()


def handshake(client: Client | None, origin: str) -> WebsocketCommunicator:
    headers = [(b"origin", origin.encode())]
    if client is not None:
        session = client.cookies[django_settings.SESSION_COOKIE_NAME].value
        headers.append((b"cookie", f"{django_settings.SESSION_COOKIE_NAME}={session}".encode()))
    return WebsocketCommunicator(
        application, "/ws/notifications/?client=tab-1", headers=headers, subprotocols=["netra-queue.v1"]
    )


async def receive(socket: WebsocketCommunicator, count: int) -> list[Any]:
    """The data of the next ``count`` messages, all acked."""
    received: list[Any] = []
    while len(received) < count:
        frame = await socket.receive_json_from(timeout=10)
        if frame["type"] == "netra.messages":
            received += [message["data"] for message in frame["messages"]]
            await socket.send_json_to({"type": "netra.ack", "seq": frame["seq"] + len(frame["messages"]) - 1})
    return received


@pytest.mark.asyncio
async def test_steps_arrive_once_and_in_order_over_a_reconnect(browser: Client, user: Any) -> None:
    socket = handshake(browser, "http://127.0.0.1:8000")
    assert await socket.connect(timeout=10) == (True, "netra-queue.v1")
    await sync_to_async(agent.start)(user.pk, steps=10, pause_seconds=0.01)
    received = await receive(socket, 5)
    await socket.disconnect()
    socket = handshake(browser, "http://127.0.0.1:8000")
    await socket.connect(timeout=10)
    while len({data["number"] for data in received}) < 40:
        received += await receive(socket, 1)
    await socket.disconnect()
    await testing.ashutdown()
    for name in agent.AGENTS:
        first_seen = list(dict.fromkeys(data["step"] for data in received if data["agent"] == name))
        assert first_seen == list(range(1, 11))


@pytest.mark.asyncio
async def test_all_sockets_are_closed_as_by_a_restart(browser: Client) -> None:
    socket = handshake(browser, "http://127.0.0.1:8000")
    await socket.connect(timeout=10)
    assert await consumers.close_all() == 1
    while (output := await socket.receive_output(timeout=10))["type"] != "websocket.close":
        pass
    assert output["code"] == consumers.RESTARTING
    assert await consumers.close_all() == 0
    await testing.ashutdown()


@pytest.mark.asyncio
async def test_an_anonymous_socket_is_closed_with_4401() -> None:
    socket = handshake(None, "http://127.0.0.1:8000")
    assert (await socket.connect(timeout=10))[0]
    assert (await socket.receive_output(timeout=10))["code"] == 4401
    await testing.ashutdown()


@pytest.mark.asyncio
async def test_a_foreign_page_does_not_get_a_socket(browser: Client) -> None:
    socket = handshake(browser, "https://elsewhere.example")
    assert not (await socket.connect(timeout=10))[0]


@pytest.mark.asyncio
async def test_a_cookie_from_before_the_logout_opens_nothing(browser: Client, user: Any) -> None:
    await netra_queue.asend_to_user(user, "secret")
    session = browser.cookies[django_settings.SESSION_COOKIE_NAME].value
    await sync_to_async(browser.logout)()
    browser.cookies[django_settings.SESSION_COOKIE_NAME] = session
    socket = handshake(browser, "http://127.0.0.1:8000")
    assert (await socket.connect(timeout=10))[0], "accepted first, so that a browser sees the code"
    assert (await socket.receive_output(timeout=10))["code"] == 4401
    await testing.ashutdown()
