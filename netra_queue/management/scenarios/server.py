"""The server that the scenarios are played against: a process of its own, on a free loopback port.

Run as ``python -m netra_queue.management.scenarios.server daphne|uvicorn PORT APPLICATION`` with the project's
settings. A path of its sockets is ``/<token>/<consumer>/<policy>/<queue>``; the token, made for one run, keeps
strangers on the same machine away from queues that the path names.
"""

from __future__ import annotations

import gc
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

TOKEN = "NETRA_SCENARIOS_TOKEN"
OVERRIDES = "NETRA_SCENARIOS_SETTINGS"  # JSON: keys of NETRA_QUEUE that tests want otherwise
APPLICATION = "netra_queue.management.scenarios.application.application"
START_SECONDS = 30.0
GRACE_SECONDS = 10  # a connection that came as Uvicorn stopped listening is asked to go by nobody
STOP_SECONDS = 45.0  # an idle server ends in less than a second; a database that stalls may take its deadlines

POLICIES: dict[str, dict[str, Any]] = {
    f"scenario-{overflow}-{limit}": {"MAX_MESSAGES": limit, "OVERFLOW": overflow}
    for overflow in ("drop_oldest", "drop_newest", "reject")
    for limit in (3, 5, 10)
}


def configure() -> None:
    """Add the scenarios' policies and the overrides to the project's settings, in this process only."""
    from django.conf import settings
    from django.core.signals import setting_changed

    from ... import conf

    given = conf.user_settings()
    overrides = json.loads(os.environ.get(OVERRIDES, "{}"))
    policies = {**given.get("POLICIES", {}), **POLICIES, **overrides.pop("POLICIES", {})}
    merged = {**given, **overrides, "POLICIES": policies}
    setattr(settings, conf.SETTING, merged)
    setting_changed.send(sender=None, setting=conf.SETTING, value=merged, enter=True)


@dataclass(slots=True)
class Server:
    """A running server process."""

    port: int
    token: str
    process: subprocess.Popen[bytes] = field(repr=False)

    def url(self, queue: str, policy: str = "default", consumer: str = "async") -> str:
        return f"ws://127.0.0.1:{self.port}/{self.token}/{consumer}/{policy}/{queue}"

    def memory_bytes(self) -> int:
        return resident_bytes(self.process.pid)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the process and wait for it. Returns its exit status. Raises RuntimeError when it does not end."""
        self.process.send_signal(how)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"the server did not end within {STOP_SECONDS} s of {how.name}") from None


def start(
    kind: str, *, application: str = APPLICATION, environment: dict[str, str] | None = None, log: Any = None
) -> Server:
    """Start a ``daphne`` or ``uvicorn`` process and wait until it takes connections.

    ``application`` is the dotted path of what it serves. ``log`` takes the process's output (a file); without
    it, the output goes where this process's goes.
    """
    port, token = _free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", __name__, kind, str(port), application]
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {}), TOKEN: token}, stdout=log, stderr=log, start_new_session=True
    )
    server = Server(port, token, process)
    deadline = time.monotonic() + START_SECONDS
    while not _takes_connections(port):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"{kind} did not start (exit status {process.wait()})")
        time.sleep(0.05)
    return server


@contextmanager
def running(kind: str, **options: Any) -> Iterator[Server]:
    """A server for the time of a ``with`` block."""
    server = start(kind, **options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def resident_bytes(pid: int) -> int:
    """What a process has in memory, where the system tells; otherwise 0."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _takes_connections(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main(kind: str, port: str, path: str) -> None:
    import django
    from django.utils.module_loading import import_string

    django.setup()
    configure()
    application = import_string(path)
    gc.freeze()  # see docs/deployment.md
    if kind == "uvicorn":
        import uvicorn

        uvicorn.run(
            application,
            host="127.0.0.1",
            port=int(port),
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    else:
        from daphne.endpoints import build_endpoint_description_strings
        from daphne.server import Server as Daphne

        endpoints = build_endpoint_description_strings(host="127.0.0.1", port=int(port))
        Daphne(application, endpoints=endpoints).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
