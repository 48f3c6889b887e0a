"""What this process has: a hub for each event loop, the writer, the bells. And how it ends."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Callable

from . import policies, wakeup
from .cancelling import cancel_all
from .core.actions import Acknowledge, Persist, Return
from .hub import Hub
from .link import Link
from .stores import batching, current_store

logger = logging.getLogger(__name__)

EXIT_SECONDS = 5.0
STRAGGLERS = 3
STRAGGLER_SECONDS = 0.02

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


def _register_exit() -> None:
    """Have ``close`` called before Python waits for its threads at the end, where it can (private since 3.9).

    Synchronous consumers run in a thread of an executor. One that is sending when Daphne stops the loop waits for the
    loop for ever, and Python for that thread, before it calls what ``atexit`` has.
    """
    global _is_registered
    if not _is_registered:
        getattr(threading, "_register_atexit", atexit.register)(close)
        _is_registered = True


async def stop_hub() -> None:
    """End the running loop's hub. ``close`` then writes what is left."""
    hub = _hubs.get(asyncio.get_running_loop())
    if hub is not None:
        await hub.stop()


def close(timeout_seconds: float = EXIT_SECONDS) -> None:
    """Write what only memory has, and end all threads. Anything used afterwards starts anew.

    Called at the end of the process: Daphne does not let consumers finish, Uvicorn does. Idempotent.
    """
    for hub in list(_hubs.values()):
        _finish(hub)
    batching.close(timeout_seconds)
    while _hubs:
        _, hub = _hubs.popitem()
        hub.leave()
        _write_rest(hub)
    batching.close(timeout_seconds)
    wakeup.close(1.0, at_end=current_store().leave_thread)
    policies.forget()


def _finish(hub: Hub) -> None:
    """Let what the loop was left with end: consumers with their ``finally``, and threads that wait for the loop.

    CPython 3.11 may crash on coroutines that are left to its last garbage collection.
    """
    loop = hub.loop
    if loop.is_closed() or loop.is_running() or threading.current_thread() is not threading.main_thread():
        return
    try:
        loop.run_until_complete(_cancel_all(hub))
        for _ in range(STRAGGLERS):
            loop.run_until_complete(_cancel_stragglers())
    except Exception as error:
        logger.error("consumers not ended at exit: %s", error, extra={"action": "exit_failed"})


async def _cancel_all(hub: Hub) -> None:
    await hub.lingering.finish()
    await cancel_all(asyncio.all_tasks() - {asyncio.current_task()} - hub.tasks())
    await hub.stop()


async def _cancel_stragglers() -> None:
    """A consumer's thread may have handed its send to the loop when that was about to stop: its wait has to end too."""
    await asyncio.sleep(STRAGGLER_SECONDS)
    await cancel_all(asyncio.all_tasks() - {asyncio.current_task()})


def _write_rest(hub: Hub) -> None:
    """Write what only the hub's memory has, in the calling thread: its loop runs no more."""
    for link in hub.links():
        settled = hub.own.settle(link)
        for action in [*settled, *link.connection.close(None, hub.loop.time()), *link.connection.rescue()]:
            if isinstance(action, Acknowledge):
                hub.acks.add(link.queue, action.positions)
            elif isinstance(action, Return):
                hub.returns.add(link, action)
            elif isinstance(action, Persist):
                _try("own sends lost at exit", lambda: _append(hub, link, action))  # noqa: B023  called at once
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
