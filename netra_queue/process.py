"""What this process has: a hub for each event loop, the writer, the bells. And how it ends."""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Callable

from . import policies, wakeup
from .core.actions import Persist
from .hub import Hub
from .link import Link
from .stores import batching, current_store

logger = logging.getLogger(__name__)

EXIT_SECONDS = 5.0

_hubs: dict[asyncio.AbstractEventLoop, Hub] = {}


def current_hub() -> Hub:
    """The running event loop's hub, made and started on first use."""
    loop = asyncio.get_running_loop()
    hub = _hubs.get(loop)
    if hub is None:
        if not _hubs:
            atexit.unregister(close)
            atexit.register(close)  # now, so that it runs before what was registered earlier
        hub = _hubs[loop] = Hub()
        hub.start()
    return hub


async def stop_hub() -> None:
    """End the running loop's hub. ``close`` then writes what is left."""
    hub = _hubs.get(asyncio.get_running_loop())
    if hub is not None:
        await hub.stop()


def close(timeout_seconds: float = EXIT_SECONDS) -> None:
    """Write what only memory has, and end all threads. Anything used afterwards starts anew.

    Called at the end of the process: Daphne does not let consumers finish, Uvicorn does. Idempotent.
    """
    batching.close(timeout_seconds)
    while _hubs:
        _, hub = _hubs.popitem()
        hub.leave()
        _write_rest(hub)
    batching.close(timeout_seconds)
    wakeup.close(1.0, at_end=current_store().leave_thread)
    policies.forget()


def _write_rest(hub: Hub) -> None:
    """Write what only the hub's memory has, in the calling thread: its loop runs no more."""
    for link in hub.links():
        for action in [*link.connection.close(None, hub.loop.time()), *link.connection.rescue()]:
            if isinstance(action, Persist):
                _try("own sends lost at exit", lambda: _append(hub, link, action))  # noqa: B023  called at once
    if acks := hub.acks.unwritten():
        _try("acks not written at exit", lambda: hub.store.ack(acks))
    if hub.is_known:
        _try("server not retired at exit", lambda: hub.store.retire(hub.server))


def _append(hub: Hub, link: Link, persist: Persist) -> None:
    hub.store.append(link.drafts(persist.messages), link.policies)


def _try(what: str, work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:
        logger.error("%s: %s", what, error, extra={"action": "exit_failed"})
