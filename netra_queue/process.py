"""What this process has: a hub for each event loop, the writer, the bells. And how it ends."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from asgiref.sync import SyncToAsync

from . import policies, statistics, wakeup
from .cancelling import cancel_all
from .core.actions import Acknowledge, Persist, Return
from .hub import Hub
from .link import Link
from .stores import batching, current_store, guarded

logger = logging.getLogger(__name__)

EXIT_SECONDS = 5.0
REST_SECONDS = 10.0
IDLE_CHECK_SECONDS = 0.02

_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}
os.register_at_fork(after_in_child=_hubs.clear)  # they go on in the parent
_is_registered = False


def current_hub() -> Hub:
    """The running event loop's hub, made and started on first use."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        _register_exit()
        hub = _hubs[loop] = Hub()
        hub.start()
    return hub


def hubs() -> list[Hub]:
    """The hubs of all event loops that run. Thread-safe."""
    return [hub for loop, hub in list(_hubs.items()) if loop.is_running()]


def _register_exit() -> None:
    """Have ``close`` called before Python waits for its threads at the end, where it can (private since 3.9).

    Synchronous consumers run in a thread of an executor. One that is sending when Daphne stops the loop waits for the
    loop for ever, and Python for that thread, before it calls what ``atexit`` has.
    """
    global _is_registered
    if not _is_registered:
        getattr(threading, "_register_atexit", atexit.register)(close_at_exit)
        _is_registered = True


def close_at_exit() -> None:
    """``close``, and no loop takes anything any more: who hands something to a closed loop is told so."""
    loops = list(_hubs)
    close()
    for loop in loops:
        if not loop.is_running():
            loop.close()


async def stop_hub() -> None:
    """End the running loop's hub. ``close`` then writes what is left."""
    hub = _hubs.get(asyncio.get_running_loop())
    if hub is not None:
        await hub.stop()


def close(timeout_seconds: float = EXIT_SECONDS) -> None:
    """Write what only memory has, and end all threads. Anything used afterwards starts anew.

    Called at the end of the process: Daphne does not let consumers finish, Uvicorn does. Idempotent.
    """
    guarded.forget()  # whatever the store did before: this is the last time that it can be asked
    for hub in list(_hubs.values()):
        _finish(hub)
    batching.close(timeout_seconds)
    while _hubs:
        _, hub = _hubs.popitem()
        hub.leave()
        _in_time(lambda: _write_rest(hub))  # noqa: B023  called at once
    batching.close(timeout_seconds)
    wakeup.close(1.0, at_end=current_store().leave_thread)
    policies.forget()
    statistics.close()


def _finish(hub: Hub) -> None:
    """Let what the loop was left with end: consumers with their ``finally``, and threads that wait for the loop.

    CPython 3.11 may crash on coroutines that are left to its last garbage collection.
    """
    loop = hub.loop
    if loop.is_closed() or loop.is_running() or threading.current_thread() is not threading.main_thread():
        return
    try:
        loop.run_until_complete(_end_all(hub))
    except Exception as error:
        logger.error("consumers not ended at exit: %s", error, extra={"action": "exit_failed"})


async def _end_all(hub: Hub) -> None:
    await hub.lingering.finish()
    await _cancel_others(hub.tasks())
    await hub.stop()
    await _release_threads()


async def _release_threads() -> None:
    """End what the consumers' threads hand to this loop, until they have nothing left to do, or for EXIT_SECONDS."""
    deadline = time.monotonic() + EXIT_SECONDS
    idle = SyncToAsync.single_thread_executor.submit(bool)
    while not idle.done() and time.monotonic() < deadline:
        await asyncio.sleep(IDLE_CHECK_SECONDS)
        await _cancel_others()


async def _cancel_others(spared: Collection[asyncio.Task[Any]] = ()) -> None:
    """End all tasks that have begun. One that is cancelled before it begins never runs at all, and then asgiref does
    not tell the thread that waits for it."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()} - set(spared)
    await asyncio.sleep(0)  # the first steps of all these are due before this goes on
    await cancel_all(tasks)


def _in_time(work: Callable[[], None]) -> None:
    """Do this in a thread, and go on after REST_SECONDS: a database that swallows everything must not hold the end."""

    def doing() -> None:
        store = current_store()
        store.in_own_thread(work)
        store.leave_thread()

    thread = threading.Thread(target=doing, name="netra-rest", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # Python starts no more
        work()
        return
    thread.join(REST_SECONDS)
    if thread.is_alive():
        logger.error("not everything is written at exit: the store does not answer", extra={"action": "exit_failed"})


def _write_rest(hub: Hub) -> None:
    """Write what only the hub's memory has: its loop runs no more."""
    for link in hub.links():
        closed = link.connection.close(None, hub.loop.time())
        for action in [*closed, *hub.own.settle(link), *link.connection.rescue()]:
            if isinstance(action, Acknowledge):
                hub.acks.add(link.queue, action.positions)
            elif isinstance(action, Return):
                hub.returns.add(link, action)
            elif isinstance(action, Persist):
                _try("own sends lost at exit", lambda: _append(hub, link, action))  # noqa: B023  called at once
        hub.meter.read(link)
    if acks := hub.acks.unwritten():
        _try("acks not written at exit", lambda: hub.store.ack(acks))
    if returns := hub.returns.unwritten():
        _try("deliveries not counted at exit", lambda: hub.store.returned(returns))
    if hub.is_known:
        _try("server not retired at exit", lambda: hub.store.retire(hub.server))


def _append(hub: Hub, link: Link, persist: Persist) -> None:
    hub.store.append(link.drafts(persist.messages), link.policies)


def _try(what: str, work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:
        logger.error("%s: %s", what, error, extra={"action": "exit_failed"})
