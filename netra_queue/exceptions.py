"""Every error that netra_queue raises.

    NetraQueueError
    ├── InvalidMessage           a payload, priority, TTL, key or queue name that cannot be accepted
    │   └── MessageTooLarge      longer than the policy's MAX_MESSAGE_BYTES
    ├── QueueFull                the queue's limit is reached and has no place for the message
    ├── RateLimited              more than the policy's rate allows
    ├── StoreUnavailable         the store cannot be reached, or does not answer in time
    │   └── BreakerOpen          it is not even asked, since it did not answer before
    ├── TooManyDevices           as many devices of a queue are connected as its policy allows (closes with 4529)
    ├── NotTracked               nothing is kept of what became of this message
    ├── MessageEnded             a message that was waited for can no longer get where it should
    ├── NotAuthenticated         a connection without a user asked for a user's queue (closes with 4401)
    ├── NotConfigured            the settings do not allow what was asked for
    └── CalledOnEventLoop        a synchronous verb was called where only the asynchronous one may be

Nothing has been written when one of the first four reaches the caller, nor with StoreUnavailable, unless it says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from .core.tracking import MessageStatus


class NetraQueueError(Exception):
    """The base of them all. Each one can be pickled, as Celery and process pools do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, vars(self))


def _rebuild(kind: type[NetraQueueError], args: tuple[Any, ...], attributes: dict[str, Any]) -> NetraQueueError:
    """Without the constructor: it takes keywords, and ``args`` are positional."""
    error = kind.__new__(kind, *args)
    vars(error).update(attributes)
    return error


class InvalidMessage(NetraQueueError, ValueError):
    """``what`` was wrong: ``expected`` this, and ``got`` that."""

    def __init__(self, what: str, *, expected: str, got: object) -> None:
        self.what, self.expected, self.got = what, expected, got
        super().__init__(what, expected, got)

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, got {shorten(self.got)}"


class MessageTooLarge(InvalidMessage):
    """The encoded payload has ``size`` bytes; the policy of ``queue`` allows ``limit``."""

    def __init__(self, queue: str, *, size: int, limit: int) -> None:
        self.queue, self.size, self.limit = queue, size, limit
        super().__init__(f"payload for {queue}", expected=f"at most {limit} bytes when encoded", got=size)

    def __str__(self) -> str:
        return f"payload for {self.queue} has {self.size} bytes when encoded; its policy allows {self.limit}"


class QueueFull(NetraQueueError):
    """``queue`` holds as much as its policy allows, and the message would be the first to go, or is rejected."""

    def __init__(self, queue: str, *, messages: int, limit_messages: int, size: int, limit_bytes: int) -> None:
        self.queue, self.messages, self.limit_messages = queue, messages, limit_messages
        self.size, self.limit_bytes = size, limit_bytes
        super().__init__(queue, messages, limit_messages, size, limit_bytes)

    def __str__(self) -> str:
        return (
            f"queue {self.queue} is full: it would hold {self.messages} messages of {self.size} bytes, and its policy "
            f"allows {self.limit_messages} messages of {self.limit_bytes} bytes"
        )


class RateLimited(NetraQueueError):
    """More was sent to ``queue`` than its policy's rate allows, which is ``limit``. A group is called ``group <name>``.

    ``retry_after_seconds``: when the same call would be let through, if nobody else sends meanwhile. ``sender``: the
    class of senders whose rate it is; "": that of the queue.
    """

    def __init__(self, queue: str, *, limit: str, retry_after_seconds: float, sender: str = "") -> None:
        self.queue, self.limit, self.retry_after_seconds, self.sender = queue, limit, retry_after_seconds, sender
        super().__init__(queue, limit, retry_after_seconds, sender)

    def __str__(self) -> str:
        whose = f" for senders of class {self.sender!r}" if self.sender else ""
        after = f"{self.retry_after_seconds:.3g}"
        return f"{self.queue}: more than its policy's rate{whose}, {self.limit}; worth another try in {after} seconds"


class StoreUnavailable(NetraQueueError):
    """The store did not take or give what was asked of it; the cause is chained.

    ``retry_after_seconds``: when it may be worth it to try again; None: nobody knows.
    """

    def __init__(self, what: str, *, retry_after_seconds: float | None = None) -> None:
        self.what, self.retry_after_seconds = what, retry_after_seconds
        super().__init__(what)

    def __str__(self) -> str:
        return f"the message store is unavailable: {self.what}"


class BreakerOpen(StoreUnavailable):
    """The breaker around the store is open, so the store was not asked. Nothing has been written."""

    def __init__(self, *, retry_after_seconds: float) -> None:
        super().__init__("its breaker is open", retry_after_seconds=retry_after_seconds)

    def __str__(self) -> str:
        return f"{super().__str__()}; worth another try in {self.retry_after_seconds:.1f} seconds"


class TooManyDevices(NetraQueueError):
    """All the ``limit`` lines that the policy of ``queue`` allows for its devices are connected."""

    def __init__(self, queue: str, *, limit: int) -> None:
        self.queue, self.limit = queue, limit
        super().__init__(queue, limit)

    def __str__(self) -> str:
        return f"{self.limit} devices of {self.queue} are connected already, as many as its policy allows"


class NotTracked(NetraQueueError):
    """Nothing is kept of the message ``id``: not sent with ``track=True``, not committed, or ended too long ago."""

    def __init__(self, id: str) -> None:
        self.id = id
        super().__init__(id)

    def __str__(self) -> str:
        return (
            f"nothing is kept of message {self.id}: it was not sent with track=True, its transaction did not commit, "
            "or it ended longer ago than its policy's TRACK_SECONDS"
        )


class MessageEnded(NetraQueueError):
    """The message ``id`` has ended, as ``status`` says, without being what was waited for."""

    def __init__(self, id: str, status: MessageStatus) -> None:
        self.id, self.status = id, status
        super().__init__(id, status)

    def __str__(self) -> str:
        return f"message {self.id} has ended: {self.status.state.value}"


class NotAuthenticated(NetraQueueError):
    """The connection's scope has no authenticated user, so there is no ``user.<pk>`` queue for it."""

    def __str__(self) -> str:
        return "the connection has no authenticated user; override get_queue() to name a queue for such clients"


class NotConfigured(NetraQueueError):
    """``setting`` does not allow what was asked for."""

    def __init__(self, setting: str, problem: str) -> None:
        self.setting, self.problem = setting, problem
        super().__init__(setting, problem)

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}"


class CalledOnEventLoop(NetraQueueError, RuntimeError):
    """``verb`` would block the running event loop; its twin with an ``a`` in front does not."""

    def __init__(self, verb: str) -> None:
        self.verb = verb
        super().__init__(verb)

    def __str__(self) -> str:
        return f"{self.verb}() would block the running event loop: use 'await a{self.verb}(...)' here"


def shorten(value: object, limit: int = 80) -> str:
    """``repr`` of a value, cut to a length that fits a log line."""
    try:
        text = repr(value)
    except Exception:  # whatever somebody's __repr__ does, or nesting that is too deep
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
