"""The errors: what each is caught as, and what it tells a reader."""

from __future__ import annotations

import pickle

import pytest

import netra_queue
from netra_queue import exceptions
from netra_queue.core.tracking import MessageState, MessageStatus
from netra_queue.exceptions import (
    BreakerOpen,
    CalledOnEventLoop,
    InvalidMessage,
    MessageEnded,
    MessageTooLarge,
    NetraQueueError,
    NotAuthenticated,
    NotConfigured,
    NotTracked,
    QueueFull,
    RateLimited,
    StoreUnavailable,
    TooManyDevices,
    shorten,
)
from tests.making import NOON

FULL = QueueFull("user.1", messages=11, limit_messages=10, size=120, limit_bytes=100)
TEXTS: list[tuple[NetraQueueError, str]] = [
    (InvalidMessage("ttl", expected="above 0", got="x"), "ttl: expected above 0, got 'x'"),
    (
        MessageTooLarge("user.1", size=12, limit=10),
        "payload for user.1 has 12 bytes when encoded; its policy allows 10",
    ),
    (
        FULL,
        "queue user.1 is full: it would hold 11 messages of 120 bytes, and its policy allows 10 messages of 100 bytes",
    ),
    (StoreUnavailable("it is away"), "the message store is unavailable: it is away"),
    (
        BreakerOpen(retry_after_seconds=1.25),
        "the message store is unavailable: its breaker is open; worth another try in 1.2 seconds",
    ),
    (
        RateLimited("user.1", limit="10/s", retry_after_seconds=0.125),
        "user.1: more than its policy's rate, 10/s; worth another try in 0.125 seconds",
    ),
    (
        NotTracked("f00"),
        "nothing is kept of message f00: it was not sent with track=True, its transaction did not commit, or it ended "
        "longer ago than its policy's TRACK_SECONDS",
    ),
    (MessageEnded("f00", MessageStatus(state=MessageState.EXPIRED, sent_at=NOON)), "message f00 has ended: expired"),
    (
        TooManyDevices("user.1", limit=2),
        "2 devices of user.1 are connected already, as many as its policy allows",
    ),
    (NotConfigured("NETRA_QUEUE", "no"), "NETRA_QUEUE: no"),
    (
        CalledOnEventLoop("send_many"),
        "send_many() would block the running event loop: use 'await asend_many(...)' here",
    ),
    (
        NotAuthenticated(),
        "the connection has no authenticated user; override get_queue() to name a queue for such clients",
    ),
]


@pytest.mark.parametrize(("error", "text"), TEXTS, ids=[type(error).__name__ for error, _ in TEXTS])
def test_what_an_error_says(error: NetraQueueError, text: str) -> None:
    assert str(error) == text


def test_every_error_has_the_base_and_its_public_name() -> None:
    classes = {value for value in vars(exceptions).values() if isinstance(value, type)}
    assert {type(error) for error, _ in TEXTS} | {NetraQueueError} == classes
    assert all(issubclass(error, NetraQueueError) for error in classes)
    assert all(getattr(netra_queue, error.__name__) is error for error in classes)
    assert {error.__name__ for error in classes} <= set(netra_queue.__all__)


def test_what_else_an_error_is_caught_as() -> None:
    assert issubclass(InvalidMessage, ValueError)
    assert issubclass(MessageTooLarge, InvalidMessage)
    assert issubclass(CalledOnEventLoop, RuntimeError)
    assert not issubclass(QueueFull, InvalidMessage)
    assert not issubclass(StoreUnavailable, OSError)


def test_the_attributes_are_there_to_act_on() -> None:
    assert (FULL.queue, FULL.messages, FULL.limit_messages, FULL.size, FULL.limit_bytes) == ("user.1", 11, 10, 120, 100)
    large = MessageTooLarge("user.1", size=12, limit=10)
    assert (large.queue, large.size, large.limit, large.got) == ("user.1", 12, 10, 12)


def test_what_was_given_is_cut_to_a_log_lines_length() -> None:
    assert shorten("x" * 10) == "'xxxxxxxxxx'"
    assert shorten("x" * 1000, limit=20) == "'" + "x" * 18 + "…"
    assert len(str(InvalidMessage("payload", expected="JSON", got="x" * 10**6))) < 200


@pytest.mark.parametrize("error", [error for error, _ in TEXTS], ids=[type(error).__name__ for error, _ in TEXTS])
def test_an_error_can_be_pickled(error: NetraQueueError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
