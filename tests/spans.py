"""A provider of spans for one test, with the SDK's in-memory exporter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from netra_queue import tracing


class Spans:
    """What was exported."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())


@contextmanager
def collected(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Spans]:
    """A process may have one provider in its life; this one is there for a test."""
    spans = Spans(**options)
    with monkeypatch.context() as patch:
        patch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
        patch.setattr(tracing, "_off_until", 0.0)
        yield spans
