"""permission: what a consumer's answer means."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from netra_queue import Priority, WaitingMessage, permission
from netra_queue.core.waiting import waiting
from netra_queue.core.wire import bytes_payload, text_payload
from tests.making import NOON, make_message

MESSAGES = [make_message(position, id=f"m{position}") for position in (1, 2, 3)]


def asked(answer: Any, seconds: float = 5) -> tuple[list[str], list[str]]:
    async def may_deliver(messages: Sequence[WaitingMessage]) -> Iterable[WaitingMessage | str]:
        found: Any = answer(messages) if callable(answer) else answer
        return await found if inspect.isawaitable(found) else found  # type: ignore[no-any-return]

    allowed, withheld = asyncio.run(permission.ask(may_deliver, MESSAGES, seconds))
    return [message.id for message in allowed], [message.id for message in withheld]


def test_messages_and_ids_in_any_order_and_kind_of_iterable() -> None:
    assert asked(lambda messages: messages) == (["m1", "m2", "m3"], [])
    assert asked(lambda messages: [messages[2], "m1"]) == (["m1", "m3"], ["m2"])
    assert asked(lambda messages: (m.id for m in messages if m.id != "m1")) == (["m2", "m3"], ["m1"])
    assert asked({"m2", "unknown"}) == (["m2"], ["m1", "m3"])
    assert asked([]) == ([], ["m1", "m2", "m3"])


@pytest.mark.parametrize("answer", [None, True, "m1", b"m1", [1], [None], [MESSAGES[0]]])
def test_what_names_no_messages_withholds_none(answer: Any) -> None:
    with pytest.raises(TypeError, match="queue_may_deliver"):
        asked(answer)


def test_it_has_a_time() -> None:
    with pytest.raises(TimeoutError):
        asked(lambda messages: asyncio.sleep(60), seconds=0.01)


def test_nothing_is_not_asked_about() -> None:
    async def never(messages: Sequence[WaitingMessage]) -> Iterable[WaitingMessage | str]:
        raise AssertionError

    assert asyncio.run(permission.ask(never, [], 1)) == ([], [])


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (text_payload('{"a": [1, "ü"]}'), {"a": [1, "ü"]}),
        (text_payload("no JSON"), "no JSON"),
        (bytes_payload(b"\x00\xff"), b"\x00\xff"),
    ],
)
def test_what_the_projects_code_sees(payload: Any, data: Any) -> None:
    message = type(MESSAGES[0])(position=1, id="a", payload=payload, priority=Priority.HIGH, created_at=NOON)
    seen = waiting(message)
    assert (seen.id, seen.priority, seen.sent_at, seen.data) == ("a", Priority.HIGH, NOON, data)
    assert str(data) not in repr(seen), "payloads do not get into logs"
