"""What a sender hands over."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils.functional import lazystr

from netra_queue import conf
from netra_queue.core.message import Payload, PayloadKind, Priority
from netra_queue.exceptions import InvalidMessage, NotConfigured
from netra_queue.validation import check_key, check_priority, check_queue, check_ttl, encode


@pytest.mark.parametrize("ttl", [10**14, 1e300, timedelta.max])
def test_a_ttl_beyond_all_times_is_refused_whatever_the_settings_say(settings: Any, ttl: object) -> None:
    settings.NETRA_QUEUE = {"MAX_TTL_SECONDS": 10**15}
    with pytest.raises(InvalidMessage, match="MAX_TTL_SECONDS"):
        check_ttl(ttl)


def test_so_is_that_of_a_policy(settings: Any) -> None:
    settings.NETRA_QUEUE = {"MAX_TTL_SECONDS": 10**15, "POLICIES": {"default": {"TTL": 10**14}}}
    with pytest.raises(NotConfigured, match="MAX_TTL_SECONDS"):
        conf.policy("default")


def test_what_cannot_be_shown_can_still_be_refused() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidMessage) as caught:
        encode(deep)
    assert "a list that cannot be shown" in str(caught.value)


@pytest.mark.parametrize("name", ["a", "user.42", "A-1_2:3@4+5=6", "9", "x" * 150])
def test_a_queue_name(name: str) -> None:
    assert check_queue(name) == name


@pytest.mark.parametrize("name", ["", ".a", "-a", "a b", "a/b", "ä", "a\n", "٣", "x" * 151, 42, None, b"a"])
def test_no_queue_name(name: object) -> None:
    with pytest.raises(InvalidMessage, match=r"queue name: expected .*, got "):
        check_queue(name)


@pytest.mark.parametrize(("given", "priority"), [(0, Priority.CRITICAL), (3, Priority.LOW), (Priority.HIGH,) * 2])
def test_a_priority(given: object, priority: Priority) -> None:
    assert check_priority(given) is priority


@pytest.mark.parametrize("given", [-1, 4, "high", 1.0, True, None])
def test_no_priority(given: object) -> None:
    with pytest.raises(InvalidMessage, match=r"priority: expected one of .*Priority\.CRITICAL.*, got "):
        check_priority(given)


@pytest.mark.parametrize("key", [None, "k", "ä \n\0", "k" * 200])
def test_a_key(key: str | None) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["", "k" * 201, 1, b"k", "\udfff"])
def test_no_key(key: object) -> None:
    with pytest.raises(InvalidMessage, match="key: expected "):
        check_key(key)


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [(None, None), (1, 1.0), (0.001, 0.001), (timedelta(hours=1), 3600.0), (30 * 86_400, 2_592_000.0)],
)
def test_a_ttl(settings: Any, ttl: object, seconds: float | None) -> None:
    settings.NETRA_QUEUE = {}
    assert check_ttl(ttl) == seconds


@pytest.mark.parametrize(
    "ttl", [0, -1, timedelta(0), timedelta(seconds=-1), float("nan"), float("inf"), True, "60", Decimal(60), 2_592_001]
)
def test_no_ttl(settings: Any, ttl: object) -> None:
    settings.NETRA_QUEUE = {}
    with pytest.raises(InvalidMessage, match=r"ttl: expected above 0 and at most 2592000 seconds"):
        check_ttl(ttl)


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (None, "null"),
        ({"b": 1, "a": [1.5, True]}, '{"b":1,"a":[1.5,true]}'),
        ("ä€😀", '"ä€😀"'),
        ([NOON, Decimal("1.10"), uuid.UUID(int=1), lazystr("lazy")], None),
        ("\0\n\u2028", '"\\u0000\\n\u2028"'),
    ],
    ids=["null", "compact", "beyond ASCII", "Django's types", "control characters"],
)
def test_a_payload(payload: object, text: str | None) -> None:
    text = text or '["2026-01-01T12:00:00Z","1.10","00000000-0000-0000-0000-000000000001","lazy"]'
    assert encode(payload) == Payload(PayloadKind.JSON, text, len(text.encode()))


@pytest.mark.parametrize("payload", [{1, 2}, b"bytes", object(), {"n": float("nan")}, [float("-inf")], {(1,): 1}])
def test_no_payload(payload: object) -> None:
    with pytest.raises(InvalidMessage, match="payload: expected something that Django's JSON encoder takes"):
        encode(payload)


def test_a_payload_that_holds_itself() -> None:
    payload: list[object] = []
    payload.append(payload)
    with pytest.raises(InvalidMessage, match="payload: expected"):
        encode(payload)


@pytest.mark.parametrize("payload", ["\ud800", {"\udfff": 1}])
def test_text_that_no_database_takes(payload: object) -> None:
    with pytest.raises(InvalidMessage, match="payload: expected text without lone surrogates"):
        encode(payload)
