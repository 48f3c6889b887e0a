"""(e) What waited for one client, over one reconnect, beside systems that keep it in memory."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from benchmarks import places
from benchmarks.clients import Client, open_all
from benchmarks.report import RUNS, Figure

COUNT = 20_000
FILLING = 215
PEERS = Path(__file__).resolve().parent / "peers"
MOSQUITTO = "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"


def figures() -> Iterator[Figure]:
    peers = {"Mosquitto, MQTT QoS 1, in memory": mosquitto, "Socket.IO recovery, in memory": socketio}
    there = {name: run for name, run in peers.items() if (missing := lacks(run)) is None or skip(name, missing)}
    times: dict[str, list[float]] = {"": [], **{name: [] for name in there}}
    for _ in range(RUNS):
        for name, run in there.items():
            times[name].append(run())
        times[""].append(durable())
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name in there:
        yield Figure(
            letter="e",
            what=f"replay of {COUNT:,} messages to one client",
            ours=medians[""],
            theirs=medians[name],
            unit="s",
            than=name,
            bound=1,
            is_cost=True,
            note="ours from PostgreSQL, each acked and deleted",
        )


def lacks(run: Callable[[], float]) -> str | None:
    """The program that this needs and that is not here."""
    needed = {"mosquitto": ("mosquitto", "mosquitto_sub", "mosquitto_pub"), "socketio": ("node", "npm")}[run.__name__]
    return next((program for program in needed if which(program) is None), None)


def which(program: str) -> str | None:
    return shutil.which(program, path="/usr/sbin:/usr/local/bin:/usr/bin:/bin")


def skip(name: str, missing: str) -> bool:
    print(f"skipped: {name} (there is no {missing})", flush=True)  # noqa: T201
    return False


def durable() -> float:
    import netra_queue

    places.empty()
    payload = {"type": "bench.message", "filling": "x" * FILLING}
    for _ in range(2):
        netra_queue.send_many([("bench.away", payload)] * (COUNT // 2))
    places.execute("VACUUM ANALYZE")
    with places.server() as server:
        urls = [server.url(queue, consumer="durable") for queue in ("bench.other", "bench.away")]
        return asyncio.run(receive(*(Client(url, True) for url in urls)))


async def receive(before: Client, client: Client) -> float:
    """``before``: the peers' servers have had a client, too, when time begins to count."""
    await open_all([before])
    await before.close()
    started = time.perf_counter()
    await client.open()
    while client.received < COUNT:  # noqa: ASYNC110  counted, not signalled
        await asyncio.sleep(0.002)
    seconds = time.perf_counter() - started
    await client.close()
    return seconds


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def mosquitto() -> float:
    """A persistent session; ``mosquitto_sub`` prints nothing, and ends with the last message."""
    port = free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "mosquitto.conf").write_text(MOSQUITTO.format(port=port))
        broker = [which("mosquitto") or "", "-c", str(folder / "mosquitto.conf")]
        process = stack.enter_context(subprocess.Popen(broker, stderr=subprocess.DEVNULL))
        stack.callback(process.terminate)
        listens(port)
        where = ["-p", str(port), "-q", "1", "-t", "bench"]
        listen = ["mosquitto_sub", *where, "-i", "bench", "-c", "--quiet"]
        subprocess.run([*listen, "-E"], check=True)
        lines = "\n".join(json.dumps({"number": number, "filling": "x" * FILLING}) for number in range(COUNT))
        subprocess.run(["mosquitto_pub", *where, "-l"], input=lines.encode(), check=True)
        started = time.perf_counter()
        subprocess.run([*listen, "-C", str(COUNT)], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def socketio() -> float:
    with socketio_server("replay.mjs", COUNT, FILLING) as arguments:
        client = subprocess.run(
            ["node", "replay.mjs", "client", *arguments], cwd=PEERS, check=True, capture_output=True, timeout=120
        )
    answer = json.loads(client.stdout)
    assert answer["recovered"], answer
    seconds: float = answer["seconds"]
    return seconds


@contextmanager
def socketio_server(script: str, *options: int) -> Iterator[list[str]]:
    """A server of Socket.IO's; the arguments that its clients need as well, the port first."""
    if not (PEERS / "node_modules").exists():
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=PEERS, check=True)
    arguments = list(map(str, [free_port(), *options]))
    server = subprocess.Popen(["node", script, "server", *arguments], cwd=PEERS, stdout=subprocess.PIPE)
    try:
        listens(int(arguments[0]))
        yield arguments
    finally:
        server.terminate()
        server.communicate()


def listens(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens at {port}")
