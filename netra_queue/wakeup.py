"""Bells: a content-free "these queues have something" to the server processes that hold their connections.

The only file that sends through channel layers. A bell may be lost, doubled or late: the hub's poll is what makes
delivery certain, the bell makes it quick. So nothing in here ever raises towards a sender, and no layer is waited for.

What nobody keeps (``give``: see ``passing``) goes the same way, but with its content, and to all servers.

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
from functools import partial
from typing import Any

from channels.exceptions import InvalidChannelLayerError
from channels.layers import get_channel_layer

from . import conf
from .hearing import FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS
from .joined import JOIN_AGAIN_SECONDS, listen_once
from .threads import PerProcess

logger = logging.getLogger(__name__)

Lookup = Callable[[Collection[str]], Mapping[str, Collection[str]]]
Note = dict[str, Any]  # a message, as channel layers carry it
Look = Collection[str] | None  # names of queues; None: look at all of them
BELL = "netra.bell"
ARRIVED = "netra.arrived"
CONTROLS = "netra.controls"
GIVEN = "netra.given"
DESCRIBE = "netra.describe"
EVERYBODY = "netra.everybody"  # the group of all servers
SEND_TIMEOUT_SECONDS = 2.0
LEAVE_ALONE_SECONDS = 1.0
QUEUES_PER_BELL = 200
NOTES_PER_SEND = 50
MOST_NOTES = 10_000  # that wait for the layer; it is the layer that is away when there are so many
PAUSE_SECONDS = 0.001  # between bells: a bell costs a sender as much as its message, and the next one tells of both


MOST_QUEUES = 2000  # a server is told to look at everything, rather than of more than these
EXIT_SECONDS = 1.0  # how long the end of a process waits for its last bells


def group_of(server_id: str) -> str:
    return f"netra.{server_id}"


# --- hubs of this process ------------------------------------------------------------------------------------------

_local: dict[str, Callable[[Look], None]] = {}
_local_controls: dict[str, Callable[[], None]] = {}
_local_given: dict[str, Callable[[Sequence[Note]], None]] = {}
_local_describe: dict[str, Callable[[Collection[str]], None]] = {}
os.register_at_fork(after_in_child=_local.clear)  # they are the parent's
os.register_at_fork(after_in_child=_local_controls.clear)
os.register_at_fork(after_in_child=_local_given.clear)
os.register_at_fork(after_in_child=_local_describe.clear)


def register_local(
    server_id: str,
    callback: Callable[[Look], None],
    on_controls: Callable[[], None] = lambda: None,
    on_given: Callable[[Sequence[Note]], None] = lambda notes: None,
    on_describe: Callable[[Collection[str]], None] = lambda queues: None,
) -> None:
    """Have ``callback`` called, from any thread, with the names of queues that are rung in this process, or None.

    ``on_controls`` is called when an operator has changed something in this process, ``on_given`` with what is given,
    ``on_describe`` for queues that an operator looks at.
    """
    _local[server_id], _local_controls[server_id], _local_given[server_id] = callback, on_controls, on_given
    _local_describe[server_id] = on_describe


def unregister_local(server_id: str) -> None:
    _local.pop(server_id, None)
    _local_controls.pop(server_id, None)
    _local_given.pop(server_id, None)
    _local_describe.pop(server_id, None)


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


def ring_controls(find: Callable[[], Collection[str]]) -> None:
    """Tell all servers that an operator has changed something: those of this process now, others soon.

    ``find`` gives the ids of the living servers; it is called in another thread. Returns at once; never raises.
    """
    for callback in list(_local_controls.values()):
        callback()

    def lookup(names: Collection[str]) -> Mapping[str, Collection[str]]:
        return dict.fromkeys(find(), names)

    try:
        _ringer.get().ring([CONTROLS], lookup, is_told=True)
    except RuntimeError:
        logger.debug("bell not rung at shutdown", extra={"action": "bell_dropped"})


def give(notes: Sequence[Note]) -> None:
    """Hand these to all servers: those of this process now, others soon, in this order. At most once.

    Returns at once; thread-safe; never raises.
    """
    for callback in list(_local_given.values()):
        callback(notes)
    try:
        _ringer.get().give(notes)
    except RuntimeError:
        logger.debug("not given at shutdown", extra={"action": "bell_dropped"})


def ask_details(holders: Mapping[str, Collection[str]]) -> None:
    """Have these servers say in the store how their connections of these queues stand. As ``ring``: never waits."""
    for server in holders.keys() & _local_describe.keys():
        _local_describe[server](holders[server])
    others = [(server, sorted(held)) for server, held in holders.items() if server not in _local_describe]
    messages = [(group_of(server), {"type": DESCRIBE, "queues": names}) for server, names in others]
    try:
        if messages:
            _ringer.get().post(messages)
    except RuntimeError:
        logger.debug("not asked at shutdown", extra={"action": "bell_dropped"})


def close(timeout_seconds: float, at_end: Callable[[], None] = lambda: None) -> None:
    """Ring what is waiting, and end the thread, with ``at_end`` as its last act. The next use makes a new one."""
    ringer = _ringer.take()
    if ringer is not None:
        ringer.close(timeout_seconds, at_end)


_Work = tuple[dict[tuple[Lookup, bool], set[str]], dict[str, set[str]], list[Note], list[tuple[str, Note]]]


class _Ringer:
    """One thread with an event loop of its own, so that no sender opens a connection to the layer for each bell."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rung: dict[tuple[Lookup, bool], set[str]] = {}
        self._held: dict[str, set[str]] = defaultdict(set)
        self._notes: list[Note] = []
        self._posts: list[tuple[str, Note]] = []
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

    def give(self, notes: Sequence[Note]) -> None:
        with self._changed:
            if len(self._notes) + len(notes) <= MOST_NOTES:
                self._notes += notes
                self._changed.notify()
                return
        logger.warning("not given: too much waits for the channel layer", extra={"action": "bell_failed"})

    def post(self, messages: Sequence[tuple[str, Note]]) -> None:
        """Send these to these groups, as they are."""
        with self._changed:
            self._posts += messages[: MOST_NOTES - len(self._posts)]
            self._changed.notify()

    def close(self, timeout_seconds: float, at_end: Callable[[], None]) -> None:
        with self._changed:
            self._closed, self._at_end = True, at_end
            self._changed.notify()
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while any(work := self._next()):
                rung, held, notes, posts = work
                if posts:
                    self._attempt(lambda: runner.run(self._send_all(posts)))  # noqa: B023  called at once
                if notes:
                    self._attempt(lambda: runner.run(self._pass_on(notes)))  # noqa: B023  called at once
                for (lookup, is_told), names in rung.items():
                    self._ring(runner, partial(lookup, names), is_told)
                if held:
                    self._ring(runner, lambda: held, is_told=True)  # noqa: B023  called at once
                time.sleep(PAUSE_SECONDS)
        self._at_end()

    def _ring(self, runner: asyncio.Runner, find: Callable[[], Mapping[str, Collection[str]]], is_told: bool) -> None:
        def attempt() -> None:
            servers = find()
            if not is_told:
                _ring_local(servers)
            runner.run(self._ring_others(servers))

        self._attempt(attempt)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            reason = str(error) or type(error).__name__
            logger.warning("bells not rung: %s", reason, extra={"action": "bell_failed"})

    def _next(self) -> _Work:
        """What was rung meanwhile, without and with its holders, given, and posted; nothing: the end."""
        with self._changed:
            while not (self._rung or self._held or self._notes or self._posts or self._closed):
                self._changed.wait()
            rung, self._rung = self._rung, {}
            held, self._held = self._held, defaultdict(set)
            notes, self._notes = self._notes, []
            posts, self._posts = self._posts, []
            return rung, held, notes, posts

    async def _ring_others(self, servers: Mapping[str, Collection[str]]) -> None:
        others = {server: sorted(held) for server, held in servers.items() if server not in _local}
        await self._send_all([(group_of(server), bell) for server, held in others.items() for bell in _bells(held)])

    async def _pass_on(self, notes: Sequence[Note]) -> None:
        parts = [notes[start : start + NOTES_PER_SEND] for start in range(0, len(notes), NOTES_PER_SEND)]
        await self._send_all([(EVERYBODY, {"type": GIVEN, "notes": part, "but": list(_local)}) for part in parts])

    async def _send_all(self, messages: Sequence[tuple[str, dict[str, Any]]]) -> None:
        layer = get_layer()
        if layer is None or not messages or time.monotonic() < self._leave_alone_until:
            return
        try:
            async with asyncio.timeout(SEND_TIMEOUT_SECONDS):
                for group, message in messages:
                    await layer.group_send(group, message)
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
    if list(held) == [CONTROLS]:  # of ``ring_controls``: nothing else is looked up together with it
        return [{"type": CONTROLS}]
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


async def echo(message: Mapping[str, Any]) -> Any:
    """What comes back through the channel layer when this is sent to oneself; None: there is no layer. Raises what the
    layer raises, and waits as long as it does."""
    if (layer := get_layer()) is None:
        return None
    channel = await layer.new_channel()
    await layer.send(channel, dict(message))
    return await layer.receive(channel)


# --- the server's side ---------------------------------------------------------------------------------------------


async def listen(
    server_id: str,
    on_bell: Callable[[Look], None],
    on_joined: Callable[[], None],
    on_arrived: Callable[[Collection[str]], None] = lambda queues: None,
    on_controls: Callable[[], None] = lambda: None,
    on_given: Callable[[Sequence[Note]], None] = lambda notes: None,
    on_describe: Callable[[Collection[str]], None] = lambda queues: None,
) -> None:
    """Call ``on_bell`` for the queues of each bell to this server (None: all), until cancelled.

    Without a layer, it returns.
    ``on_joined`` is called whenever the group was joined (again): what was rung before may have been missed.
    ``on_arrived`` is called for queues whose client has come to another server, ``on_controls`` when an operator has
    changed something, ``on_given`` with what is given to all servers, ``on_describe`` for queues that an operator looks
    at.
    """

    deals = {
        BELL: lambda message: on_bell(None if message.get("everything") else _names(message)),
        ARRIVED: lambda message: on_arrived(_names(message)),
        CONTROLS: lambda message: on_controls(),
        GIVEN: lambda message: on_given(() if server_id in message.get("but", ()) else message.get("notes", ())),
        DESCRIBE: lambda message: on_describe(_names(message)),
    }

    def on_message(message: Mapping[str, Any]) -> None:
        deals.get(str(message.get("type")), lambda message: None)(message)

    backoff = FIRST_BACKOFF_SECONDS
    while (layer := get_layer()) is not None:
        started = time.monotonic()
        try:
            await listen_once(layer, (group_of(server_id), EVERYBODY), on_message, on_joined)
        except Exception as error:
            worked_long = time.monotonic() - started > JOIN_AGAIN_SECONDS
            backoff = FIRST_BACKOFF_SECONDS if worked_long else min(backoff * 2, LONGEST_BACKOFF_SECONDS)
            reason = str(error) or type(error).__name__
            logger.warning("no bells from the channel layer, polling: %s", reason, extra={"action": "layer_failed"})
            await asyncio.sleep(backoff * random.uniform(0.5, 1))


def _names(message: Mapping[str, Any]) -> list[str]:
    return [name for name in message.get("queues", ()) if isinstance(name, str)]
