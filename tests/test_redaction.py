"""What people are shown of payloads, with a project's REDACT and without."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from netra_queue import redaction
from netra_queue.core.message import Payload
from netra_queue.core.wire import bytes_payload, text_payload

SENT = text_payload('{"name":"Jörg","card":"4711"}')


def without_card(queue: str, data: Any) -> Any:
    return {**data, "card": f"hidden in {queue}"} if isinstance(data, dict) else data


def broken(queue: str, data: Any) -> Any:
    raise ValueError(f"cannot read {data}")


def no_json(queue: str, data: Any) -> Any:
    return {queue, str(data)}


@pytest.fixture(autouse=True)
def _plain(settings: Any) -> None:
    settings.NETRA_QUEUE = {}


def use(settings: Any, hook: Any) -> None:
    settings.NETRA_QUEUE = {"REDACT": f"{__name__}.{hook.__name__}"}


def test_without_one_it_is_what_was_sent() -> None:
    assert redaction.shown_data("user.1", SENT) == {"name": "Jörg", "card": "4711"}
    assert redaction.shown_text("user.1", SENT) == '{\n  "name": "Jörg",\n  "card": "4711"\n}'
    assert redaction.shown_text("user.1", text_payload("plain text")) == "plain text"
    assert redaction.shown_text("user.1", bytes_payload(b"\x00a")) == "b'\\x00a'"


def test_it_says_what_is_shown(settings: Any) -> None:
    use(settings, without_card)
    assert redaction.shown_data("user.1", SENT) == {"name": "Jörg", "card": "hidden in user.1"}


@pytest.mark.parametrize("hook", [broken, no_json])
def test_one_that_fails_shows_nothing(settings: Any, hook: Any, caplog: pytest.LogCaptureFixture) -> None:
    use(settings, hook)
    assert redaction.shown_data("user.1", SENT) == redaction.HIDDEN
    assert redaction.shown_text("user.1", SENT) == redaction.HIDDEN
    assert "user.1" in caplog.text
    assert "4711" not in caplog.text
    assert not any(record.exc_info for record in caplog.records if record.levelno >= logging.ERROR)


def test_one_that_cannot_be_imported_shows_nothing(settings: Any) -> None:
    settings.NETRA_QUEUE = {"REDACT": "no.such.module"}
    assert redaction.shown_data("user.1", SENT) == redaction.HIDDEN


def test_what_cannot_be_decoded_is_not_shown() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    payload = Payload(SENT.kind, deep, len(deep))
    assert redaction.shown_text("user.1", payload) == redaction.HIDDEN
