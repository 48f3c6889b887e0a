"""The tests' application with a provider of spans, as a project would set one up; each span is a line of a file."""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from tests.server.consumers import application as inner


def line(span: ReadableSpan) -> str:
    return f"{span.to_json(indent=None)}\n"


provider = TracerProvider()
out = open(os.environ["NETRA_TEST_SPANS"], "a")  # noqa: SIM115  open for the process's life
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out, formatter=line)))
trace.set_tracer_provider(provider)


async def application(scope: object, receive: object, send: object) -> None:
    """What a consumer sends has the context of the request that it serves."""
    with trace.get_tracer("tests").start_as_current_span("request"):
        await inner(scope, receive, send)
