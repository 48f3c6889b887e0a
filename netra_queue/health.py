"""Whether each part works, found out by using it, within a time limit.

    store          one cheap question, in a thread of its own, through the breaker
    channel layer  a message to itself and back
    hub            its event loop answers, and the store has lately heard of its server
    sweep          no expired messages of long ago lie around

Probes change nothing in the store. A part that hangs holds one thread (or one task), however often it is probed: while
the probe before still waits, the next one says so at once. ``readiness`` keeps what was found for a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, TypeVar

from . import conf, process, wakeup
from .cancelling import cancellable
from .core.breaker import BreakerState
from .exceptions import BreakerOpen
from .hub import Hub
from .ids import new_id
from .stores import current_store
from .stores.base import MISSED_HEARTBEATS, Due, Store
from .stores.guarded import current_guard
from .threads import PerProcess

Result = TypeVar("Result")
LIMIT_SECONDS = 2.0
QUEUE = "netra-health"  # a name to ask the store about; nothing is ever in it
ECHO = "netra.echo"
LATE_SWEEP_SECONDS = 600.0  # it runs each minute, for 20 seconds at most
MISSING_SWEEP_SECONDS = 3600.0
SWEEP_CACHE_SECONDS = 30.0  # it counts rows, and what it tells changes slowly
SWEEP_COUNT = 1000

BREAKER_PAGE = "docs/breaker.md"
DATABASE_PAGE = "docs/deployment.md#databases"
LAYER_PAGE = "docs/deployment.md#redis"
HUB_PAGE = "docs/health.md#the-hub"
SWEEP_PAGE = "docs/maintenance.md"
NO_LAYER = "there is no channel layer: messages wait for the next poll (POLL_SECONDS)"
STILL_BUSY = "the probe before this one still waits for an answer"


class Health(Enum):
    """How a part is. WARN: it works, but not as it should."""

    OK = "ok"
    WARN = "warn"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe has found. ``text``: what is wrong, or, when nothing is, what was seen. ``page``: which page helps,
    if it is not the probe's."""

    health: Health
    text: str
    page: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What was found of one part, how long that took, and which page helps. For ``text`` see ``Found``."""

    name: str
    health: Health
    seconds: float
    text: str
    page: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """How a part is tried. ``late``: what it means that the time was over. ``is_needed``: a server without this part
    is of no use; without the others, everything still arrives, only later."""

    name: str
    page: str
    late: str
    work: Callable[[], Awaitable[Found]]
    is_needed: bool = False

    async def run(self, limit_seconds: float) -> Finding:
        """Never raises, and takes hardly longer than it may."""
        began = time.monotonic()
        found = await self._find(limit_seconds)
        page = found.page or self.page
        seconds = time.monotonic() - began
        return Finding(name=self.name, health=found.health, seconds=seconds, text=found.text, page=page)

    async def _find(self, limit_seconds: float) -> Found:
        try:
            async with asyncio.timeout(limit_seconds) as limit:
                return await cancellable(self.work())
        except BreakerOpen as error:
            return Found(Health.FAILED, str(error), BREAKER_PAGE)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                return Found(Health.FAILED, f"{self.late} within {limit_seconds:g} seconds")
            return Found(Health.FAILED, str(error) or type(error).__name__)


def worst(healths: Iterable[Health]) -> Health:
    """OK if there are none."""
    return max(healths, key=list(Health).index, default=Health.OK)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found of all parts of this process."""

    findings: tuple[Finding, ...]

    @property
    def is_ready(self) -> bool:
        """Whether this process can serve: what it needs works."""
        needed = {probe.name for probe in PROBES if probe.is_needed}
        return all(one.health is not Health.FAILED for one in self.findings if one.name in needed)

    @property
    def health(self) -> Health:
        """FAILED if it is not ready; WARN if anything else is not well."""
        if not self.is_ready:
            return Health.FAILED
        return Health.OK if worst(one.health for one in self.findings) is Health.OK else Health.WARN


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """As pages and commands write them."""
    return [{**asdict(one), "health": one.health.value, "seconds": round(one.seconds, 6)} for one in findings]


async def examine(limit_seconds: float = LIMIT_SECONDS) -> Report:
    """Try all parts at the same time. Never raises. Not for a server's own event loop: see ``readiness``."""
    return Report(findings=tuple(await asyncio.gather(*(probe.run(limit_seconds) for probe in PROBES))))


# --- one at a time -------------------------------------------------------------------------------------------------


class Busy(Exception):
    """The same has not ended since it was begun before."""

    def __str__(self) -> str:
        return STILL_BUSY


class Bench:
    """Keeps two of a kind from being done at the same time in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self.sweep: tuple[float, Found] | None = None  # when it was found

    @contextmanager
    def alone(self, kind: str) -> Iterator[None]:
        """Raises Busy."""
        self._take(kind)
        try:
            yield
        finally:
            self._busy.discard(kind)

    def _take(self, kind: str) -> None:
        with self._lock:
            if kind in self._busy:
                raise Busy
            self._busy.add(kind)

    def submit(self, kind: str, work: Callable[[], Result]) -> Future[Result]:
        """Have it done in a thread of its own, which holds nobody up at the end of the process. Raises Busy."""
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()  # who stops waiting does not stop it
        self._take(kind)
        thread = threading.Thread(target=self._run, args=(kind, work, future), name=f"netra-{kind}", daemon=True)
        try:
            thread.start()
        except BaseException:
            self._busy.discard(kind)
            raise
        return future

    def _run(self, kind: str, work: Callable[[], Any], future: Future[Any]) -> None:
        try:
            result = work()
        except BaseException as error:
            self._busy.discard(kind)
            future.set_exception(error)
        else:
            self._busy.discard(kind)
            future.set_result(result)


_bench = PerProcess(Bench)


def forget() -> None:
    """Begin anew, as if nothing had been probed."""
    _bench.take()


async def in_thread(kind: str, work: Callable[[], Result]) -> Result:
    """Do blocking work of this kind, unless it is being done. Raises Busy. Cancelling the wait does not end it."""
    return await asyncio.wrap_future(_bench.get().submit(kind, work))


async def with_store(kind: str, work: Callable[[Store], Result]) -> Result:
    """The same with the process's store, on a database connection of its own: that one can be had is part of it."""

    def worked() -> Result:
        store = current_store()
        try:
            return store.in_own_thread(lambda: work(store))
        finally:
            store.leave_thread()

    return await in_thread(kind, worked)


# --- the probes ----------------------------------------------------------------------------------------------------


async def probe_store() -> Found:
    await with_store("store", lambda store: store.waiting([QUEUE]))
    state = current_guard().state
    if state is BreakerState.CLOSED:
        return Found(Health.OK, "it answers, its breaker is closed")
    return Found(Health.WARN, f"it answers, and its breaker is {state.value.replace('_', ' ')}", BREAKER_PAGE)


async def probe_layer() -> Found:
    with _bench.get().alone("layer"):
        message = {"type": ECHO, "id": new_id()}
        returned = await wakeup.echo(message)
    if returned is None:
        return Found(Health.WARN, NO_LAYER)
    if returned.get("id") != message["id"]:
        return Found(Health.FAILED, "another message came back than was sent")
    return Found(Health.OK, "a message to itself came back")


async def probe_hub() -> Found:
    ages = await asyncio.gather(*map(_silence, process.hubs()))
    if not ages:
        return Found(Health.OK, "this process has none: it has had no connections")
    oldest, heartbeat = max(ages), conf.get("SERVER_HEARTBEAT_SECONDS")
    if oldest < 2 * heartbeat:
        return Found(Health.OK, "its event loop answers, and so does its heartbeat")
    text = f"the store has not heard of this server for {oldest:.0f} seconds"
    if oldest < MISSED_HEARTBEATS * heartbeat:
        return Found(Health.WARN, text)
    return Found(Health.FAILED, f"{text}, so its connections count as gone")


async def _silence(hub: Hub) -> float:
    """For how many seconds the store has not heard of this hub's server, as the hub's own event loop says."""
    future: Future[float] = Future()
    future.set_running_or_notify_cancel()
    hub.loop.call_soon_threadsafe(lambda: future.set_result(hub.loop.time() - hub.heard_at if hub.is_known else 0.0))
    return await asyncio.wrap_future(future)


async def probe_sweep() -> Found:
    """Asks the store now and then only. That it cannot be asked is the store's failure, not the sweep's."""
    bench = _bench.get()
    if bench.sweep is None or time.monotonic() - bench.sweep[0] >= SWEEP_CACHE_SECONDS:
        try:
            await with_store("sweep", lambda store: _look_at_sweep(bench, store))
        except Exception as error:
            return Found(Health.WARN, f"not known: {error}")
    assert bench.sweep is not None
    return bench.sweep[1]


def _look_at_sweep(bench: Bench, store: Store) -> None:
    try:
        due, now = store.due(SWEEP_COUNT), store.now()
        found = judge_sweep(due, (now - (due.expired_since or now)).total_seconds())
    except Exception as error:
        found = Found(Health.WARN, f"not known: {error}")
    bench.sweep = time.monotonic(), found


def judge_sweep(due: Due, seconds: float) -> Found:
    """``seconds``: for how long the first of what has expired has been so."""
    if seconds < LATE_SWEEP_SECONDS:
        return Found(Health.OK, f"{due.expired} expired messages wait to be removed")
    health = Health.WARN if seconds < MISSING_SWEEP_SECONDS else Health.FAILED
    count = f"{due.expired} or more" if due.expired >= SWEEP_COUNT else str(due.expired)
    return Found(health, f"{count} expired messages are not removed, the first one since {seconds / 60:.0f} minutes")


PROBES = (
    Probe(name="store", page=DATABASE_PAGE, late="no answer", work=probe_store, is_needed=True),
    Probe(name="channel layer", page=LAYER_PAGE, late="a message to itself did not come back", work=probe_layer),
    Probe(name="hub", page=HUB_PAGE, late="its event loop did not answer", work=probe_hub, is_needed=True),
    Probe(name="sweep", page=SWEEP_PAGE, late="no answer", work=probe_sweep),
)
