"""The contract of a store.

A store keeps queues of messages, the losses of each queue, and who is connected to it. It decides nothing about
connections and rings no bells; ``sending``, ``hub`` and ``maintenance`` do that around it.

What every store promises (tests/stores/contract.py holds each to it):

- **Order.** ``read`` gives a queue's messages by priority, then in the order in which they were appended. Nothing is
  a cursor: what ``read`` gives is what exists, has not expired and was not excluded. A message that becomes visible
  late, with a lower position than others, is given by the next ``read``.
- **Acceptance.** A draft for which ``append`` returned a position is kept until it is acked, expires, is chosen by the
  overflow policy, or is purged. The last three are counted as losses in the same transaction as the removal.
- **Idempotence.** ``ack``, ``settle``, ``attach``, ``detach``, ``heartbeat`` and ``reap`` may be repeated, and named
  things that are gone are no error: a call whose answer was lost is simply made again.
- **One clock.** ``now()`` is the store's time. It stamps and expires messages and judges heartbeats, so that clocks
  of servers that differ do no harm.
- **Threads.** Every method may be called from any thread, at the same time, and blocks until it is done. None may be
  called on an event loop. Cancelling the wait for a call does not cancel the call.
- **Errors.** StoreUnavailable when the store cannot be reached or gives up; what was asked for may then have been
  done or not. Everything else it raises is said with the method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from ..core.connection import ReadRequest
from ..core.message import Draft, Losses, Message, Outcome, Priority
from ..core.policy import Policy

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of one draft. ``position``: None unless queued. ``id``: the first message's for a duplicate."""

    id: str
    outcome: Outcome
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a read gave. ``more``: there may be further messages behind these."""

    messages: tuple[Message, ...]
    more: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server process: ``id`` is unique for its whole life, ``host`` and ``pid`` are for people."""

    id: str
    host: str
    pid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """A connection as the store knows it. ``policy`` is the consumer's choice and becomes the queue's."""

    id: str
    queue: str
    server: Server
    policy: str
    client: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to ``attach``. ``waiting`` is exact up to the policy's ``max_messages``."""

    waiting: int
    losses: Losses
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStat:
    """One queue as it stands. ``oldest_at``: when the oldest waiting message was sent."""

    queue: str
    policy: str = ""
    messages: int = 0
    size: int = 0
    by_priority: Mapping[Priority, int] = field(default_factory=dict)
    oldest_at: datetime | None = None
    connections: int = 0
    seen_at: datetime | None = None
    losses: Losses = field(default_factory=Losses)


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """What upkeep would remove now, each counted up to a limit."""

    expired: int
    connections: int
    idle_queues: int
    keys: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """The whole store as it stands, each figure counted up to a limit. Sizes in bytes.

    ``complete``: no figure met its limit. ``largest`` has the queues with the most messages first, of each its name,
    messages, size and oldest message; without ``complete``, only the oldest messages of the store were looked at.
    """

    messages: int
    size: int
    expired: int
    queues: int
    connections: int
    servers: int
    complete: bool
    largest: tuple[QueueStat, ...]


class Store(ABC):
    """See the module's text for what holds for all methods. Queues are named by their names."""

    transactional: bool
    """Whether ``append`` joins a database transaction that the calling thread has open, and commits with it."""

    @abstractmethod
    def now(self) -> datetime:
        """The store's time, aware."""

    # --- threads -----------------------------------------------------------------------------------------------

    def in_own_thread(self, work: Callable[[], Result]) -> Result:
        """Do ``work`` in a thread that exists for this store. What the thread holds of it stays open for the next."""
        return work()

    def leave_thread(self) -> None:  # noqa: B027  most stores hold nothing
        """The calling thread is about to end: give back what it holds of the store."""

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call this once what the calling thread has appended can be read by others: at once, or when its transaction
        commits; never if that rolls back. What ``callback`` raises then reaches nobody."""
        callback()

    # --- messages ----------------------------------------------------------------------------------------------

    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether an ``append`` by this thread would now join its caller's transaction."""

    @abstractmethod
    def describe(self, queues: Collection[str]) -> dict[str, str]:
        """The policy name of each of these queues that the store knows; an unknown queue is left out.

        Raises InvalidMessage for a name that cannot live beside one that is there.
        """

    @abstractmethod
    def ensure(self, queues: Collection[str]) -> None:
        """Make these queues known, so that an operator sees them. Messages do not need it."""

    @abstractmethod
    def append(self, drafts: Sequence[Draft], policies: Mapping[str, Policy]) -> list[Appended]:
        """Accept these drafts, all in one transaction, and enforce their queues' limits.

        ``policies`` has an entry for each queue. Answers come in the order of the drafts. A draft whose ``key`` the
        queue has seen within its message's time to live is a duplicate. Raises QueueFull, and accepts none of
        the drafts, when a queue with overflow ``reject`` would be over its limits.

        Limits are exact between appends outside a caller's transaction. Inside one, no lock is taken that another
        sender could wait for: what open transactions have written is not seen by each other, and what they
        exceed the limit by is removed by the next append.
        """

    @abstractmethod
    def read(self, requests: Sequence[tuple[str, ReadRequest]]) -> list[Batch]:
        """The next messages of these queues, one Batch a request, in the order of the requests."""

    @abstractmethod
    def ack(self, positions: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
        """Remove these messages of these queues. Returns those that are in another transaction's hands: try again."""

    @abstractmethod
    def waiting(self, queues: Collection[str]) -> set[str]:
        """Those of these queues that hold a message that has not expired."""

    @abstractmethod
    def losses(self, queues: Collection[str], told: Collection[int] = ()) -> dict[str, Losses]:
        """What these queues lost and no client was told of; queues without losses are left out.

        ``told``: records to leave out, because a client is being told of them.
        """

    @abstractmethod
    def settle(self, queue: str, records: Collection[int]) -> None:
        """Forget these records of losses: a client was told."""

    # --- connections -------------------------------------------------------------------------------------------

    @abstractmethod
    def attach(self, presence: Presence, policy: Policy) -> Opened:
        """Make this connection known. From its return on, ``holders`` of other processes finds it.

        Messages of the queue that have expired are removed and counted, so that the answer's losses are complete.
        """

    @abstractmethod
    def detach(self, presences: Collection[Presence]) -> None:
        """These connections are gone."""

    @abstractmethod
    def holders(self, queues: Collection[str]) -> dict[str, list[str]]:
        """The ids of the living servers that hold connections of these queues, and of which."""

    @abstractmethod
    def heartbeat(self, server: Server) -> bool:
        """This server is alive. False: the store did not know it (any more); its connections have to attach again."""

    @abstractmethod
    def retire(self, server: Server) -> None:
        """This server is going; its connections are gone."""

    # --- upkeep ------------------------------------------------------------------------------------------------

    @abstractmethod
    def sweep(self, limit: int) -> int:
        """Remove and count up to ``limit`` expired messages, oldest expiry first. Fewer: there are no more."""

    @abstractmethod
    def reap(self) -> int:
        """Remove the connections of servers whose heartbeat stopped. Returns their number."""

    @abstractmethod
    def forget_idle(self, limit: int) -> int:
        """Remove up to ``limit`` queues that are empty, without connections, and idle for IDLE_QUEUE_SECONDS.

        Used idempotency keys that have run out go too, and losses that nobody came for within that time.
        """

    @abstractmethod
    def forget_keys(self, limit: int) -> int:
        """Remove up to ``limit`` idempotency keys that have run out. Fewer: there are no more."""

    @abstractmethod
    def due(self, limit: int) -> Due:
        """What ``sweep``, ``reap``, ``forget_idle`` and ``forget_keys`` would remove; each counted up to ``limit``."""

    @abstractmethod
    def purge(self, queue: str, limit: int, priority: Priority | None = None) -> int:
        """Remove up to ``limit`` messages of a queue; they count as dropped. Fewer: there are no more."""

    @abstractmethod
    def stat(self, queue: str) -> QueueStat:
        """One queue as it stands. The cost grows with that queue's messages."""

    @abstractmethod
    def overview(self, limit: int, scan: int) -> Overview:
        """Totals and the ``limit`` largest queues, looking at ``scan`` rows of each kind at most."""
