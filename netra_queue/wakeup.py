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
import atexit
import logging
import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from channels.exceptions import InvalidChannelLayerError
from channels.layers import BaseChannelLayer, get_channel_layer

from . import conf
from .cancelling import cancellable
from .hearing import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS
from .threads import PerProcess

logger = logging.getLogger(__name__)

Lookup = Callable[[Collection[str]], Mapping[str, Collection[str]]]
Look = Collection[str] | None  # names of queues; None: look at all of them
BELL = "netra.bell"
ARRIVED = "netra.arrived"
SEND_TIMEOUT_SECONDS = 2.0
LEAVE_ALONE_SECONDS = 1.0
JOIN_AGAIN_SECONDS = 30.0
QUEUES_PER_BELL = 200
PAUSE_SECONDS = 0.005  # between bells: a bell costs a sender as much as its message, and the next one tells of both


MOST_QUEUES = 2000  # a server is told to look at everything, rather than of more than these
EXIT_SECONDS = 1.0  # how long the end of a process waits for its last bells


def group_of(server_id: str) -> str:
    return f"netra.{server_id}"


# --- hubs of this process ------------------------------------------------------------------------------------------

_local: dict[str, Callable[[Look], None]] = {}
os.register_at_fork(after_in_child=_local.clear)  # they are the parent's


def register_local(server_id: str, callback: Callable[[Look], None]) -> None:
    """Have ``callback`` called, from any thread, with the names of queues that are rung in this process, or None."""
    _local[server_id] = callback


def unregister_local(server_id: str) -> None:
    _local.pop(server_id, None)


# --- the sender's side ---------------------------------------------------------------------------------------------


def ring(queues: Collection[str], lookup: Lookup, holders: Mapping[str, Collection[str]] | None = None) -> None:
    """Tell those who hold connections of these queues to look. Returns at once; thread-safe; never raises.

    ``lookup`` gives the servers that hold them, by server id; it is called in another thread, once for all queues
    that were rung meanwhile. ``holders``: the same where it is known already.
    """
    for callback in list(_local.values()):
        callback(queues)
    try:
        if holders is None:
            _ringer.get().ring(queues, lookup, is_told=True)
        elif others := {server: held for server, held in holders.items() if server not in _local}:
            _ringer.get().tell(others)
    except RuntimeError:  # no thread can be started any more: the interpreter is shutting down
        logger.debug("bell not rung at shutdown", extra={"action": "bell_dropped"})


def ring_group(group: str, lookup: Lookup) -> None:
    """``ring`` for all that ``lookup`` finds for this group, in this process as well."""
    try:
        _ringer.get().ring([group], lookup, is_told=False)
    except RuntimeError:
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
        self._rung: dict[tuple[Lookup, bool], set[str]] = {}
        self._held: dict[str, set[str]] = defaultdict(set)
        self._closed = False
        self._at_end: Callable[[], None] = lambda: None
        self._leave_alone_until = 0.0
        self._thread = threading.Thread(target=self._run, name="netra-bells", daemon=True)
        self._thread.start()

    def ring(self, names: Collection[str], lookup: Lookup, *, is_told: bool) -> None:
        """``is_told``: the hubs of this process have been told already."""
        with self._changed:
            self._rung.setdefault((lookup, is_told), set()).update(names)
            self._changed.notify()

    def tell(self, holders: Mapping[str, Collection[str]]) -> None:
        """Ring for these servers."""
        with self._changed:
            for server, names in holders.items():
                self._held[server].update(names)
            self._changed.notify()

    def close(self, timeout_seconds: float, at_end: Callable[[], None]) -> None:
        with self._changed:
            self._closed, self._at_end = True, at_end
            self._changed.notify()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while any(work := self._next()):
                rung, held = work
                for (lookup, is_told), names in rung.items():
                    self._ring(runner, partial(lookup, names), is_told)
                if held:
                    self._ring(runner, lambda: held, is_told=True)  # noqa: B023  called at once
                time.sleep(PAUSE_SECONDS)
        self._at_end()

    def _ring(self, runner: asyncio.Runner, find: Callable[[], Mapping[str, Collection[str]]], is_told: bool) -> None:
        try:
            servers = find()
            if not is_told:
                _ring_local(servers)
            runner.run(self._ring_others(servers))
        except Exception as error:
            reason = str(error) or type(error).__name__
            logger.warning("bells not rung: %s", reason, extra={"action": "bell_failed"})

    def _next(self) -> tuple[dict[tuple[Lookup, bool], set[str]], dict[str, set[str]]]:
        """What was rung meanwhile, without and with its holders; nothing: the end."""
        with self._changed:
            while not self._rung and not self._held and not self._closed:
                self._changed.wait()
            rung, self._rung = self._rung, {}
            held, self._held = self._held, defaultdict(set)
            return rung, held

    async def _ring_others(self, servers: Mapping[str, Collection[str]]) -> None:
        layer = get_layer()
        others = {server: sorted(held) for server, held in servers.items() if server not in _local}
        if layer is None or not others or time.monotonic() < self._leave_alone_until:
            return
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                for server, held in others.items():
                    for bell in _bells(held):
                        await layer.group_send(group_of(server), bell)
        except Exception:
            self._leave_alone_until = time.monotonic() + LEAVE_ALONE_SECONDS
            raise


async def tell_arrived(queue: str, servers: Collection[str]) -> None:
    """Tell these servers that a client of this queue has come to another one. For an event loop that uses the layer.

    Never raises what the layer raises: the servers' polls find out too.
    """
    layer = get_layer()
    try:
        async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
            for server in servers if layer is not None else ():
                await layer.group_send(group_of(server), {"type": ARRIVED, "queues": [queue]})
    except Exception as error:
        reason = str(error) or type(error).__name__
        logger.warning("arrival not told: %s", reason, extra={"action": "bell_failed"})


def _ring_local(servers: Mapping[str, Collection[str]]) -> None:
    for server, held in servers.items():
        if (callback := _local.get(server)) is not None:
            callback(held if len(held) <= MOST_QUEUES else None)


def _bells(held: Sequence[str]) -> list[dict[str, Any]]:
    if len(held) > MOST_QUEUES:
        return [{"type": BELL, "everything": True}]
    runs = range(0, len(held), QUEUES_PER_BELL)
    return [{"type": BELL, "queues": held[start : start + QUEUES_PER_BELL]} for start in runs]


def _make_ringer() -> _Ringer:
    """A short process (a command, a script) rings before it ends: see ``process`` for when that has to be."""
    getattr(threading, "_register_atexit", atexit.register)(partial(close, EXIT_SECONDS))
    return _Ringer()


_ringer = PerProcess(_make_ringer)


def get_layer() -> Any:
    """The channel layer that the settings name, or None: then delivery lives from the poll."""
    try:
        return get_channel_layer(conf.get("CHANNEL_LAYER"))
    except InvalidChannelLayerError as error:
        logger.warning("no channel layer: %s", error, extra={"action": "layer_missing"})
        return None


# --- the server's side ---------------------------------------------------------------------------------------------


async def listen(
    server_id: str,
    on_bell: Callable[[Look], None],
    on_joined: Callable[[], None],
    on_arrived: Callable[[Collection[str]], None] = lambda queues: None,
) -> None:
    """Call ``on_bell`` for the queues of each bell to this server (None: all), until cancelled.

    Without a layer, it returns.
    ``on_joined`` is called whenever the group was joined (again): what was rung before may have been missed.
    ``on_arrived`` is called for queues whose client has come to another server.
    """

    def on_message(message: Mapping[str, Any]) -> None:
        names = [name for name in message.get("queues", ()) if isinstance(name, str)]
        if message.get("type") == BELL:
            on_bell(None if message.get("everything") else names)
        elif message.get("type") == ARRIVED:
            on_arrived(names)

    backoff = FIRST_BACKOFF_SECONDS
    while (layer := get_layer()) is not None:
        started = time.monotonic()
        try:
            await _listen_once(layer, group_of(server_id), on_message, on_joined)
        except Exception as error:
            worked_long = time.monotonic() - started > JOIN_AGAIN_SECONDS
            backoff = FIRST_BACKOFF_SECONDS if worked_long else min(backoff * 2, LONGEST_BACKOFF_SECONDS)
            logger.warning(
                "no bells from the channel layer, polling: %s",
                str(error) or type(error).__name__,
                extra={"action": "layer_failed"},
            )
            await asyncio.sleep(backoff * random.uniform(0.5, 1))


async def _listen_once(
    layer: Any, group: str, on_message: Callable[[Mapping[str, Any]], None], on_joined: Callable[[], None]
) -> None:
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    on_joined()
    keeping = asyncio.create_task(_keep_joined(layer, group, channel))
    try:
        while True:
            on_message(await cancellable(layer.receive(channel)))
    finally:
        keeping.cancel()
        with suppress(Exception):
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                await layer.group_discard(group, channel)


async def _keep_joined(layer: Any, group: str, channel: str) -> None:
    """A group forgets its members after ``group_expiry``, and a layer that lost its data forgets them at once."""
    while True:
        await asyncio.sleep(min(JOIN_AGAIN_SECONDS, getattr(layer, "group_expiry", 86_400) / 3))
        try:
            await layer.group_add(group, channel)
        except Exception as error:
            logger.debug("group not joined again: %s", error, extra={"action": "layer_failed"})


class GroupMemory:
    """A consumer's channel layer that remembers which groups the consumer has joined through it.

    For everything else it is that layer: attributes are read from and set on it, and it is equal to it.
    """

    _layer: Any
    _joined: dict[tuple[str, str], None]

    def __init__(self, layer: Any) -> None:
        vars(self).update(_layer=layer, _joined={})

    @staticmethod
    def of(layer: Any) -> Any:
        """A memory for a channel layer; anything else (None, a test's double) as it is."""
        return GroupMemory(layer) if isinstance(layer, BaseChannelLayer) else layer

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._layer)

    def __getattr__(self, name: str) -> Any:
        if name in ("_layer", "_joined"):  # a copy that is being made has neither yet
            raise AttributeError(name)
        return getattr(self._layer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._layer, name, value)

    def __eq__(self, other: object) -> bool:
        return bool(self._layer == (other._layer if type(other) is GroupMemory else other))

    def __hash__(self) -> int:
        return hash(self._layer)

    async def group_add(self, group: str, channel: str) -> None:
        await self._layer.group_add(group, channel)
        self._joined[group, channel] = None

    async def group_discard(self, group: str, channel: str) -> None:
        self._joined.pop((group, channel), None)
        await self._layer.group_discard(group, channel)

    def has_joined(self, channel: str) -> bool:
        """Whether this channel is in any group."""
        return any(member == channel for _, member in self._joined)

    async def leave(self, channel: str) -> None:
        """Have this channel leave its groups; what they sent it before is still to be received. Raises what the layer
        raises."""
        for group, member in list(self._joined):
            if member == channel:
                await self.group_discard(group, channel)

    async def rejoin(self) -> None:
        """Join them again. Raises what the layer raises."""
        for group, channel in list(self._joined):
            await self._layer.group_add(group, channel)
