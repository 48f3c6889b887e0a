"""One trace from the sender's process to the acknowledgement in the server's: real servers, sockets and databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from opentelemetry import trace

import netra_queue
from netra_queue.management.scenarios.client import Client
from netra_queue.models import Message
from netra_queue.stores import current_store
from tests.server.conftest import World, distinct, holds, live, new_queue, play
from tests.spans import Spans, collected
from tests.waiting import await_until

APPLICATION = "tests.server.traced.application"
Exported = dict[str, Any]


@pytest.fixture
def file(tmp_path: Path, world: World) -> Path:
    path = tmp_path / "spans.jsonl"
    world.environment["NETRA_TEST_SPANS"] = str(path)
    return path


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    with collected(monkeypatch) as found:
        yield found


def exported(file: Path, name: str) -> list[Exported]:
    lines = file.read_text().splitlines() if file.exists() else []
    return [span for span in map(json.loads, lines) if span["name"] == name]


async def has(file: Path, name: str, number: int) -> list[Exported]:
    await await_until(lambda: len(exported(file, name)) >= number, 20)
    found = exported(file, name)
    assert len(found) == number
    return found


def trace_of(span: Exported) -> int:
    return int(span["context"]["trace_id"], 16)


async def send(queue: str, payload: Any, **options: Any) -> Any:
    return await sync_to_async(netra_queue.send)(queue, payload, **options)


async def connect(client: Client) -> None:
    await client.connect()
    await live(client)


def test_one_trace_from_the_sender_to_the_ack(world: World, file: Path, spans: Spans) -> None:
    server, queue = world.start("daphne", application=APPLICATION), new_queue()

    async def happens() -> None:
        with trace.get_tracer("tests").start_as_current_span("view"):
            receipt = await send(queue, {"secret": "s3cr3t"}, priority=netra_queue.Priority.HIGH)
        async with world.client(server, queue) as client:
            await live(client)
            await holds(queue, 0)
            (deliver,), (ack,) = await has(file, "deliver", 1), await has(file, "ack", 1)
        (sent,), (view,) = spans.named("send"), spans.named("view")
        assert sent.parent == view.context
        assert sent.context.trace_id == trace_of(deliver) == trace_of(ack)
        assert int(deliver["parent_id"], 16) == sent.context.span_id
        assert ack["parent_id"] == deliver["context"]["span_id"]
        assert [int(link["context"]["span_id"], 16) for link in deliver["links"]] == [sent.context.span_id]
        assert (deliver["kind"], ack["kind"]) == ("SpanKind.CONSUMER", "SpanKind.CLIENT")
        for span in (deliver, ack):
            assert span["attributes"]["messaging.system"] == "netra_queue"
            assert span["attributes"]["messaging.message.id"] == receipt.id
            assert span["attributes"]["messaging.destination.name"] == queue
        assert deliver["attributes"]["netra_queue.acked"] is True
        assert deliver["attributes"]["netra_queue.priority"] == "high"
        assert deliver["start_time"] <= deliver["end_time"] == ack["start_time"] <= ack["end_time"]

    play(happens())
    assert "s3cr3t" not in file.read_text()


def test_what_a_first_connection_did_not_ack_a_second_one_does(world: World, file: Path, spans: Spans) -> None:
    server, queue = world.start("uvicorn", application=APPLICATION), new_queue()

    async def happens() -> None:
        await send(queue, 1)
        async with world.client(server, queue, acks=False, query="?client=phone") as client:
            await live(client)
            await client.until(lambda: len(client.received) == 1)
        await has(file, "deliver", 1)
        async with world.client(server, queue, query="?client=phone") as client:
            await live(client)
            first, second = await has(file, "deliver", 2)
            await has(file, "ack", 1)
        assert [span["attributes"]["netra_queue.acked"] for span in (first, second)] == [False, True]
        assert trace_of(first) == trace_of(second) == spans.named("send")[0].context.trace_id
        assert second["attributes"]["messaging.client.id"] == "phone"
        assert second["attributes"]["messaging.destination.name"] == queue

    play(happens())


def test_a_consumers_own_send_has_the_context_of_its_request(world: World, file: Path) -> None:
    """Also when it comes from the store, because the first connection did not acknowledge it."""
    server, queue = world.start("daphne", application=APPLICATION), new_queue()

    async def happens() -> None:
        async with world.client(server, queue, acks=False) as client:
            await live(client)
            await client.send({"echo": 1})
            await client.until(lambda: len(client.received) == 1)
        await holds(queue, 1)
        async with world.client(server, queue) as client:
            await live(client)
            await holds(queue, 0)
            delivers = await has(file, "deliver", 2)
        requests = await has(file, "request", 2)
        assert {trace_of(span) for span in delivers} == {trace_of(requests[0])}

    play(happens())


def test_where_nobody_traces_nothing_is_stored(world: World, file: Path) -> None:
    """A server that traces does not mind."""
    server, queue = world.start("daphne", application=APPLICATION), new_queue()

    async def happens() -> None:
        await send(queue, 1)
        using = current_store().using  # type: ignore[attr-defined]
        rows = Message.objects.using(using).values_list("traceparent", flat=True)
        assert await sync_to_async(list)(rows) == [None]
        async with world.client(server, queue) as client:
            await live(client)
            await holds(queue, 0)
            assert distinct(client) == [1]
        await has(file, "request", 1)
        assert exported(file, "deliver") == []

    play(happens())
