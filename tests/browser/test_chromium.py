"""The browser client in Debian's Chromium, on the example's page, against a real Daphne."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model

import netra_queue
from netra_queue.models import Message
from tests.browser.conftest import Site
from tests.browser.tab import Tab
from tests.waiting import wait_until

AGENTS = 4
LONGEST_PAUSES = "Math.random = () => 1;"  # of the pauses before a reconnect, so that they grow surely
LONG_TASK_MS = 500
MANY = 10_000

OpenTab = Callable[..., Tab]
MakeSite = Callable[..., Site]

NO_STORAGE = {
    "forbidden": """
        Object.defineProperty(window, "sessionStorage", {
          get() { throw new DOMException("The operation is insecure.", "SecurityError"); } });""",
    "full": 'Storage.prototype.setItem = () => { throw new DOMException("", "QuotaExceededError"); };',
}
# A machine that sleeps: its clock has moved on when it wakes, and the timers that were due meanwhile go off at once.
SLEEP = """
let skew = 0;
const now = Date.now, set = window.setTimeout, unset = window.clearTimeout, pending = new Map();
Date.now = () => now() + skew;
window.setTimeout = (call, ms = 0, ...rest) => {
  const id = set(() => { pending.delete(id); call(...rest); }, ms);
  pending.set(id, {call: () => call(...rest), at: Date.now() + ms});
  return id;
};
window.clearTimeout = (id) => { pending.delete(id); unset(id); };
window.sleep = (ms) => {
  skew += ms;
  for (const [id, {call, at}] of [...pending]) if (at <= Date.now() && pending.has(id)) { clearTimeout(id); call(); }
};
"""
# A page of the site without a script of its own, with a client that keeps what it is given.
OWN_CLIENT = """
window.handled = []; window.errors = 0; window.states = [];
window.queue = new NetraQueue("/ws/notifications/");
queue.addEventListener("state", ({detail}) => states.push(detail.state));
queue.addEventListener("error", () => (errors += 1));
"""
SLOW = """
queue.onmessage = ({data}) => {
  for (const end = performance.now() + 8; performance.now() < end; );
  handled.push(data);
};
"""
THROWING = """
queue.onmessage = async ({data}) => {
  if (data === 3 && !window.isMended) throw Error("no");
  handled.push(data);
};
"""


def test_a_reload_in_the_middle_of_a_stream(make_site: MakeSite, open_tab: OpenTab) -> None:
    tab = open_tab(make_site())
    tab.wait_for("live")
    line = tab.queue
    tab.start_run(30, 0.06)
    for arrived in (20, 50):
        tab.wait_for_steps(arrived)
        tab.click("reload")
    tab.check_each_once(AGENTS * 30)
    assert tab.queue == line, "the tab keeps its line"


def test_what_was_handled_and_not_acked_is_dropped_after_a_reload(make_site: MakeSite, open_tab: OpenTab) -> None:
    tab = open_tab(make_site())
    tab.wait_for("live")
    tab.click("half")
    tab.start_run(4, 0)
    tab.check_each_once(AGENTS * 4)
    tab.click("reload")
    tab.wait_for_text(repeats=AGENTS * 4)
    tab.check_each_once(AGENTS * 4)


def test_half_open_what_the_server_did_not_hear_of_comes_again(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site(HEARTBEAT_SECONDS=1)
    tab = open_tab(site)
    tab.wait_for("live")
    tab.start_run(30, 0.1)  # as long as something comes in, only the server can notice
    tab.wait_for_steps(8)
    tab.click("half")
    tab.wait("document.getElementById('repeats').textContent > 0")
    tab.check_each_once(AGENTS * 30)
    wait_until(lambda: site.waiting(tab.queue) == 0)


def test_offline_and_back_at_once_when_the_browser_says_so(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site()
    tab = open_tab(site, before=LONGEST_PAUSES)
    tab.wait_for("live")
    tab.start_run(20, 0.02)
    tab.wait_for_steps(8)
    emulate = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    tab.cdp("Network.emulateNetworkConditions", offline=True, **emulate)
    site.network.cut()  # what is open is not Chromium's business then
    wait_until(lambda: site.waiting(tab.queue) > 20)
    tab.wait("document.getElementById('state').dataset.until - Date.now() > 7000", 30)  # the pauses have grown
    until = tab.run("return Number(document.getElementById('state').dataset.until)")
    site.network.restore()
    tab.cdp("Network.emulateNetworkConditions", offline=False, **emulate)
    tab.wait_for("live")
    assert tab.run("return Date.now()") < until
    tab.check_each_once(AGENTS * 20)


def test_a_duplicated_tab_has_a_line_of_its_own(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site()
    tab = open_tab(site)
    tab.wait_for("live")
    tab.start_run(1, 0)
    tab.check_each_once(AGENTS)
    before = set(tab.driver.window_handles)
    tab.click("duplicate")
    wait_until(lambda: set(tab.driver.window_handles) != before)
    (handle,) = set(tab.driver.window_handles) - before
    copy = Tab(tab.driver, handle, tab.tabs)
    copy.wait_for("live")
    assert copy.queue.startswith(f"user.{site.user.pk}/tab-")
    assert copy.queue != tab.queue
    assert copy.strip() == [], "what came before was the other one's"
    tab.start_run(10, 0.01)
    tab.wait_for_steps(AGENTS * 11)
    copy.check_each_once(AGENTS * 10)


def test_back_from_the_cache_of_pages(make_site: MakeSite, open_tab: OpenTab) -> None:
    tab = open_tab(make_site())
    tab.wait_for("live")
    tab.start_run(20, 0.02)
    tab.wait_for_steps(8)
    line = tab.queue
    tab.get("/queue/")
    tab.use().back()
    assert tab.run("return window.wasKept") is True
    tab.check_each_once(AGENTS * 20)
    assert (tab.state, tab.queue) == ("live", line)


def test_after_a_sleep_a_dead_connection_is_noticed_soon(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site(HEARTBEAT_SECONDS=60, ACK_TIMEOUT_SECONDS=60)
    tab = open_tab(site, before=SLEEP)
    tab.wait_for("live")
    site.network.strand()
    netra_queue.send_to_user(site.user, {"type": "agent.step", "run": "r", "agent": "a", "step": 1, "number": 1})
    tab.run("sleep(3_600_000)")
    tab.wait_for_steps(1, 25)  # a heartbeat's half would be 30 seconds
    assert tab.state == "live"


def test_a_frozen_page_goes_on(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site(HEARTBEAT_SECONDS=1)
    tab = open_tab(site)
    tab.wait_for("live")
    line = tab.queue
    tab.start_run(10, 0.02)
    tab.cdp("Page.setWebLifecycleState", state="frozen")
    wait_until(lambda: not netra_queue.devices(site.user)[0].is_connected)  # the server has given the tab up
    tab.cdp("Page.setWebLifecycleState", state="active")
    tab.check_each_once(AGENTS * 10)
    assert tab.queue == line


def test_a_handler_that_throws(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site()
    tab = open_tab(site, "/queue/")
    tab.run_module(OWN_CLIENT + THROWING)
    tab.wait("states.includes('live')")
    for number in range(1, 6):
        netra_queue.send_to_user(site.user, number)
    tab.wait("errors >= 2")  # it came again
    assert tab.run("return handled") == [1, 2]
    (device,) = netra_queue.devices(site.user)
    wait_until(lambda: site.waiting(device.queue) == 3)
    tab.run("window.isMended = true")
    tab.wait("handled.length >= 5")
    assert tab.run("return handled") == [1, 2, 3, 4, 5]
    wait_until(lambda: site.waiting(device.queue) == 0)


def test_a_long_replay_does_not_freeze_the_page(make_site: MakeSite, open_tab: OpenTab, record_property: Any) -> None:
    site = make_site()
    steps = [{"type": "agent.step", "run": "r", "agent": "a", "step": n, "number": n} for n in range(1, MANY + 1)]
    netra_queue.send_many([(f"user.{site.user.pk}", step) for step in steps])
    began = time.monotonic()
    tab = open_tab(site)
    tab.wait_for_text(60, received=MANY)
    took = time.monotonic() - began
    tasks = tab.run("return longTasks")
    figures = f"{MANY} messages in {took:.1f} s; long tasks: {len(tasks)}, the longest {max(tasks, default=0):.0f} ms"
    record_property("replay", figures)
    print(figures)  # noqa: T201  with -s, or when it fails
    assert max(tasks, default=0) < LONG_TASK_MS
    assert [step.number for step in tab.strip()] == list(range(MANY - 399, MANY + 1))
    assert tab.text("verdict").startswith(f"{MANY} of {MANY} arrived")


def test_slow_handlers_leave_the_page_room(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site()
    netra_queue.send_many([(f"user.{site.user.pk}", number) for number in range(256)])
    tab = open_tab(site, "/queue/")
    tab.run_module(OWN_CLIENT + SLOW)
    tab.wait("handled.length >= 256")
    assert tab.run("return handled") == list(range(256))
    assert max(tab.run("return longTasks"), default=0) < LONG_TASK_MS, "all of them in one task take two seconds"


@pytest.mark.parametrize("storage", NO_STORAGE)
def test_without_storage_the_page_works(make_site: MakeSite, open_tab: OpenTab, storage: str) -> None:
    site = make_site()
    tab = open_tab(site, before=NO_STORAGE[storage])
    tab.wait_for("live")
    line = tab.queue
    tab.start_run(10, 0.02)
    tab.wait_for_steps(8)
    site.network.cut()
    tab.wait_for("waiting")
    site.network.restore()
    tab.check_each_once(AGENTS * 10)
    tab.get("/queue/")
    tab.use().back()
    tab.wait("wasKept")
    tab.click_by_script("urgent")
    tab.wait_for_steps(AGENTS * 10 + 1)
    assert tab.queue == line, "memory has to do"


def test_the_policy_is_strict_and_not_broken(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site()
    tab = open_tab(site)
    tab.wait_for("live")
    tab.start_run(2, 0)
    tab.check_each_once(AGENTS * 2)
    assert tab.refused() == []
    tab.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.isBroken = 1'}))"
    )
    tab.wait("refused.length")
    assert tab.run("return window.isBroken") is None
    assert tab.run("return refused.splice(0)") == ["script-src-elem inline"]


def test_the_admin_keeps_the_policy_too(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site()
    get_user_model().objects.update(is_superuser=True)
    netra_queue.send_to_user(site.user, "a long line " * 100)
    (message,) = Message.objects.all()
    tab = open_tab(site, f"/admin/netra_queue/message/{message.pk}/change/")
    tab.wait("document.querySelector('textarea').value.includes('a long line')")
    assert tab.refused() == []
    tab.get("/admin/netra_queue/queue/")
    assert tab.refused() == []


def test_the_servers_restart(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site()
    tab = open_tab(site)
    tab.wait_for("live")
    tab.start_run(20, 0.03)
    tab.wait_for_steps(10)
    tab.run(
        "new MutationObserver(() => (window.wasAway ||= state.dataset.state !== 'live'))"
        ".observe(state, {attributes: true})"
    )
    tab.click("restart")
    tab.wait("window.wasAway")
    tab.check_each_once(AGENTS * 20)


def test_losses_are_told(make_site: MakeSite, open_tab: OpenTab) -> None:
    site = make_site(MAX_MESSAGES=10)
    tab = open_tab(site)
    tab.wait_for("live")
    tab.click("cut")
    tab.start_run(10, 0)
    tab.wait_for_text(sent=40)
    tab.click("cut")
    tab.wait_for_text(received=10, lost=30)


def test_it_fits_on_a_phone(make_site: MakeSite, open_tab: OpenTab) -> None:
    tab = open_tab(make_site())
    tab.cdp("Emulation.setDeviceMetricsOverride", width=360, height=780, deviceScaleFactor=2, mobile=True)
    tab.wait_for("live")
    tab.start_run(20, 0)
    tab.wait_for_steps(AGENTS * 20)
    for fault in ("half", "cut"):
        tab.click(fault)
    assert tab.run("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
