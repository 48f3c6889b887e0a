"""Spans for send, deliver and ack, with OpenTelemetry. docs/tracing.md has what they mean.

    send (PRODUCER) --its context, as W3C text, in the message's row--> deliver (CONSUMER, in the same trace)
                                                                            `--> ack (CLIENT)

Without opentelemetry, or without a provider that somebody has set up, nothing in here does anything, and rows hold
NULL. The same goes for what was not sampled. No span has a payload, or the text of an error: that may quote one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .core.deliveries import Delivery
from .core.message import base_of, client_of

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    IS_INSTALLED = False
else:
    IS_INSTALLED = True
    _propagator = TraceContextTextMapPropagator()

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Verb = TypeVar("Verb", bound=Callable[..., Any])
Messages = Collection[tuple[str, Any]]
SYSTEM = "netra_queue"
HEADER = "traceparent"
NANOSECONDS = 1_000_000_000
OFF_SECONDS = 1.0

_off_until = 0.0  # by the monotonic clock


def is_on() -> bool:
    """Whether somebody takes spans. That nobody does is remembered for a second: every message asks, and to look costs
    OpenTelemetry as much as a tenth of a send."""
    global _off_until
    if not IS_INSTALLED or time.monotonic() < _off_until:
        return False
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        _off_until = time.monotonic() + OFF_SECONDS
        return False
    return True


def traceparent() -> str | None:
    """The running span's context, for a message that is being made; None: there is none, or nobody takes it."""
    if not is_on() or not trace.get_current_span().get_span_context().trace_flags.sampled:
        return None
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(HEADER)


# --- send ----------------------------------------------------------------------------------------------------------


def traced(verb: Verb) -> Verb:
    """For a verb of messages and their options that gives receipts."""

    @wraps(verb)
    def tracing(messages: Messages, options: Any) -> Any:
        if not is_on():
            return verb(messages, options)
        with sending(_queues(messages)) as receipts:
            receipts += verb(messages, options)
            return receipts

    return cast(Verb, tracing)


def atraced(verb: Verb) -> Verb:
    """The same for a coroutine function, which takes its options by name."""

    @wraps(verb)
    async def tracing(messages: Messages, **options: Any) -> Any:
        if not is_on():
            return await verb(messages, **options)
        with sending(_queues(messages)) as receipts:
            receipts += await verb(messages, **options)
            return receipts

    return cast(Verb, tracing)


def _queues(messages: Messages) -> list[str]:
    """Before anybody has looked at them: they may be anything."""
    return [pair[0] for pair in messages if isinstance(pair, tuple | list) and pair and isinstance(pair[0], str)]


@contextmanager
def sending(destinations: Collection[str]) -> Iterator[list[Any]]:
    """Around a send: what is made in it has its context. To be filled with the receipts."""
    receipts: list[Any] = []
    if not is_on():
        yield receipts
        return
    attributes = {**_operation("send", "send"), **_destinations(destinations)}
    with _tracer().start_as_current_span(
        "send",
        kind=trace.SpanKind.PRODUCER,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield receipts
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise
        if len(receipts) == 1:
            outcome = receipts[0].outcome.value
            span.set_attributes({"messaging.message.id": receipts[0].id, "netra_queue.outcome": outcome})


def _destinations(names: Collection[str]) -> dict[str, Any]:
    named = {"messaging.destination.name": next(iter(names))[:255]} if len(set(names)) == 1 else {}
    return named if len(names) == 1 else {**named, "messaging.batch.message_count": len(names)}


# --- deliver and ack -----------------------------------------------------------------------------------------------

_acks: dict[int, list[Span]] = {}  # by the position of what the store has not removed yet


def acked(line: str, deliveries: Iterable[tuple[Delivery, float]], now: float) -> None:
    """The client has acknowledged these deliveries, at these times of the loop; ``now`` is one, too.

    Their acks end when the store has ``removed`` them.
    """
    if not is_on():
        return
    began = _began(now)
    for delivery, at in deliveries:
        span = _deliver(line, delivery, at, began, is_acked=True)
        if span is None:
            continue
        ack = _tracer().start_span(
            "ack",
            context=trace.set_span_in_context(span),
            kind=trace.SpanKind.CLIENT,
            attributes={**_operation("ack", "settle"), **_of_message(line, delivery)},
            start_time=_moment(at, began),
        )
        if not delivery.positions:  # only memory had it
            ack.end(_moment(at, began))
        for position in delivery.positions[:1]:
            _acks.setdefault(position, []).append(ack)


def removed(acked: Mapping[str, Collection[int]], besides: Mapping[str, Collection[int]]) -> None:
    """The store has removed these messages, by queue, but for those."""
    for queue, positions in acked.items() if _acks else ():
        for position in set(positions).difference(besides.get(queue, ())):
            for ack in _acks.pop(position, ()):
                ack.end()


def left(line: str, deliveries: Iterable[Delivery], now: float) -> None:
    """The connection has ended, and these were not acknowledged. Other connections get them."""
    if is_on():
        began = _began(now)
        for delivery in deliveries:
            _deliver(line, delivery, now, began, is_acked=False)


def _deliver(line: str, delivery: Delivery, until: float, began: int, *, is_acked: bool) -> Span | None:
    """A delivery, from when it was put into a frame on. None: its sender was not traced."""
    if delivery.traceparent is None:
        return None
    sent = _propagator.extract({HEADER: delivery.traceparent})
    context = trace.get_current_span(sent).get_span_context()
    if not context.is_valid:
        return None
    span: Span = _tracer().start_span(
        "deliver",
        context=sent,
        kind=trace.SpanKind.CONSUMER,
        links=[trace.Link(context)],
        attributes={
            **_operation("deliver", "process"),
            **_of_message(line, delivery),
            "messaging.message.body.size": delivery.size,
            "netra_queue.priority": delivery.priority.name.lower(),
            "netra_queue.acked": is_acked,
        },
        start_time=_moment(delivery.at, began),
    )
    span.end(_moment(until, began))
    return span


def _of_message(line: str, delivery: Delivery) -> dict[str, Any]:
    client = client_of(line)
    named = {"messaging.destination.name": base_of(line), "messaging.message.id": delivery.id}
    return {**named, "messaging.client.id": client} if client else named


def _operation(name: str, kind: str) -> dict[str, Any]:
    return {"messaging.system": SYSTEM, "messaging.operation.name": name, "messaging.operation.type": kind}


def _tracer() -> Any:
    return trace.get_tracer("netra_queue")


def _began(now: float) -> int:
    """When the loop's time was 0 by this machine's clock, in nanoseconds."""
    return time.time_ns() - int(now * NANOSECONDS)


def _moment(at: float, began: int) -> int:
    return began + int(at * NANOSECONDS)
