"""Spans of sends, and what is not done where nobody takes spans."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import netra_queue
from netra_queue import InvalidMessage, MessageTooLarge, QueueFull, testing, tracing
from netra_queue.core.deliveries import Delivery
from netra_queue.models import Message
from netra_queue.stores import current_store
from tests.making import get, make_policy, make_presence
from tests.server.conftest import STORES
from tests.spans import Spans, collected
from tests.test_architecture import ROOT

pytestmark = pytest.mark.django_db(transaction=True)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    with collected(monkeypatch) as found:
        yield found


def as_text(span: Any) -> str:
    context = span.context
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def stored(using: str = "default") -> list[str | None]:
    return list(Message.objects.using(using).order_by("pk").values_list("traceparent", flat=True))


# --- send ----------------------------------------------------------------------------------------------------------


def test_a_send(spans: Spans) -> None:
    receipt = netra_queue.send("user.1", {"n": 1})
    (span,) = spans.all()
    assert (span.name, span.kind) == ("send", trace.SpanKind.PRODUCER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "netra_queue",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "user.1",
        "messaging.message.id": receipt.id,
        "netra_queue.outcome": "queued",
    }
    assert stored() == [as_text(span)]
    assert get(current_store()).messages[0].traceparent == as_text(span)


def test_many_at_once_are_one_span(spans: Spans) -> None:
    netra_queue.send_many([("user.1", 1), ("user.1", 2), ("user.2", 3)])
    netra_queue.send_many([("user.1", 1), ("user.1", 2)])
    first, second = spans.all()
    assert first.attributes is not None
    assert second.attributes is not None
    assert first.attributes["messaging.batch.message_count"] == 3
    assert "messaging.destination.name" not in first.attributes
    assert second.attributes["messaging.destination.name"] == "user.1"
    assert stored() == [as_text(first)] * 3 + [as_text(second)] * 2


def test_an_asynchronous_send(spans: Spans) -> None:
    async def sends() -> None:
        with trace.get_tracer("tests").start_as_current_span("view"):
            await netra_queue.asend("user.1", 1)

    async_to_sync(sends)()
    (span,), (view,) = spans.named("send"), spans.named("view")
    assert span.parent == view.context
    assert stored() == [as_text(span)]


def test_a_group_send_to_several_devices(spans: Spans, settings: Any, database: str) -> None:
    """The rows are made in the database there."""
    settings.NETRA_QUEUE = {"STORE": STORES[database]}
    netra_queue.subscribe("user.1", "room")
    store = current_store()
    for line in ("user.1/phone", "user.1/tab"):
        store.attach(make_presence(line), make_policy())
    netra_queue.group_send("room", 1)
    (span,) = spans.all()
    assert span.attributes is not None
    assert span.attributes["messaging.destination.name"] == "room"
    assert stored(database) == [as_text(span)] * 2
    testing.shutdown()  # the bell's thread has a connection


@pytest.mark.parametrize(
    ("payload", "error"), [({"s3cr3t"}, InvalidMessage), (300_000 * "s3cr3t", MessageTooLarge), ("s3cr3t", QueueFull)]
)
def test_a_send_that_fails_says_what_and_no_payload(
    payload: Any, error: type[Exception], spans: Spans, settings: Any
) -> None:
    settings.NETRA_QUEUE = {"POLICIES": {"default": {"MAX_MESSAGES": 1, "OVERFLOW": "reject"}}}
    if error is QueueFull:
        netra_queue.send("user.1", 1)
    with pytest.raises(error):
        netra_queue.send("user.1", payload)
    span = spans.all()[-1]
    assert span.attributes is not None
    assert span.attributes["error.type"] == error.__name__
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.events == ()
    assert "s3cr3t" not in span.to_json()


def test_what_is_no_pair_is_still_said_so(spans: Spans) -> None:
    bad: Any = [None, ("user.1",), (7, 1)]
    with pytest.raises(InvalidMessage):
        netra_queue.send_many(bad)
    assert len(spans.all()) == 1


def test_the_same_key_twice_says_so(spans: Spans) -> None:
    for _ in range(2):
        netra_queue.send("user.1", 1, key="once")
    first, second = (span.attributes or {} for span in spans.all())
    assert second["netra_queue.outcome"] == "duplicate"
    assert second["messaging.message.id"] == first["messaging.message.id"]


def test_what_is_not_sampled_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    with collected(monkeypatch, sampler=ALWAYS_OFF) as spans:
        netra_queue.send("user.1", 1)
        assert (spans.all(), stored()) == ([], [None])


# --- nobody takes spans --------------------------------------------------------------------------------------------


def test_without_a_provider_nothing_is_made() -> None:
    assert not tracing.is_on()
    netra_queue.send("user.1", 1)
    assert stored() == [None]
    tracing.acked("user.1", [(delivery(), 1.0)], 2.0)
    tracing.left("user.1", [delivery()], 2.0)
    assert not tracing._acks


WITHOUT = """
import sys
sys.modules["opentelemetry"] = None
import django
django.setup()
from netra_queue import tracing
assert not tracing.IS_INSTALLED and not tracing.is_on() and tracing.traceparent() is None
with tracing.sending(["user.1"]) as receipts:
    assert receipts == []
tracing.acked("user.1", [], 1.0)
tracing.left("user.1", [], 1.0)
tracing.removed({"user.1": [1]}, {})
"""


def test_without_opentelemetry_everything_works() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- deliver and ack -----------------------------------------------------------------------------------------------


def delivery(position: int = 7, **changes: Any) -> Delivery:
    values = {"seq": 1, "id": "a" * 32, "size": 9, "at": 1.0, "positions": (position,), "traceparent": TRACEPARENT}
    return Delivery(**{**values, **changes})


def test_an_ack_ends_when_the_store_has_removed_the_message(spans: Spans) -> None:
    tracing.acked("user.1", [(delivery(7), 3.0), (delivery(8), 3.0)], 4.0)
    assert (len(spans.named("deliver")), spans.named("ack")) == (2, [])
    tracing.removed({"user.1": {7, 8}, "user.2": {9}}, {"user.1": {8}})
    assert len(spans.named("ack")) == 1
    tracing.removed({"user.1": {8}}, {})
    assert len(spans.named("ack")) == 2
    assert not tracing._acks


def test_times_are_those_of_the_delivery(spans: Spans) -> None:
    tracing.acked("user.1", [(delivery(), 3.0)], 4.0)
    tracing.removed({"user.1": [7]}, {})
    (deliver,), (ack,) = spans.named("deliver"), spans.named("ack")
    assert deliver.end_time is not None
    assert deliver.start_time is not None
    assert deliver.end_time - deliver.start_time == pytest.approx(2e9, rel=0.01)
    assert ack.start_time == pytest.approx(deliver.end_time, abs=1e7)
    assert ack.end_time is not None
    assert ack.start_time is not None
    assert ack.end_time - ack.start_time == pytest.approx(1e9, rel=0.1)


def test_the_ack_of_what_only_memory_had_ends_at_once(spans: Spans) -> None:
    tracing.acked("user.1", [(delivery(positions=()), 3.0)], 4.0)
    assert len(spans.named("ack")) == 1


@pytest.mark.parametrize("text", ["", "nonsense", f"{TRACEPARENT[:-2]}zz", TRACEPARENT[:40]])
def test_a_context_that_is_none_starts_nothing(text: str, spans: Spans) -> None:
    tracing.acked("user.1", [(delivery(traceparent=text), 3.0)], 4.0)
    assert spans.all() == []


def test_deliveries_of_untraced_senders_have_no_spans(spans: Spans) -> None:
    tracing.acked("user.1", [(delivery(traceparent=None), 3.0)], 4.0)
    tracing.left("user.1", [delivery(traceparent=None)], 4.0)
    assert spans.all() == []
