"""The dashboard in Debian's Chromium, on the example's admin, against a real Daphne."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission

from netra_queue import operating
from netra_queue.core.message import Priority
from netra_queue.core.statistics import BUCKET_SECONDS, Bucket, Event, Figures, Gauge, Timing, aligned
from netra_queue.stores import current_store
from tests.browser.conftest import Site
from tests.browser.tab import Tab
from tests.making import force_breaker, make_draft, put

OpenTab = Callable[..., Tab]
MakeSite = Callable[..., Site]
PAGE = "/admin/netra_queue/dashboard/"
WIDTHS = (360, 820, 1500)
PICTURE_HEIGHT = 1200
SOON = "setTimeout = new Proxy(setTimeout, {apply: (f, t, [g, ms, ...r]) => f.call(t, g, Math.min(ms, 400), ...r)});"
# As where the project routes no such WebSocket.
UNROUTED = (
    "WebSocket = new Proxy(WebSocket, {construct: (f, [url]) => new f(String(url).replace('dashboard', 'none'))});"
)
# Counts what is asked by HTTP, and what has no answer yet.
COUNTING = """
window.asked = 0; window.open = 0;
fetch = new Proxy(fetch, {apply: (f, self, given) => {
  asked += 1; open += 1; return f.apply(self, given).finally(() => (open -= 1)); }});
"""
UNTIL_ANSWERED = "(async () => { while (open) await new Promise((done) => setTimeout(done, 50)); })()"
PAUSE = "document.getElementById('netra-pause').click()"
HIDE, SHOW = (
    f"Object.defineProperty(document, 'hidden', {{value: {value}, configurable: true}});"
    "document.dispatchEvent(new Event('visibilitychange'))"
    for value in ("true", "false")
)
MODE = "document.getElementById('netra-dashboard').dataset.mode"
WAITING = "document.querySelector('#netra-tile-waiting .netra-value').textContent"


def some_figures(number: int) -> Figures:
    """Of a busy ten seconds, different ones each time."""
    figures, wave = Figures(), 1 + math.sin(number / 20)
    normal = Priority.NORMAL
    for event, count in {
        Event.ACCEPTED: 400 * wave + 5,
        Event.ACKED: 395 * wave + 4,
        Event.TRANSMITTED: 410 * wave + 5,
        Event.EXPIRED: number % 9 == 0,
        Event.DROPPED: 2 * (number % 31 == 0),
        Event.REJECTED_FULL: number % 13 == 0,
    }.items():
        figures.counts[event][normal] = int(count)
    figures.counts[Event.SWEPT][0] = number % 6 == 0
    figures.counts[Event.BELL_MISSED][0] = number % 50 == 0
    figures.timings[Timing.ACK].observe_all([0.004 * wave] * 50 + [0.03] * 4 + [0.4 * wave])
    figures.timings[Timing.LIVE].observe_all([0.05 * wave, 0.2])
    figures.gauges[Gauge.CONNECTIONS] = 10 * (120 + 40 * wave)
    figures.gauges[Gauge.IN_FLIGHT] = 10 * 30 * wave
    return figures


def fill(seconds: int = 3600) -> datetime:
    """An hour of statistics, and some messages that wait. Returns the store's time."""
    store = current_store()
    now = store.now()
    start = aligned(now) - timedelta(seconds=seconds)
    times = [start + timedelta(seconds=BUCKET_SECONDS * number) for number in range(seconds // BUCKET_SECONDS)]
    store.record_statistics("another", [Bucket(at, some_figures(number)) for number, at in enumerate(times)])
    for number in range(1, 9):
        put(store, *[make_draft(f"user.{number}", text=f'"{"x" * 50}"') for _ in range(number * 7)])
    store.ensure([f"user.{number}" for number in range(1, 9)])
    return now


@pytest.fixture
def open_dashboard(make_site: MakeSite, open_tab: OpenTab) -> Callable[..., tuple[Site, Tab]]:
    def open_(*, before: str = "", query: str = "", **page: Any) -> tuple[Site, Tab]:
        site = make_site(**page)
        names = ["view_dashboard", "view_queue"]
        site.user.user_permissions.add(*Permission.objects.filter(codename__in=names))
        fill()
        return site, open_tab(site, PAGE + query, before=before)

    return open_


def shown(tab: Tab, range: str = "1h", mode: str = "live") -> None:
    tab.wait(f"document.getElementById('netra-dashboard').dataset.shown === '{range}'")
    tab.wait(f"document.getElementById('netra-dashboard').dataset.mode === '{mode}'")


def waiting(tab: Tab) -> str:
    return str(tab.run(f"return {WAITING}"))


def keep(tab: Tab, name: str) -> None:
    """Pictures of the page, from its top to its end, where somebody asks for them: NETRA_PICTURES, a folder."""
    if folder := os.environ.get("NETRA_PICTURES"):
        width, height = tab.run("return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        for number, top in enumerate(range(0, height, PICTURE_HEIGHT)):
            clip = {"x": 0, "y": top, "width": width, "height": min(PICTURE_HEIGHT, height - top), "scale": 1}
            picture = tab.cdp("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
            (Path(folder) / f"{name}-{number}.png").write_bytes(base64.b64decode(picture))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits(open_dashboard: Any, width: int, theme: str) -> None:
    _, tab = open_dashboard()
    tab.cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    tab.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    tab.get(PAGE)
    shown(tab)
    tab.wait("document.querySelectorAll('.netra-plot canvas').length === 11")
    tab.run("document.querySelector('#netra-chart-losses summary').click()")
    tab.wait("document.querySelector('#netra-chart-losses details tbody tr')")
    keep(tab, f"{width}-{theme}")
    whole, seen = tab.run(
        "const {scrollWidth, clientWidth} = document.documentElement; return [scrollWidth, clientWidth]"
    )
    assert whole == seen, "nothing is wider than the page"
    assert width - 20 <= seen <= width, "but for a scroll bar"
    wider = tab.run(
        "return [...document.querySelectorAll('.netra-plot')]"
        ".filter((plot) => plot.scrollWidth > plot.clientWidth + 1).map((plot) => plot.parentElement.id)"
    )
    assert wider == []


def test_it_is_live_over_its_websocket(open_dashboard: Any) -> None:
    site, tab = open_dashboard(before=SOON)
    shown(tab)
    assert tab.text("netra-state").startswith("Live, figures of ")
    assert waiting(tab) == "252"
    put(current_store(), make_draft())
    tab.wait(f"{WAITING} === '253'")
    site.network.cut()
    tab.wait("document.getElementById('netra-problem').textContent.includes('cannot be reached')")
    assert waiting(tab) == "253", "what is known stays"
    site.network.restore()
    shown(tab)
    tab.wait("document.getElementById('netra-problem').hidden")


def test_without_a_websocket_it_asks(open_dashboard: Any) -> None:
    site, tab = open_dashboard(before=SOON + UNROUTED)
    site.world.may_log_errors = True  # Channels finds no route
    shown(tab, mode="polling")
    assert tab.text("netra-state").startswith("Every 10 seconds")
    put(current_store(), make_draft())
    tab.wait(f"{WAITING} === '253'")
    assert tab.run(f"return {MODE}") == "polling"


def test_other_ranges(open_dashboard: Any) -> None:
    _, tab = open_dashboard(query="?range=15m")
    shown(tab, "15m")
    tab.run("document.querySelector('#netra-chart-rates summary').click()")
    for range, points in {"6h": 361, "30d": 361, "15m": 91}.items():
        tab.run("document.querySelector(`.netra-ranges [data-range='${arguments[0]}']`).focus()", range)
        tab.use().switch_to.active_element.send_keys("\ue007")  # by the keyboard
        shown(tab, range)
        pressed = "[...document.querySelectorAll('.netra-ranges [aria-pressed=true]')]"
        assert tab.run(f"return {pressed}.map((button) => button.dataset.range)") == [range]
        rows = tab.run("return document.querySelectorAll('#netra-chart-rates details tbody tr').length")
        assert points - 2 <= rows <= points
        assert tab.use().current_url.endswith(f"?range={range}")


def test_it_rests_while_nobody_looks(open_dashboard: Any) -> None:
    site, tab = open_dashboard(before=SOON + UNROUTED + COUNTING)
    site.world.may_log_errors = True  # Channels finds no route
    shown(tab, mode="polling")
    for rest, wake in ((PAUSE, PAUSE), (HIDE, SHOW)):
        tab.run(rest)
        assert tab.run(f"return {MODE}") == "paused"
        tab.run_module(f"await {UNTIL_ANSWERED}")
        before = tab.run("return [asked, open]")
        put(current_store(), make_draft())
        tab.run_module("await new Promise((done) => setTimeout(done, 400));" * 3)  # thrice as long as when it is awake
        assert tab.run("return [asked, open]") == before
        tab.run(wake)
        expected = int(waiting(tab)) + 1
        tab.wait(f"{WAITING} === '{expected}'")


def test_who_may_not_see_it_any_more_is_told(open_dashboard: Any) -> None:
    site, tab = open_dashboard(before=SOON)
    shown(tab)
    site.user.user_permissions.clear()
    tab.wait(f"{MODE} === 'refused'")
    assert "may not see this any more" in tab.text("netra-problem")


def test_the_policy_is_strict_and_not_broken(open_dashboard: Any) -> None:
    """The example's Content-Security-Policy: script-src 'self', style-src 'self'. uPlot and the tables keep it."""
    _, tab = open_dashboard()
    shown(tab)
    policy = tab.run("return fetch(location.href).then((answer) => answer.headers.get('Content-Security-Policy'))")
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    for chart in tab.run("return [...document.querySelectorAll('figure')].map((figure) => figure.id)"):
        tab.run("document.querySelector(`#${arguments[0]} summary`).click()", chart)
        tab.wait(f"document.querySelector('#{chart} details tbody tr')")
    tab.run("document.documentElement.dataset.theme = 'dark'")
    size = "return document.querySelector('#netra-chart-rates .u-over').getBoundingClientRect().width > 100"
    assert tab.run(size), "the styles that uPlot sets are in force"
    assert tab.refused() == []
    tab.run("document.body.setAttribute('style', 'color: red')")
    tab.wait("refused.length")
    assert tab.run("return refused.splice(0)") == ["style-src-attr inline"], "and it would be noticed"


def test_the_admin_leads_to_it(open_dashboard: Any) -> None:
    _, tab = open_dashboard()
    tab.get("/admin/")
    tab.run("document.querySelector(`#content-main a[href='${arguments[0]}']`).click()", PAGE)
    shown(tab)
    link = tab.run("return document.querySelector('#netra-worst tbody a').getAttribute('href')")
    assert link == "/admin/netra_queue/queue/?q=user.8"
    tab.get(link)
    assert "user.8" in tab.run("return document.querySelector('#result_list').textContent")


def test_the_kill_switch_and_a_rollout_have_a_tile(open_dashboard: Any) -> None:
    _, tab = open_dashboard(before=SOON)
    shown(tab)
    assert tab.run("return document.querySelector('#netra-tile-rollout') === null")
    store = current_store()
    store.change_controls(operating.policy_changed("default", {"ROLLOUT": {"PERCENT": 10}}))
    tab.wait("document.querySelector('#netra-tile-rollout .netra-value')?.textContent === '10 %'")
    assert "default" in tab.run("return document.querySelector('#netra-tile-rollout').textContent")
    store.change_controls(operating.switched(is_off=True))
    tab.wait("document.querySelector('#netra-tile-rollout .netra-value')?.textContent === 'kill switch'")
    store.change_controls(lambda before: operating.policy_removed("default")(operating.switched(is_off=False)(before)))
    tab.wait("document.querySelector('#netra-tile-rollout') === null")


def test_the_store_is_away(open_dashboard: Any) -> None:
    """As operators can have it: the breakers forced open."""
    _, tab = open_dashboard(before=SOON)
    shown(tab)
    force_breaker(current_store(), True)
    tab.wait("document.getElementById('netra-problem').textContent.includes('unavailable')")
    tab.wait("document.querySelector('#netra-tile-breaker .netra-value').textContent === 'open'")
    assert waiting(tab) == "252", "what is known stays"
    force_breaker(current_store(), None)
    tab.wait("document.getElementById('netra-problem').hidden")
