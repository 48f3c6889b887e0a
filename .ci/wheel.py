"""The wheel in a new project, by the README's lines and nothing else.

    python .ci/wheel.py --python python3.12 --django "~=6.0" [--wheel dist/….whl]

Looks into the wheel, installs it into a fresh virtual environment, makes a project with ``django-admin startproject``,
puts the README's code blocks into the files that their ``<!-- wheel: file -->`` comments name, starts the server and
exchanges messages over a WebSocket. Runs itself with a Python that has ``websockets``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from websockets.asyncio.client import connect

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- wheel: (?P<file>\S+)(?P<append> append)? -->\n```\w*\n(?P<text>.*?)```", re.DOTALL)
WANTED = [r"netra_queue/py\.typed", r"netra_queue/migrations/0001_initial\.py", r"netra_queue/core/wire\.py"]
WANTED += [
    rf"netra_queue/static/netra_queue/{name}"
    for name in (r"client\.js", r"client\.d\.ts", r"protocol\.js", r"browser\.js")
]
WANTED += [
    rf"netra_queue/static/netra_queue/dashboard/{name}"
    for name in (r"dashboard\.(js|css)", r"uplot/uPlot\.iife\.min\.js", r"uplot/LICENSE\.txt", r"uplot/VERSION\.txt")
]
ALLOWED = re.compile(r"netra_queue/|netra_queue-[^/]+\.dist-info/")
SUFFIXES = {".py", ".typed", ".html", ".js", ".css", ".ts", ".svg", ".txt", ".po", ".mo", ".json"}
MAKE_SESSION = """
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model
from django.contrib.sessions.backends.db import SessionStore
user = get_user_model().objects.create_user("wheel")
session = SessionStore()
session.update({SESSION_KEY: str(user.pk), HASH_SESSION_KEY: user.get_session_auth_hash(),
                BACKEND_SESSION_KEY: "django.contrib.auth.backends.ModelBackend"})
session.save()
print("session", session.session_key, user.pk)
"""


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  a script's words


def inspect(wheel: Path) -> None:
    """Only the package is in the wheel, with everything that it needs and that git knows."""
    names = zipfile.ZipFile(wheel).namelist()
    strangers = [name for name in names if not ALLOWED.match(name)]
    strangers += [n for n in names if n.startswith("netra_queue/") and Path(n).suffix not in SUFFIXES]
    missing = [wanted for wanted in WANTED if not any(re.fullmatch(wanted, name) for name in names)]
    kept = [p for p in (ROOT / "netra_queue").rglob("*") if p.is_file() and p.suffix in SUFFIXES]
    missing += [str(p.relative_to(ROOT)) for p in kept if str(p.relative_to(ROOT)) not in names]
    if strangers or missing:
        raise SystemExit(f"{wheel.name}: should not be in it: {strangers}; missing: {missing}")
    say(f"{wheel.name}: {len(names)} files, only netra_queue and its metadata")


class Site:
    """A new project in a fresh virtual environment."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.bin = folder / "site", folder / "venv" / "bin"
        self.folder.mkdir()
        run([python, "-m", "venv", str(folder / "venv")])

    def install(self, *requirements: str) -> None:
        run([str(self.bin / "pip"), "install", "--quiet", "--disable-pip-version-check", *requirements])

    def manage(self, *arguments: str) -> str:
        return run(
            [str(self.bin / "python"), "-W", "error::DeprecationWarning:netra_queue", "manage.py", *arguments],
            self.folder,
        )

    def follow(self, readme: str) -> None:
        """Make the project and write the README's blocks into it."""
        run([str(self.bin / "django-admin"), "startproject", "mysite", "."], self.folder)
        blocks = list(BLOCK.finditer(readme))
        if {block["file"] for block in blocks} != {"mysite/settings.py", "mysite/consumers.py", "mysite/asgi.py"}:
            raise SystemExit("README.md has lost its blocks for settings, consumers and asgi")
        for block in blocks:
            target = self.folder / block["file"]
            before = target.read_text() if block["append"] else ""
            target.write_text(before + "\n" + block["text"])
        self.manage("migrate", "--verbosity", "0")
        self.manage("makemigrations", "--check", "--dry-run")
        say(self.manage("check").strip())


def run(command: list[str], folder: Path | None = None) -> str:
    """The command's output. Ends this script with all of it when the command fails."""
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}")
    return done.stdout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(port: int, server: subprocess.Popen[bytes], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"the server did not listen on port {port} (exit status {server.poll()})")


async def exchange(site: Site, port: int, session: str, queue: str) -> None:
    """One message from before the connection, one sent meanwhile by another process; both acked."""
    send = f"import netra_queue; print(netra_queue.send({queue!r}, %r).outcome)"
    await asyncio.to_thread(site.manage, "shell", "-c", send % {"n": 1})
    url = f"ws://127.0.0.1:{port}/ws/notifications/?client=wheel"
    headers = {"Cookie": f"sessionid={session}"}
    async with connect(
        url, subprotocols=["netra-queue.v1"], origin=f"http://127.0.0.1:{port}", additional_headers=headers
    ) as ws:
        hello = json.loads(await asyncio.wait_for(ws.recv(), 10))
        if (hello["type"], hello["waiting"]) != ("netra.hello", 1):
            raise SystemExit(f"unexpected hello: {hello}")
        await expect(ws, {"n": 1})
        await asyncio.to_thread(site.manage, "shell", "-c", send % {"n": 2})
        await expect(ws, {"n": 2})
    stat = "from netra_queue.stores import current_store; print('left', current_store().stat(%r).messages)"
    deadline = time.monotonic() + 10
    while "left 0" not in await asyncio.to_thread(site.manage, "shell", "-c", stat % queue):
        if time.monotonic() > deadline:
            raise SystemExit("the acked messages are still in the queue")


async def expect(ws: object, data: object) -> None:
    """Receive this message, and ack it."""
    while True:
        frame = json.loads(await asyncio.wait_for(ws.recv(), 15))  # type: ignore[attr-defined]
        if frame["type"] != "netra.messages":
            continue
        if [message["data"] for message in frame["messages"]] != [data]:
            raise SystemExit(f"expected {data}, got {frame}")
        await ws.send(json.dumps({"type": "netra.ack", "seq": frame["seq"]}))  # type: ignore[attr-defined]
        return


def serve_and_exchange(site: Site) -> None:
    found = re.search(r"session (\S+) (\d+)", site.manage("shell", "-c", MAKE_SESSION))
    if found is None:
        raise SystemExit("no session was made")
    port = free_port()
    command = [str(site.bin / "daphne"), "--verbosity", "0", "--port", str(port), "mysite.asgi:application"]
    server = subprocess.Popen(command, cwd=site.folder)
    try:
        wait_for(port, server)
        asyncio.run(exchange(site, port, found[1], f"user.{found[2]}"))
    finally:
        server.terminate()
        server.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--django", default="")
    parser.add_argument("--wheel", type=Path)
    options = parser.parse_args()
    wheel = options.wheel or max((ROOT / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)
    inspect(wheel)
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), options.python)
        site.install(str(wheel.resolve()), "daphne", f"Django{options.django}")
        versions = "import django, sys; print('Django', django.__version__, 'on Python', sys.version.split()[0])"
        say(run([str(site.bin / "python"), "-c", versions]).strip())
        site.follow((ROOT / "README.md").read_text())
        serve_and_exchange(site)
    say("two messages exchanged over a WebSocket, one from before the connection; the queue is empty after the acks")


if __name__ == "__main__":
    main()
