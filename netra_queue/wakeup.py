"""Bells: a content-free "these queues have something" to the server processes that hold their connections.

The only file that touches channel layers. A bell may be lost, doubled or late: the hub's poll is what makes delivery
certain, the bell makes it quick. So nothing in here ever raises towards a sender, and no layer is waited for.

    sender --ring--> the process's ringer thread --lookup--> which servers hold these queues
                        | a hub of this process: called directly
                        | other servers: one group_send to the group of which that server is the only member
                     listener (on that server's event loop) --> its hub

**If the layer fails**: the ringer leaves it alone for a second, and the listener joins its group again, with backoff,
until it works; then the hub polls at once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from channels.exceptions import InvalidChannelLayerError
from channels.layers import get_channel_layer

from . import conf
from .threads import PerProcess

logger = logging.getLogger(__name__)

Lookup = Callable[[Collection[str]], Mapping[str, Collection[str]]]
Receive = Callable[[], Awaitable[Any]]
BELL = "netra.bell"
SEND_TIMEOUT_SECONDS = 2.0
LEAVE_ALONE_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 5.0
JOIN_AGAIN_SECONDS = 30.0
QUEUES_PER_BELL = 200


def group_of(server_id: str) -> str:
    return f"netra.{server_id}"


# --- hubs of this process ------------------------------------------------------------------------------------------

_local: dict[str, Callable[[Collection[str]], None]] = {}


def register_local(server_id: str, callback: Callable[[Collection[str]], None]) -> None:
    """Have ``callback`` called, from any thread, with the names of queues that are rung in this process."""
    _local[server_id] = callback


def unregister_local(server_id: str) -> None:
    _local.pop(server_id, None)


# --- the sender's side ---------------------------------------------------------------------------------------------


def ring(queues: Collection[str], lookup: Lookup) -> None:
    """Tell those who hold connections of these queues to look. Returns at once; thread-safe; never raises.

    ``lookup`` gives the servers that hold them, by server id; it is called in another thread, once for all queues
    that were rung meanwhile.
    """
    for callback in list(_local.values()):
        callback(queues)
    try:
        _ringer.get().ring(queues, lookup)
    except RuntimeError:  # no thread can be started any more: the interpreter is shutting down
        logger.debug("bell not rung at shutdown", extra={"action": "bell_dropped"})


def close(timeout_seconds: float, at_end: Callable[[], None] = lambda: None) -> None:
    """Ring what is waiting, and end the thread, with ``at_end`` as its last act. The next use makes a new one."""
    ringer = _ringer.take()
    if ringer is not None:
        ringer.close(timeout_seconds, at_end)


class _Ringer:
    """One thread with an event loop of its own, so that no sender opens a connection to the layer for each bell."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rung: set[str] = set()
        self._lookup: Lookup | None = None
        self._closed = False
        self._at_end: Callable[[], None] = lambda: None
        self._leave_alone_until = 0.0
        self._thread = threading.Thread(target=self._run, name="netra-bells", daemon=True)
        self._thread.start()

    def ring(self, queues: Collection[str], lookup: Lookup) -> None:
        with self._changed:
            self._rung.update(queues)
            self._lookup = lookup
            self._changed.notify()

    def close(self, timeout_seconds: float, at_end: Callable[[], None]) -> None:
        with self._changed:
            self._closed, self._at_end = True, at_end
            self._changed.notify()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while (rung := self._next()) is not None:
                queues, lookup = rung
                try:
                    runner.run(self._ring_others(lookup(queues)))
                except Exception as error:
                    reason = str(error) or type(error).__name__
                    logger.warning("bells not rung: %s", reason, extra={"action": "bell_failed"})
        self._at_end()

    def _next(self) -> tuple[set[str], Lookup] | None:
        with self._changed:
            while not self._rung and not self._closed:
                self._changed.wait()
            rung, self._rung = self._rung, set()
            return (rung, self._lookup) if rung and self._lookup is not None else None

    async def _ring_others(self, servers: Mapping[str, Collection[str]]) -> None:
        layer = get_layer()
        others = {server: sorted(held) for server, held in servers.items() if server not in _local}
        if layer is None or not others or time.monotonic() < self._leave_alone_until:
            return
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                for server, held in others.items():
                    for start in range(0, len(held), QUEUES_PER_BELL):
                        bell = {"type": BELL, "queues": held[start : start + QUEUES_PER_BELL]}
                        await layer.group_send(group_of(server), bell)
        except Exception:
            self._leave_alone_until = time.monotonic() + LEAVE_ALONE_SECONDS
            raise


_ringer = PerProcess(_Ringer)


def get_layer() -> Any:
    """The channel layer that the settings name, or None: then delivery lives from the poll."""
    try:
        return get_channel_layer(conf.get("CHANNEL_LAYER"))
    except InvalidChannelLayerError as error:
        logger.warning("no channel layer: %s", error, extra={"action": "layer_missing"})
        return None


# --- the server's side ---------------------------------------------------------------------------------------------


async def listen(server_id: str, on_bell: Callable[[Collection[str]], None], on_joined: Callable[[], None]) -> None:
    """Call ``on_bell`` for the queues of each bell to this server, until cancelled. Without a layer, return.

    ``on_joined`` is called whenever the group was joined (again): what was rung before may have been missed.
    """
    backoff = FIRST_BACKOFF_SECONDS
    while (layer := get_layer()) is not None:
        started = time.monotonic()
        try:
            await _listen_once(layer, group_of(server_id), on_bell, on_joined)
        except Exception as error:
            backoff = (
                0.1 if time.monotonic() - started > JOIN_AGAIN_SECONDS else min(backoff * 2, LONGEST_BACKOFF_SECONDS)
            )
            logger.warning(
                "no bells from the channel layer, polling: %s",
                str(error) or type(error).__name__,
                extra={"action": "layer_failed"},
            )
            await asyncio.sleep(backoff * random.uniform(0.5, 1))


async def _listen_once(
    layer: Any, group: str, on_bell: Callable[[Collection[str]], None], on_joined: Callable[[], None]
) -> None:
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    on_joined()
    keeping = asyncio.create_task(_keep_joined(layer, group, channel))
    try:
        while True:
            message = await layer.receive(channel)
            if message.get("type") == BELL:
                on_bell([name for name in message.get("queues", ()) if isinstance(name, str)])
    finally:
        keeping.cancel()


async def _keep_joined(layer: Any, group: str, channel: str) -> None:
    """A group forgets its members after ``group_expiry``, and a layer that lost its data forgets them at once."""
    while True:
        await asyncio.sleep(min(JOIN_AGAIN_SECONDS, getattr(layer, "group_expiry", 86_400) / 3))
        try:
            await layer.group_add(group, channel)
        except Exception as error:
            logger.debug("group not joined again: %s", error, extra={"action": "layer_failed"})


def patient(
    receive: Callable[[], Awaitable[Any]], rejoin: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[Any]]:
    """A consumer's ``channel_receive`` that outlives its layer: without it, an error there ends the connection.

    After an error it waits, with backoff, calls ``rejoin`` (the layer may have forgotten the consumer's groups), and
    goes on receiving.
    """

    @functools.wraps(receive)
    async def receive_patiently() -> Any:
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            try:
                return await receive()
            except Exception as error:
                logger.warning(
                    "a consumer cannot receive from the channel layer: %s",
                    str(error) or type(error).__name__,
                    extra={"action": "layer_failed"},
                )
            backoff = await _wait_and_rejoin(backoff, rejoin)

    return receive_patiently


async def _wait_and_rejoin(backoff: float, rejoin: Callable[[], Awaitable[None]]) -> float:
    while True:
        await asyncio.sleep(backoff * random.uniform(0.5, 1))
        backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
        try:
            await rejoin()
        except Exception as error:
            logger.debug("groups not joined again: %s", error, extra={"action": "layer_failed"})
        else:
            return backoff
