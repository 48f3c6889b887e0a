"""What only a person asks for: the system checks, a real message, a real bell. ``manage.py netra_queue doctor``.

The message has a queue of its own, goes straight to the store, so that the queue is not made known to it, and is gone
at the end. The bell takes the way of all bells: through the thread that rings them, to a group that a listener has
joined.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from itertools import pairwise

from django.core.checks import CheckMessage, run_checks
from django.core.checks.messages import ERROR
from django.db import connections
from django.db.migrations.loader import MigrationLoader

from . import conf, health, wakeup
from .cancelling import cancel_all
from .control_checks import TAG
from .core.actions import ReadRequest
from .core.message import Draft, Outcome, Priority
from .core.policy_values import build
from .core.wire import text_payload
from .exceptions import StoreUnavailable
from .health import DATABASE_PAGE, LAYER_PAGE, Finding, Found, Health, Probe, in_thread, with_store
from .ids import new_id
from .stores.base import Store

LIMIT_SECONDS = 10.0
TTL_SECONDS = 60.0  # if it cannot be removed, the sweep does it
TEXT = '"netra_queue doctor"'
APP = "netra_queue"
CHECKS_PAGE = "docs/checks.md"
INSTALLATION_PAGE = "docs/installation.md"
ACK_TIMES = 5
LISTEN_SECONDS = 0.001


async def examine(limit_seconds: float = LIMIT_SECONDS) -> list[Finding]:
    """Everything there is to try, what is cheap to explain first. Never raises."""
    found = [*await check(limit_seconds), *(await health.examine(limit_seconds)).findings]
    return [*found, *[await trial.run(limit_seconds) for trial in TRIALS]]


# --- the system checks ---------------------------------------------------------------------------------------------


async def check(limit_seconds: float) -> list[Finding]:
    """One finding for each thing that the system checks have to say, or one that they have nothing to say."""
    messages: list[CheckMessage] = []

    async def checked() -> Found:
        messages.extend(await in_thread("checks", _run_checks))
        return Found(Health.OK, "the system checks find nothing")

    probe = Probe(name="checks", page=CHECKS_PAGE, late="the system checks did not end", work=checked)
    whole = await probe.run(limit_seconds)
    return [_finding(message, whole.seconds) for message in messages] or [whole]


def _run_checks() -> list[CheckMessage]:
    """Those of ours that are not silenced, with those that look into databases."""
    try:
        messages = run_checks(tags=[TAG], databases=list(connections))
    finally:
        connections.close_all()  # of this thread
    return [message for message in messages if str(message.id).startswith(TAG) and not message.is_silenced()]


def _finding(message: CheckMessage, seconds: float) -> Finding:
    state = Health.FAILED if message.is_serious(ERROR) else Health.WARN
    text = f"{message.msg} {message.hint}" if message.hint else str(message.msg)
    return Finding(name=str(message.id), health=state, seconds=seconds, text=text, page=CHECKS_PAGE)


# --- the tables ----------------------------------------------------------------------------------------------------


async def look_at_tables() -> Found:
    return await with_store("tables", _find_unapplied)


def _find_unapplied(store: Store) -> Found:
    alias = getattr(store, "using", None)
    if alias is None:
        return Found(Health.OK, "the store has none")
    loader = MigrationLoader(connections[alias])
    missing = sorted(name for app, name in loader.disk_migrations.keys() - loader.applied_migrations if app == APP)
    if missing:
        return Found(Health.FAILED, f"manage.py migrate has not been run for {', '.join(missing)}")
    return Found(Health.OK, "all migrations have been applied")


# --- a message -----------------------------------------------------------------------------------------------------


async def try_message() -> Found:
    return await with_store("message", _pass_message)


def _pass_message(store: Store) -> Found:
    """With the built-in policy: no operator's limits, no dead letter, nothing to hand over."""
    queue, policy = f"netra-doctor.{new_id()}", build("doctor", conf.POLICY_DEFAULTS, conf.longest_ttl())
    draft = Draft(
        queue=queue, id=new_id(), payload=text_payload(TEXT), priority=Priority.NORMAL, ttl_seconds=TTL_SECONDS
    )
    times = [time.monotonic()]
    positions: set[int] = set()
    try:
        (appended,) = store.append([draft], {queue: policy})
        times.append(time.monotonic())
        (batch,) = store.read([(queue, ReadRequest(10, policy.max_message_bytes, frozenset()))])
        times.append(time.monotonic())
        positions = {message.position for message in batch.messages}
        if appended.outcome is not Outcome.QUEUED or [message.id for message in batch.messages] != [draft.id]:
            return Found(Health.FAILED, "the store took a message, and did not give it back")
        left = _ack(store, queue, positions)
        times.append(time.monotonic())
        if left or store.stat(queue).messages:
            return Found(Health.FAILED, "a message that was acknowledged is still there")
        positions = set()
    finally:
        with suppress(StoreUnavailable):
            _ack(store, queue, positions)
    written, read, acked = (f"{(after - before) * 1000:.1f} ms" for before, after in pairwise(times))
    return Found(Health.OK, f"written in {written}, read in {read}, acknowledged in {acked}")


def _ack(store: Store, queue: str, positions: set[int]) -> set[int]:
    """Returns those that are still in another transaction's hands after some time."""
    for _ in range(ACK_TIMES):
        if not positions:
            break
        positions = store.ack({queue: positions}).get(queue, set())
    return positions


# --- a bell --------------------------------------------------------------------------------------------------------


async def try_bell() -> Found:
    if wakeup.get_layer() is None:
        return Found(Health.WARN, health.NO_LAYER)
    server, queue = f"doctor-{new_id()}", f"netra-doctor.{new_id()}"
    heard, joined = asyncio.Event(), asyncio.Event()
    listening = asyncio.create_task(wakeup.listen(server, lambda look: heard.set(), joined.set))
    try:
        await joined.wait()
        began = time.monotonic()
        wakeup.ring([queue], lambda queues: {}, {server: [queue]})
        while not heard.is_set():  # noqa: ASYNC110  the in-memory layer does not wake a loop of another thread
            await asyncio.sleep(LISTEN_SECONDS)
    finally:
        await cancel_all([listening])
    return Found(Health.OK, f"rung and heard in {(time.monotonic() - began) * 1000:.1f} ms")


TRIALS = (
    Probe(name="tables", page=INSTALLATION_PAGE, late="no answer", work=look_at_tables),
    Probe(name="message", page=DATABASE_PAGE, late="not written, read and acknowledged", work=try_message),
    Probe(name="bell", page=LAYER_PAGE, late="not heard", work=try_bell),
)
