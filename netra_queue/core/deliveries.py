"""What a connection keeps in memory: deliveries without an ack, and own sends without room."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .message import Message
from .policy import Policy


@dataclass(slots=True)
class Delivery:
    """One message on its way to the client. ``positions``: where the store has it (twice after a repeated append)."""

    seq: int
    id: str
    size: int
    at: float
    positions: tuple[int, ...] = ()
    own: Message | None = None  # kept until the store has it
    persisting: bool = False

    def begin_persist(self) -> Message:
        """Only for an own send that the store does not have."""
        assert self.own is not None
        self.persisting = True
        return self.own

    def is_at(self, position: int) -> None:
        """The store has the message there."""
        self.own = None
        if position not in self.positions:
            self.positions += (position,)


@dataclass(slots=True)
class Held:
    """An own send that could not go out at once."""

    message: Message
    at: float
    persisting: bool = False

    @property
    def size(self) -> int:
        return self.message.payload.size

    def begin_persist(self) -> Message:
        self.persisting = True
        return self.message


@dataclass(slots=True)
class Window:
    """The deliveries of one connection that are not acked yet, in the order of their numbers.

    A message that was returned too often travels alone: it waits for the window to be empty, and fills it then.
    """

    policy: Policy
    deliveries: deque[Delivery] = field(default_factory=deque)
    ids: set[str] = field(default_factory=set)
    size: int = 0
    is_alone: bool = False  # what is in flight travels alone
    next_is_alone: bool = False  # the last read met a message that travels alone, and left it where it was

    def __bool__(self) -> bool:
        return bool(self.deliveries)

    def __iter__(self) -> Iterator[Delivery]:
        return iter(self.deliveries)

    @property
    def room(self) -> tuple[int, int]:
        """How many messages, of how many bytes, it still takes. One that travels alone, and what comes behind it."""
        if self.is_alone or (self.next_is_alone and self.deliveries):
            return 0, 0
        count = 2 if self.next_is_alone else self.policy.window - len(self.deliveries)
        return count, self.policy.window_bytes - self.size

    @property
    def has_room(self) -> bool:
        return min(self.room) > 0

    def add(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.ids.add(delivery.id)
        self.size += delivery.size

    def release(self, seq: int) -> list[Delivery]:
        """Take out the deliveries up to ``seq``."""
        released: list[Delivery] = []
        while self.deliveries and self.deliveries[0].seq <= seq:
            delivery = self.deliveries.popleft()
            self.ids.discard(delivery.id)
            self.size -= delivery.size
            released.append(delivery)
        self.is_alone = self.is_alone and bool(self.deliveries)
        return released

    def fitting(self, messages: Sequence[Message]) -> list[Message]:
        """The first of these messages that may go out now: as many as there is room for, or one that travels alone.

        The last one may exceed the room for bytes.
        """
        count, max_bytes = self.room
        chosen: list[Message] = []
        self.next_is_alone = False
        for message in messages:
            alone = self.policy.travels_alone(message.deliveries)
            if self.is_alone or (alone and (chosen or self.deliveries)):
                self.next_is_alone = alone
                break
            if len(chosen) >= count or max_bytes <= 0:
                break
            chosen.append(message)
            self.is_alone = alone
            max_bytes -= message.payload.size
        return chosen

    def leave_out_copies(self, messages: Iterable[Message], acked: Collection[str]) -> list[Message]:
        """The messages that are neither in flight nor acked; where the store has the others is kept in mind."""
        known = self.ids.union(acked)
        given = list(messages)
        copies = {message.id: message.position for message in given if message.id in known}
        if copies:
            for delivery in self.deliveries:
                if delivery.id in copies:
                    delivery.is_at(copies[delivery.id])
        return [message for message in given if message.id not in copies]

    @property
    def positions(self) -> tuple[int, ...]:
        """Where the store has what is in flight."""
        return tuple(position for delivery in self.deliveries for position in delivery.positions)


def storable(owners: Iterable[Delivery | Held], max_bytes: int) -> Iterator[Delivery | Held]:
    """Those that a store takes. What is held behind one that is too large waits with it, so that the order stays."""
    for owner in owners:
        if owner.size <= max_bytes:
            yield owner
        elif isinstance(owner, Held):
            return


def chunks(messages: Collection[Message], max_bytes: int) -> Iterator[list[Message]]:
    """Consecutive messages of together at most ``max_bytes``, at least one at a time."""
    chunk: list[Message] = []
    size = 0
    for message in messages:
        if chunk and size + message.payload.size > max_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append(message)
        size += message.payload.size
    if chunk:
        yield chunk
