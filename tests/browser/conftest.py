"""Debian's Chromium, and the example on a real Daphne behind a network that breaks on request."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.test import Client
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from netra_queue.stores import current_store
from tests.browser.tab import Tab
from tests.chaos.proxy import Proxy
from tests.server.conftest import World, make_world, sqlite_world

__all__ = ["make_world", "sqlite_world"]

PROGRAMS = ("chromium", "chromedriver")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # Chromium has none for root
    "--disable-dev-shm-usage",
    "--window-size=1100,900",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
ROOM = {"MAX_MESSAGES": 20_000, "MAX_BYTES": 1 << 26}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chrome]:
    """One browser for all tests; each test has tabs and a login of its own."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        if os.environ.get("NETRA_REQUIRE_SERVERS") == "1":
            pytest.fail(f"NETRA_REQUIRE_SERVERS=1, but there is no {' and no '.join(missing)}")
        pytest.skip(f"there is no chromium (missing: {', '.join(missing)})")
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ARGUMENTS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class Network:
    """A proxy to the server on an event loop of its own, for tests that are not asynchronous."""

    def __init__(self, port: int) -> None:
        self.proxy = Proxy("127.0.0.1", port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self.proxy.restore())

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.proxy.own_port}"

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def cut(self) -> None:
        self._run(self.proxy.cut())

    def restore(self) -> None:
        self._run(self.proxy.restore())

    def strand(self) -> None:
        """What is connected hears nothing more, and is not told; who comes is let through."""
        self._loop.call_soon_threadsafe(self.proxy.strand)

    def end(self) -> None:
        self._run(self.proxy.cut())
        self._run(self._rest())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _rest(self) -> None:
        """What passed data on ends in a moment."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=5)


class Site:
    """The example: its server, the network before it, and a user who is logged in."""

    def __init__(self, world: World, **overrides: Any) -> None:
        self.world = world
        self.server = world.start("daphne", application="project.asgi.application", POLL_SECONDS=0.5, **overrides)
        self.network = Network(self.server.port)
        self.user = get_user_model().objects.create_user("reader", is_staff=True)
        client = Client()
        client.force_login(self.user)
        self.session = client.cookies[django_settings.SESSION_COOKIE_NAME].value

    @property
    def origin(self) -> str:
        return self.network.origin

    def waiting(self, queue: str) -> int:
        """How many messages the store has for a tab."""
        return current_store().stat(queue).messages


@pytest.fixture
def make_site(chromium: Chrome, sqlite_world: World, settings: Any) -> Iterator[Callable[..., Site]]:
    """Makes the Site; ``page``: what its policy has otherwise, here and in the server."""
    sites: list[Site] = []

    def make(**page: Any) -> Site:
        policies = {"page": {"HEARTBEAT_SECONDS": 5, "ACK_TIMEOUT_SECONDS": 10, **ROOM, **page}, "default": ROOM}
        settings.NETRA_QUEUE = {**settings.NETRA_QUEUE, "POLICIES": policies}
        sites.append(Site(sqlite_world, POLICIES=policies))
        return sites[-1]

    yield make
    for site in sites:
        site.network.end()


@pytest.fixture
def open_tab(chromium: Chrome, tmp_path: Path) -> Iterator[Callable[..., Tab]]:
    """Opens a tab on a site. At the end all are closed; none was refused something by the Content-Security-Policy."""
    tabs: list[Tab] = []
    home = chromium.current_window_handle

    def open_(site: Site, path: str = "/", *, before: str = "") -> Tab:
        """``before``: a script that runs before those of the page, after a reload as well."""
        chromium.switch_to.window(home)
        chromium.switch_to.new_window("tab")
        tab = Tab(chromium, chromium.current_window_handle, tabs)
        tab.prepare(site.origin, site.session, before)
        tab.get(path)
        return tab

    yield open_
    refused = [violation for tab in tabs for violation in tab.refused()]
    for tab in tabs:
        with suppress(WebDriverException):
            tab.close()
    chromium.switch_to.window(home)
    assert not refused
