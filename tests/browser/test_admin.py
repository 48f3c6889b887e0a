"""The admin in Debian's Chromium: an action that goes on by itself, under the example's strict policy for scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from netra_queue.models import Message, queue_id
from netra_queue.stores import current_store
from tests.browser.conftest import Site
from tests.browser.tab import Tab
from tests.making import make_draft, make_policy, put

MANY, EACH = 1_000, 60  # queues to purge, as many as an action takes, and messages in each: more than one step does
COUNTING = """
addEventListener("pagehide", () => {
  if (document.querySelector("progress")) sessionStorage.steps = Number(sessionStorage.steps ?? 0) + 1;
});
"""


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    site = make_site()
    site.user.is_superuser = True
    site.user.save()
    return site


def test_an_action_on_all_that_match_goes_on_by_itself(site: Site, open_tab: Callable[..., Tab]) -> None:
    store = current_store()
    names = [f"many.{number}" for number in range(MANY)]
    put(store, *(make_draft(name) for name in EACH * names), policy=make_policy())
    store.ensure(names)
    tab: Any = open_tab(site, "/admin/netra_queue/queue/?q=many.&depth=1", before=COUNTING)
    driver = tab.use()
    driver.find_element(By.ID, "action-toggle").click()
    driver.find_element(By.CSS_SELECTOR, ".actions .question a").click()
    driver.find_element(By.CSS_SELECTOR, ".actions select option[value=purge]").click()
    driver.find_element(By.CSS_SELECTOR, ".actions button").click()
    tab.wait(f"document.body.innerText.includes('{MANY} are chosen.')")
    driver.find_element(By.CSS_SELECTOR, ".submit-row input").click()
    tab.wait(f"document.body.innerText.includes('Purged {MANY * EACH} messages.')")
    assert not Message.objects.filter(queue_id__in=map(queue_id, names)).exists()
    assert int(tab.run("return sessionStorage.steps ?? 0")) >= 1, "it was done in one step"


def test_the_page_of_a_queue_fits_a_narrow_window(site: Site, open_tab: Callable[..., Tab]) -> None:
    """What is wider scrolls within its table."""
    put(current_store(), make_draft("user.7"))
    current_store().ensure(["user.7"])
    tab: Any = open_tab(site)
    tab.cdp("Emulation.setDeviceMetricsOverride", width=480, height=900, deviceScaleFactor=1, mobile=False)
    tab.get(f"/admin/netra_queue/queue/{queue_id('user.7')}/change/")
    assert tab.run("return document.querySelectorAll('.netra-scroll table').length") == 1
    assert tab.run("return document.documentElement.scrollWidth <= window.innerWidth")
