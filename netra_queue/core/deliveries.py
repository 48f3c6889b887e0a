"""What a connection keeps in memory: deliveries without an ack, and own sends without room."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from .message import Message, Priority
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
    sent_at: datetime | None = None
    priority: Priority = Priority.NORMAL
    traceparent: str | None = None

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
class Account:
    """What has happened to the deliveries of a connection since somebody asked, for statistics."""

    transmitted: list[Priority] = field(default_factory=list)
    acked: list[tuple[Delivery, float]] = field(default_factory=list)  # with the time of the ack
    stored_at: datetime | None = None  # when the first of what was transmitted and came from the store was sent
    live_seconds: float | None = None  # the replay has ended, so long after the connection began

    def __bool__(self) -> bool:
        return bool(self.transmitted or self.acked) or self.live_seconds is not None


@dataclass(slots=True)
class Window:
    """The deliveries of one connection that are not acked yet, in the order of their numbers.

    A message that was returned too often travels alone: it waits for the window to be empty, and fills it then.
    """

    policy: Policy
    deliveries: deque[Delivery] | tuple[()] = ()  # an empty deque takes 0.8 KB
    size: int = 0
    is_alone: bool = False  # what is in flight travels alone
    next_is_alone: bool = False  # the last read met a message that travels alone, and left it where it was
    account: Account = field(default_factory=Account)
    acked_at: float | None = None  # when something was acked last

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

    def add(self, delivery: Delivery, message: Message) -> None:
        delivery.sent_at, delivery.priority = message.created_at, message.priority
        delivery.traceparent = message.traceparent
        if isinstance(self.deliveries, tuple):
            self.deliveries = deque()
        self.deliveries.append(delivery)
        self.account.transmitted.append(delivery.priority)
        if self.account.stored_at is None and delivery.own is None:
            self.account.stored_at = delivery.sent_at
        self.size += delivery.size

    def release(self, seq: int, now: float) -> list[Delivery]:
        """Take out the deliveries up to ``seq``, which are acked now."""
        released: list[Delivery] = []
        while self.deliveries and self.deliveries[0].seq <= seq:
            delivery = self.deliveries.popleft()
            self.size -= delivery.size
            released.append(delivery)
        if not self.deliveries:
            self.deliveries = ()
        if released:
            self.acked_at = now
        self.account.acked += [(delivery, now) for delivery in released]
        self.is_alone = self.is_alone and bool(self.deliveries)
        return released

    def has_up_to(self, seq: int) -> bool:
        """Whether something is in flight that an ack of this number is for."""
        return any(delivery.seq <= seq for delivery in islice(self.deliveries, 1))

    def last_before(self, written_seq: int, moment: float) -> int:
        """The number of the last delivery that was written, and begun by then, as all before it; 0: there is none."""
        last = 0
        for delivery in self.deliveries:
            if delivery.seq > written_seq or delivery.at > moment:
                break
            last = delivery.seq
        return last

    def take_account(self) -> Account:
        """The account so far, which ends here."""
        account = self.account
        if account:
            self.account = Account()
        return account

    @property
    def own_sends(self) -> int:
        """How many deliveries are in memory alone."""
        return sum(delivery.own is not None for delivery in self.deliveries)

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
        given = list(messages)
        positions = {message.id: message.position for message in given}
        copies = positions.keys() & acked
        for delivery in self.deliveries:
            if delivery.id in positions:
                delivery.is_at(positions[delivery.id])
                copies.add(delivery.id)
        return [message for message in given if message.id not in copies] if copies else given

    @property
    def positions(self) -> tuple[int, ...]:
        """Where the store has what is in flight."""
        return tuple(position for delivery in self.deliveries for position in delivery.positions)


class Backlog:
    """Own sends that could not go out at once, in the order of sending."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._held: dict[str, Held] = {}
        self._size = 0  # of those that a store takes

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held.values())

    @property
    def is_overfull(self) -> bool:
        """Whether there are more than a window's."""
        return len(self._held) > self._policy.window or self._size > self._policy.window_bytes

    def adopt(self, policy: Policy) -> None:
        """The queue has other limits now."""
        self._policy = policy
        self._size = sum(self._counted(held.message) for held in self)

    def has_above(self, max_bytes: int, id: str) -> bool:
        """Whether this one is here, and larger than that."""
        held = self._held.get(id)
        return held is not None and held.size > max_bytes

    def add(self, message: Message, now: float) -> None:
        self._held[message.id] = Held(message, now)
        self._size += self._counted(message)

    def take(self, count: int, max_bytes: int) -> list[Message]:
        """Take out the first ones, up to one that is being persisted. The last one may exceed ``max_bytes``."""
        taken: list[Message] = []
        for held in self:
            if len(taken) >= count or max_bytes <= 0 or held.persisting:
                break
            taken.append(held.message)
            max_bytes -= held.size
        for message in taken:
            self.remove(message.id)
        return taken

    def remove(self, id: str) -> None:
        """Take it out, if it is here."""
        if (held := self._held.pop(id, None)) is not None:
            self._size -= self._counted(held.message)

    def _counted(self, message: Message) -> int:
        return message.payload.size if message.payload.size <= self._policy.max_message_bytes else 0


def unstored(window: Iterable[Delivery], held: Iterable[Held]) -> list[Delivery | Held]:
    """The own sends of a connection that only memory has, in the order of sending."""
    return [*(delivery for delivery in window if delivery.own is not None), *held]


def overdue(unstored: Sequence[Delivery | Held], since: float, *, acks: bool) -> Sequence[Delivery | Held]:
    """Those up to the last one that has waited since then for room, or for its ack if the client gives any."""
    late = [n for n, owner in enumerate(unstored, 1) if owner.at <= since and (acks or isinstance(owner, Held))]
    return unstored[: late[-1]] if late else []


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
