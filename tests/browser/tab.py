"""A tab of the browser, on the example's page."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.waiting import wait_until

PAUSE_SECONDS = 0.05  # between two questions: each costs the browser something

# Kept in the page that is there: a reload begins anew.
WATCHING = """
window.refused = [];
document.addEventListener("securitypolicyviolation", ({violatedDirective, blockedURI}) => {
  refused.push(`${violatedDirective} ${blockedURI}`);
});
window.longTasks = [];
new PerformanceObserver((list) => longTasks.push(...list.getEntries().map((task) => task.duration)))
  .observe({type: "longtask", buffered: true});
addEventListener("pageshow", (event) => (window.wasKept = event.persisted));
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A number on the strip."""

    number: int
    agent: str
    is_replayed: bool


class Tab:
    def __init__(self, driver: Chrome, handle: str, tabs: list[Tab]) -> None:
        self.driver, self.handle, self.tabs = driver, handle, tabs
        tabs.append(self)

    def prepare(self, origin: str, session: str, before: str) -> None:
        self.origin = origin
        self.cdp("Network.enable")
        self.cdp("Network.setCookie", name="sessionid", value=session, url=origin)
        self.cdp("Page.enable")
        self.cdp("Page.addScriptToEvaluateOnNewDocument", source=WATCHING + before)

    def use(self) -> Chrome:
        if self.driver.current_window_handle != self.handle:
            self.driver.switch_to.window(self.handle)
        return self.driver

    def cdp(self, command: str, **arguments: Any) -> Any:
        return self.use().execute_cdp_cmd(command, arguments)

    def get(self, path: str) -> None:
        self.use().get(self.origin + path)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.use().execute_script(script, *arguments)

    def run_module(self, script: str) -> None:
        """A script that may await; the client is there as NetraQueue."""
        load = 'const {NetraQueue} = await import("/static/netra_queue/client.js");'
        work = f"(async () => {{ {load} {script} }})()"
        error = self.use().execute_async_script(f"{work}.then(() => arguments[0](''), (e) => arguments[0](String(e)))")
        assert error == ""

    # --- the page ---

    def text(self, id: str) -> str:
        return str(self.run("return document.getElementById(arguments[0])?.textContent", id))

    def click(self, id: str) -> None:
        self.use().find_element(By.ID, id).click()

    def click_by_script(self, id: str) -> None:
        """For a page that is just back: Chromium may drop a person's click before it has drawn it again."""
        self.run("document.getElementById(arguments[0]).click()", id)

    @property
    def state(self) -> str:
        return self.text("state")

    @property
    def queue(self) -> str:
        """The line of this tab."""
        return str(self.run("return document.getElementById('page').dataset.client"))

    def wait(self, script: str, timeout: float = 30) -> None:
        """Until the script returns something true. What the page shows otherwise is in the error."""
        try:
            wait_until(lambda: self.run(f"return {script}"), timeout, PAUSE_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {script}; {self.run('return document.body.innerText')}") from error

    def wait_for(self, state: str, timeout: float = 30) -> None:
        wait_until(lambda: self.state == state, timeout, PAUSE_SECONDS)

    def wait_for_text(self, timeout: float = 30, **texts: object) -> None:
        """Until the elements with these ids say so."""
        expected = {id: str(text) for id, text in texts.items()}
        wait_until(lambda: {id: self.text(id) for id in expected} == expected, timeout, PAUSE_SECONDS)

    def start_run(self, steps: int, pause: float) -> None:
        for name, value in {"steps": steps, "pause": pause}.items():
            self.run("document.querySelector(`[name=${arguments[0]}]`).value = arguments[1]", name, value)
        self.use().find_element(By.CSS_SELECTOR, "#run .primary").click()

    def strip(self) -> list[Step]:
        rows = self.run(
            "return [...document.querySelectorAll('#strip li')]"
            ".map((li) => [li.dataset.number, li.dataset.agent, li.classList.contains('replayed')])"
        )
        return [Step(int(number), agent, is_replayed) for number, agent, is_replayed in rows]

    def wait_for_steps(self, count: int, timeout: float = 60) -> None:
        self.wait(f"document.querySelectorAll('#strip li').length >= {count}", timeout)

    def check_each_once(self, count: int) -> None:
        """The numbers 1 to ``count`` have arrived, each once, and each agent's in order."""
        self.wait_for_steps(count)
        strip = self.strip()
        assert sorted(step.number for step in strip) == list(range(1, count + 1))
        by_agent: dict[str, list[int]] = defaultdict(list)
        for step in strip:
            by_agent[step.agent].append(step.number)
        assert all(numbers == sorted(numbers) for numbers in by_agent.values()), by_agent
        assert self.text("verdict").startswith(f"{count} of {count} arrived")

    # --- the end ---

    def refused(self) -> list[str]:
        """What the Content-Security-Policy did not let happen."""
        if self.handle not in self.driver.window_handles:
            return []
        return [str(each) for each in self.run("return window.refused ?? []")]

    def close(self) -> None:
        if self.handle in self.driver.window_handles:
            self.use().close()
