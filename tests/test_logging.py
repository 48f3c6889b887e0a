"""Log lines are sentences with an ``action`` for machines, and never hold a payload."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

import netra_queue
from netra_queue import WaitingMessage, maintenance, process, statistics
from netra_queue.core.wire import Ack
from netra_queue.exceptions import QueueFull, StoreUnavailable
from netra_queue.hub import Hub
from netra_queue.stores import current_store
from tests import counts
from tests.making import AdvancingMemoryStore, make_message
from tests.test_architecture import ROOT, sources
from tests.test_hub import connect, play
from tests.waiting import await_until

SECRET = "s3cr3t-p4yl04d"
DIGEST = f"{__name__}.failing_digest"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
LOGGING = (ROOT / "docs/logging.md").read_text()


def failing_digest(messages: Sequence[WaitingMessage]) -> Any:
    raise ValueError("no digest today")


# --- every line has an action --------------------------------------------------------------------------------------


def calls() -> Iterator[tuple[str, ast.Call, ast.Module]]:
    for path in sources():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node, tree


def text(node: ast.expr | None) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def action(call: ast.Call, tree: ast.Module) -> str | None:
    """What a call that logs gives as its action, "" if nothing; None for other calls.

    ``extra`` may have been put into a variable of that name; who complains in another's name is given the action.
    """
    name = ast.unparse(call.func)
    if name in ("complain", "self._complain"):
        return text(call.args[-2] if name == "complain" else call.args[-1]) if len(call.args) > 1 else None
    if name.removeprefix("logger.") not in LEVELS or not name.startswith("logger."):
        return None
    extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
    if isinstance(extra, ast.Name):
        assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign) and node.lineno < call.lineno]
        mine = [node for node in assigned if ast.unparse(node.targets[0]) == extra.id]
        extra = max(mine, key=lambda node: node.lineno).value
    pairs = zip(extra.keys, extra.values, strict=True) if isinstance(extra, ast.Dict) else ()
    return next((text(value) for key, value in pairs if text(key) == "action"), "")


def lines() -> Iterator[tuple[str, str]]:
    for place, call, tree in calls():
        said = action(call, tree)
        is_relayed = place.startswith(("netra_queue/complaints.py", "netra_queue/lingering.py:2"))
        if said is not None and not is_relayed:
            yield place, said


def test_every_line_has_an_action() -> None:
    found = dict(lines())
    assert len(found) > 40
    assert [place for place, said in found.items() if not said] == []


def test_every_action_is_in_the_document_and_no_other() -> None:
    said = {said for _, said in lines()}
    listed = {line.split("`")[1] for line in LOGGING.splitlines() if line.startswith("| `")}
    assert said == listed


# --- no line has a payload -----------------------------------------------------------------------------------------


@pytest.fixture
def store(settings: Any) -> Iterator[AdvancingMemoryStore]:
    settings.NETRA_QUEUE = {
        "STORE": "tests.making.AdvancingMemoryStore",
        "STORE_TIMEOUT_SECONDS": 0.5,
        "POLL_SECONDS": 0.2,
        "POLICIES": {
            "default": {"MAX_MESSAGES": 3, "OVERFLOW": "reject", "UNDELIVERED_SECONDS": 1, "MAX_MESSAGE_BYTES": 100},
            "digest": {"REPLAY": {"NEWEST": 0, "DIGEST": DIGEST}},
        },
    }
    counts.take()
    yield current_store()  # type: ignore[misc]
    process.close()
    counts.take()


def away(*arguments: Any, **options: Any) -> Any:
    raise StoreUnavailable("away")


def send_badly() -> None:
    """All that senders do wrong, and all that overflows, expires and is handed over to nobody."""
    for payload in ({"it": SECRET}, SECRET, 50 * SECRET, {"it": object()}, [float("nan"), SECRET]):
        for options in ({}, {"key": "k"}, {"collapse": "c", "track": True}):
            with suppress(QueueFull, netra_queue.InvalidMessage):
                netra_queue.send("user.1", payload, ttl=5, **options)  # type: ignore[arg-type]
    with pytest.raises(netra_queue.InvalidMessage):
        netra_queue.send_many([("user.1", SECRET, SECRET)])  # type: ignore[list-item]


def test_a_whole_story_without_a_payload_in_the_log(
    store: AdvancingMemoryStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    send_badly()

    async def fails(messages: Any) -> Any:
        raise PermissionError("nobody knows")

    async def played(hub: Hub) -> None:
        link, frames = await connect(hub, "digest")
        await await_until(lambda: any(SECRET in frame for frame in frames))
        hub.carry_out(link, link.connection.send_own(make_message(text=f'"{SECRET}"'), hub.loop.time()))
        with monkeypatch.context() as patch:
            for name in ("read", "ack", "append", "waiting", "record_statistics", "settle", "detach", "returned"):
                patch.setattr(store, name, away)
            hub.carry_out(link, link.connection.receive(Ack(1), hub.loop.time()))
            statistics.ledger.try_to_write()
            hub.ring(["user.1"])
            await hub.poll()
            await asyncio.sleep(0.1)
            hub.release(link, None)
            await asyncio.sleep(1.2)
        refused, frames = await connect(hub, may_deliver=fails)
        await await_until(lambda: "closed 4503" in frames)
        hub.release(refused, None)

    play(played)
    store.advance(3)
    maintenance.hand_over()
    store.advance(10)
    maintenance.sweep()
    store.sweep(10)
    process.close()
    said = {getattr(record, "action", "") for record in caplog.records if record.name.startswith("netra_queue")}
    assert said >= {"replay_failed", "read_failed", "persist_failed", "permission_failed", "hand_over_unheard"}
    formatter = logging.Formatter()
    for record in caplog.records:
        assert SECRET not in formatter.format(record)
        assert SECRET not in repr(vars(record) | {"exc_info": None, "asctime": ""}), record
