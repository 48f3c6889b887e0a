"""core.wire: payloads there and back, and client frames, good and bad. The frames themselves: test_golden."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netra_queue.core import wire
from netra_queue.core.message import PayloadKind
from tests.making import make_message

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(TEXT)
def test_text_payload_there_and_back(text: str) -> None:
    payload = wire.text_payload(text)
    assert wire.plain_frame(payload) == text
    assert payload.size == len(payload.text.encode())


@given(st.binary())
def test_bytes_payload_there_and_back(data: bytes) -> None:
    payload = wire.bytes_payload(data)
    assert (payload.kind, payload.size) == (PayloadKind.BYTES, len(payload.text))
    assert wire.plain_frame(payload) == data


@given(JSON, st.booleans())
def test_json_goes_into_the_frame_as_it_is(value: object, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)
    payload = wire.text_payload(text)
    assert (payload.kind, payload.text) == (PayloadKind.JSON, text)
    frame = json.loads(wire.messages(1, [(make_message(text=text), False)]))
    assert frame["messages"][0]["data"] == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{}", PayloadKind.JSON),
        (" [1]\n", PayloadKind.JSON),
        ('"a"', PayloadKind.JSON),
        ("", PayloadKind.TEXT),
        ("hello", PayloadKind.TEXT),
        ("NaN", PayloadKind.TEXT),
        ("[Infinity]", PayloadKind.TEXT),
        ('{"a": 1,}', PayloadKind.TEXT),
        ("[" * 100_000 + "]" * 100_000, PayloadKind.TEXT),
    ],
)
def test_kind_of_a_text_frame(text: str, kind: PayloadKind) -> None:
    assert wire.text_payload(text).kind is kind


@given(TEXT)
def test_any_text_is_parsed_or_passed_on(text: str) -> None:
    assert wire.parse_client_frame(text) is None


@given(TEXT)
def test_the_reason_fits_a_close_frame(rest: str) -> None:
    for frame in ({"type": f"netra.x{rest}"}, {"type": "netra.ack", "seq": rest}):
        with pytest.raises(wire.MalformedFrame) as caught:
            wire.parse_client_frame(json.dumps(frame, ensure_ascii=False))
        assert len(caught.value.reason.encode()) <= 123


def test_a_lone_surrogate_does_not_break_the_reason() -> None:
    with pytest.raises(wire.MalformedFrame) as caught:
        wire.parse_client_frame('{"type": "netra.\\ud800\\ud83d"}')
    assert len(caught.value.reason.encode()) <= 123


@pytest.mark.parametrize("text", ['{"type":"netra.ack","seq":' + "[" * 100_000, '{"type":"netra.ack","seq":'])
def test_broken_json_is_the_applications_own(text: str) -> None:
    assert wire.parse_client_frame(text) is None


def test_a_large_ack_is_a_number_like_others() -> None:
    assert wire.parse_client_frame(f'{{"type":"netra.ack","seq":{10**30}}}') == wire.Ack(10**30)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (datetime(2026, 1, 1, 1, 2, 3, 4999, tzinfo=timezone(timedelta(hours=2))), "2025-12-31T23:02:03.004Z"),
        (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00.000Z"),
    ],
)
def test_timestamp(moment: datetime, expected: str) -> None:
    assert wire.timestamp(moment) == expected
