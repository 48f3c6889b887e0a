"""`make demo` as a person starts it: at a terminal, in a new copy of the repository.

Logs in, starts an agent run, cuts the WebSocket in the middle, comes back, sees every step once and each agent's in
order, and stops the server with Ctrl-C. Then starts it once more, which is quick. Runs itself with a Python that has
``websockets``.
"""

from __future__ import annotations

import asyncio
import http.cookiejar
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NoReturn, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

ROOT = Path(__file__).resolve().parent.parent
FIRST_START_SECONDS, SECOND_START_SECONDS, STOP_SECONDS = 600.0, 30.0, 10.0
AGENTS, STEPS = 4, 12
CLIENT = "demo"
DEPTH = f"/queue/?client={CLIENT}"
BAD = re.compile(r"Traceback|Segmentation|Error|Exception")


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  a script's words


class Demo:
    """`make demo` at a pseudo terminal. What it prints is kept in ``output``."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port, self.output, self.started = port, "", time.monotonic()
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["make", "demo", f"PORT={port}"],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=lambda: take_terminal(theirs),
        )
        os.close(theirs)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                select.select([self._ours], [], [])
                self.output += os.read(self._ours, 65_536).decode(errors="replace")
            except OSError:  # the terminal is closed when its last process ends
                return

    def wait_for_page(self, seconds: float) -> float:
        """Returns after how many seconds the page is there."""
        while time.monotonic() - self.started < seconds and self.process.poll() is None:
            with socket.socket() as probe:
                if "Page:" in self.output and probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return time.monotonic() - self.started
            time.sleep(0.05)
        self.fail("the page did not come up")

    def press_ctrl_c(self) -> float:
        """Returns after how many seconds everything has ended."""
        pressed = time.monotonic()
        os.write(self._ours, b"\x03")
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.fail(f"Ctrl-C did not end it within {STOP_SECONDS} seconds")
        if status != 0 or BAD.search(self.output):
            self.fail(f"it ended with status {status}")
        return time.monotonic() - pressed

    def fail(self, what: str) -> NoReturn:
        raise SystemExit(f"{what}\n{self.output}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs. With make, which leads the session, the server loses its terminal, and so ends too."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def take_terminal(terminal: int) -> None:
    """In the child: a session of its own whose controlling terminal this is, so that Ctrl-C reaches it."""
    os.setsid()
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


class Browser:
    """What the page does: cookies, the CSRF token, and the WebSocket."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def get(self, path: str) -> str:
        with self._opener.open(self.origin + path, timeout=20) as response:
            text: str = response.read().decode()
            return text

    def post(self, path: str, **fields: object) -> str:
        request = urllib.request.Request(self.origin + path, urllib.parse.urlencode(fields).encode())
        request.add_header("X-CSRFToken", self._cookie("csrftoken"))
        request.add_header("Referer", self.origin + path)
        with self._opener.open(request, timeout=20) as response:
            text: str = response.read().decode()
            return text

    def log_in(self, name: str, password: str) -> None:
        self.get("/login/")
        self.post("/login/", username=name, password=password)
        if "Start a run" not in self.get("/"):
            raise SystemExit("the page does not show itself after the login")

    def socket(self) -> connect:
        return connect(
            self.origin.replace("http", "ws") + f"/ws/notifications/?client={CLIENT}",
            subprotocols=[Subprotocol("netra-queue.v1")],
            origin=Origin(self.origin),
            additional_headers={"Cookie": f"sessionid={self._cookie('sessionid')}"},
        )

    def _cookie(self, name: str) -> str:
        return next(cookie.value or "" for cookie in self.cookies if cookie.name == name)


Step = tuple[str, int]  # of which agent, and its number


async def steps(ws: ClientConnection, seen: dict[str, Step], until: int) -> None:
    """Take messages, acking each frame, until this many different ones were seen."""
    while len(seen) < until:
        frame = json.loads(await asyncio.wait_for(ws.recv(), 30))
        if frame["type"] == "netra.messages":
            for message in frame["messages"]:
                seen.setdefault(message["id"], (message["data"]["agent"], message["data"]["step"]))
            await ws.send(json.dumps({"type": "netra.ack", "seq": frame["seq"] + len(frame["messages"]) - 1}))


async def run_over_a_cut(browser: Browser) -> list[Step]:
    """Start a run, lose the connection in the middle, and come back. Returns the steps, repeats left out."""
    seen: dict[str, Step] = {}
    async with browser.socket() as ws:
        if ws.subprotocol != "netra-queue.v1":
            raise RuntimeError(f"the server chose the subprotocol {ws.subprotocol}")
        await asyncio.to_thread(browser.post, "/agent/start/", steps=STEPS, pause=0.1)
        await steps(ws, seen, AGENTS * STEPS // 3)
        ws.transport.abort()
    while json.loads(await asyncio.to_thread(browser.get, DEPTH))["messages"] < STEPS:  # noqa: ASYNC110  not ours to signal
        await asyncio.sleep(0.05)
    async with browser.socket() as ws:
        await steps(ws, seen, AGENTS * STEPS)
    return list(seen.values())


def is_complete(seen: list[Step]) -> bool:
    """Whether each agent's steps are all there, once and in order."""
    agents = {agent for agent, _ in seen}
    by_agent = [[step for each, step in seen if each == agent] for agent in agents]
    return by_agent == [list(range(1, STEPS + 1))] * AGENTS


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def copy_to(folder: Path) -> None:
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_to(folder)
        port = free_port()
        with Demo(folder, port) as demo:
            took = demo.wait_for_page(FIRST_START_SECONDS)
            login = re.search(r"Login: (\S+), password: (\S+)", demo.output)
            if login is None:
                demo.fail("no login was printed")
            browser = Browser(port)
            browser.log_in(login[1], login[2])
            seen = asyncio.run(asyncio.wait_for(run_over_a_cut(browser), 120))
            if not is_complete(seen):
                demo.fail(f"the run's steps came as {seen}")
            ended = demo.press_ctrl_c()
            say(f"first start {took:.1f} s; {len(seen)} steps over a cut, each once and in order; end {ended:.1f} s")
        with Demo(folder, port) as demo:
            took = demo.wait_for_page(SECOND_START_SECONDS)
            say(f"second start {took:.1f} s; end {demo.press_ctrl_c():.1f} s")


if __name__ == "__main__":
    main()
