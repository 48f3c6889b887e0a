"""The contract of a store.

A store keeps queues of messages, the losses of each queue, and who is connected to it. It decides nothing about
connections and rings no bells; ``sending``, ``hub`` and ``maintenance`` do that around it.

What every store promises (tests/stores/contract.py holds each to it):

- **Order.** ``read`` gives a queue's messages by priority, then in the order in which they were appended. Nothing is
  a cursor: what ``read`` gives is what exists, has not expired and was not excluded. A message that becomes visible
  late, with a lower position than others, is given by the next ``read``. For ``not_before``, see ``base_rates``.
- **Acceptance.** A draft for which ``append`` returned a position is kept until it is acked, expires, is chosen by the
  overflow policy, or is purged. The last three are counted as losses in the same transaction as the removal.
- **Idempotence.** ``ack``, ``settle``, ``attach``, ``detach``, ``linger``, ``heartbeat`` and ``reap`` may be repeated,
  and named things that are gone are no error: a call whose answer was lost is simply made again.
- **One clock.** ``now()`` is the store's time. It stamps and expires messages and judges heartbeats, so that clocks
  of servers that differ do no harm.
- **Threads.** Every method may be called from any thread, at the same time, and blocks until it is done. None may be
  called on an event loop. Cancelling the wait for a call does not cancel the call.
- **Errors.** StoreUnavailable when the store cannot be reached or gives up; what was asked for may then have been done.
  Everything else it raises is said with the method.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from ..core.actions import ReadRequest
from ..core.message import Draft, GroupDraft, Losses
from ..core.policy import Policy
from ..core.tracking import Tracked, UndeliveredMessage
from ..exceptions import InvalidMessage, NetraQueueError, TooManyDevices
from .alerts_base import AlertStore
from .base_connections import ConnectionStore
from .base_controls import ControlStore
from .base_letters import LetterStore
from .base_operators import OperatorStore
from .base_overview import OverviewStore
from .base_passing import PassingStore
from .base_rates import RateStore
from .statistics_base import StatisticsStore
from .values import (
    Appended,
    Batch,
    Due,
    GroupAppended,
    Letter,
    Line,
    Mended,
    Opened,
    Overview,
    Pause,
    Presence,
    QueueStat,
    Returned,
    Server,
    Surplus,
)

__all__ = [
    "MISSED_HEARTBEATS",
    "Appended",
    "Batch",
    "Due",
    "GroupAppended",
    "Letter",
    "Line",
    "Mended",
    "Opened",
    "Overview",
    "Pause",
    "Presence",
    "QueueStat",
    "Result",
    "Returned",
    "Server",
    "Store",
    "Surplus",
]

Result = TypeVar("Result")
MISSED_HEARTBEATS = 3  # after so many times SERVER_HEARTBEAT_SECONDS, a silent server counts as dead


class Store(
    AlertStore,
    ConnectionStore,
    ControlStore,
    LetterStore,
    OperatorStore,
    OverviewStore,
    PassingStore,
    RateStore,
    StatisticsStore,
):
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

    def leave_thread(self) -> None:
        """The calling thread is about to end: give back what it holds of the store."""

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call this once what this thread has appended can be read by others: at once, or when its transaction commits;
        never if that rolls back. What ``callback`` raises then reaches nobody."""
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
        """Accept these drafts, all in one transaction, and enforce the limits of each line they go to.

        A draft for a queue goes to all its lines in use, and has one payload for all of them; without any, to the queue
        itself. A draft for a line goes there. ``policies`` has an entry for each queue, which holds for its lines.

        Answers come in the order of the drafts. A draft whose ``key`` the queue has seen within its message's time to
        live is a duplicate; of a message that this append itself drops, it is dropped as well. Raises QueueFull, and
        accepts none of the drafts, when a line with overflow ``reject`` would be over its limits.

        A draft with ``collapse`` takes the place of the message that waits in the same line with the same key, unless a
        connection has been sent that one or an open transaction has it in hand. The older one is no loss; it is counted
        in ``QueueStat.superseded``. Of two in one call, the later one stays. Others with the same key are waited for.

        What becomes of a draft with ``track`` is kept from then on (``tracked``). One that its policy watches is handed
        over when nobody has acked it in time (``hand_over``).

        A draft larger than its policy's ``max_message_bytes`` is never stored, whatever the overflow: it is answered
        DROPPED, counts as dropped, uses no key, and nothing else has to go for it.

        Appends outside a caller's transaction take turns at a queue, and so keep its limits exactly, when they find it
        more than half full or add more than a ninth of a limit. Others do not wait: what they add at the very same
        time is not seen by each other. Up to nine of them at a time still exceed nothing together; more of them, or
        one of them and one that fills the queue, may. Inside a caller's transaction, no lock is taken that another
        sender could wait for, and what open transactions have written is not seen either. By what a queue then
        exceeds its limits, the next append removes it (or, with ``reject``, is refused).
        """

    @abstractmethod
    def read(self, requests: Sequence[tuple[str, ReadRequest]]) -> list[Batch]:
        """The next messages of these queues, one Batch a request, in the order of the requests. None of paused ones."""

    @abstractmethod
    def transmit(self, positions: Collection[int]) -> set[int]:
        """These, which a tentative read gave as ``unnoted``, are about to be transmitted.

        Returns those that must not be: they are gone, or may be superseded any moment. May be repeated.
        """

    @abstractmethod
    def ack(self, positions: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
        """Remove these messages of these queues. Returns those that are in another transaction's hands: try again."""

    @abstractmethod
    def tracked(self, ids: Collection[str]) -> dict[str, Tracked]:
        """What became of these messages, for those that were sent with ``track`` and have not been forgotten since.
        A message with copies in several lines is acked as soon as one is; otherwise it ends as its last copy does."""

    @abstractmethod
    def returned(self, returns: Sequence[Returned]) -> int:
        """Count deliveries that ended without an ack. What reaches its policy's ``max_deliveries`` alone is removed.

        It counts as lost (dead). Returns how many were. Names of what is gone are no error; repeated, it counts twice.
        """

    @abstractmethod
    def withhold(self, positions: Mapping[str, Collection[int]]) -> dict[str, set[int]]:
        """Remove messages that their client may not see; they count as withheld. Returns as ``ack`` does."""

    @abstractmethod
    def waiting(self, queues: Collection[str]) -> set[str]:
        """Those of these queues that hold a message that has not expired, and are not paused."""

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

        What has expired in the queue is counted before, so that the answer's losses are complete. A line takes over
        what waits in its queue itself, and gets what is sent there from now on; the oldest idle one is forgotten if
        that makes more than ``max_lines``. Raises TooManyDevices if none is idle. Nobody lingers for the queue then.
        """

    def attach_all(self, arrivals: Sequence[tuple[Presence, Policy]]) -> list[Opened | NetraQueueError]:
        """``attach`` for each; what it refuses a connection with is that one's answer. Raises StoreUnavailable."""
        answers: list[Opened | NetraQueueError] = []
        for presence, policy in arrivals:
            try:
                answers.append(self.attach(presence, policy))
            except (InvalidMessage, TooManyDevices) as error:
                answers.append(error)
        return answers

    @abstractmethod
    def surplus(self, presence: Presence, policy: Policy, before: datetime | None = None) -> Surplus:
        """What the policy's replay leaves out for this connection, which is attached and has read nothing yet: of what
        was sent ``before``, if that is given. Nothing while another connection of the queue is there.
        """

    @abstractmethod
    def leave_out(
        self, queue: str, positions: Collection[int], digest: Draft | None, policy: Policy
    ) -> tuple[int, Losses]:
        """Remove those of these messages that are there; they count as left out. If any were, append ``digest``.
        In shadow mode they count as missed, or as unconfirmed if they were transmitted before, and are no loss.
        Returns what ``attach`` would now say of waiting messages and losses. Raises MessageTooLarge or QueueFull, and
        changes nothing, when the queue does not take the digest.
        """

    @abstractmethod
    def detach(self, presences: Collection[Presence]) -> None:
        """These connections are gone, and their consumers do not linger (any more)."""

    @abstractmethod
    def linger(self, stays: Sequence[tuple[Presence, float]]) -> set[str]:
        """These connections are gone, and their consumers would linger for so many seconds, all in one transaction.

        Returns the ids of those that may. The others' queues have a connection on a living server: that one's consumer
        hears the groups. Of several of one queue, the last one may. A linger ends by ``attach`` of its queue, by
        ``detach``, with its server (``retire``, ``reap``), or when its time is over and ``reap`` comes by.
        """

    @abstractmethod
    def lingering(self, ids: Collection[str]) -> set[str]:
        """Those of these connections whose consumers still linger, as far as the store was told."""

    @abstractmethod
    def take_over(self, lines: Mapping[str, Policy]) -> set[str]:
        """Give each of these lines what waits in its queue itself, if no client uses that as its line.

        ``attach`` does so; this is for what a sender wrote meanwhile who knew of no line. Each message goes to one
        line. Returns the lines that got something.
        """

    @abstractmethod
    def lines(self, queue: str) -> list[Line]:
        """The lines of a queue that devices have used and that have not been forgotten, the one seen last first."""

    @abstractmethod
    def forget_line(self, line: str, policy: Policy) -> int:
        """The device of this line is gone for good. What waited for it alone waits in the queue itself, if that has no
        other line, and is otherwise removed and counted as dropped. Returns how many were. Idempotent.

        A connection that the line has stays, and gets nothing more of what is sent to the queue.
        """

    @abstractmethod
    def holders(self, queues: Collection[str]) -> dict[str, list[str]]:
        """The ids of the living servers that hold connections of these queues, and of which."""

    @abstractmethod
    def heartbeat(self, server: Server) -> bool:
        """This server is alive. False: the store did not know it (any more); its connections have to attach again."""

    @abstractmethod
    def retire(self, server: Server) -> None:
        """This server is going; its connections are gone."""

    # --- groups ------------------------------------------------------------------------------------------------

    @abstractmethod
    def subscribe(self, queues: Collection[str], group: str) -> int:
        """What is sent to the group goes to these queues, too, from now on. Returns how many were not subscribed yet.

        Waits until those who are sending to the group have committed, unless all are subscribed already. The queues
        need not be known.
        """

    @abstractmethod
    def unsubscribe(self, queues: Collection[str], group: str) -> int:
        """These queues get no more of what is sent to the group. Returns how many were subscribed. Waits likewise."""

    @abstractmethod
    def group_append(self, draft: GroupDraft) -> GroupAppended:
        """Accept a message for every queue that is subscribed to the group when this (or the caller's transaction)
        commits. In each it goes to all lines in use, as with ``append``; the payload is stored once for all.

        Each queue has the policy that it is known with. It is dropped, and counted as a loss, in those whose policy
        lets it be no larger than it is, and in those that are full where the policy rejects. The others' limits are
        enforced without taking turns: by what they then exceed them, the next append removes it. With ``key``, a
        message of the group that has used it within its time to live makes this one a duplicate.
        """

    @abstractmethod
    def members(self, group: str, limit: int) -> list[str]:
        """Up to ``limit`` of the queues that are subscribed to the group, in no particular order."""

    @abstractmethod
    def group_holders(self, groups: Collection[str]) -> dict[str, list[str]]:
        """The ids of the living servers that hold connections of these groups' queues and lines, and of which."""

    # --- upkeep ------------------------------------------------------------------------------------------------

    @abstractmethod
    def sweep(self, limit: int) -> int:
        """Remove and count up to ``limit`` expired messages, oldest expiry first. Fewer: there are no more."""

    @abstractmethod
    def reap(self) -> int:
        """Remove the connections of silent servers, and lingers that are over. Returns the number of connections.

        Those of a server that is not known (any more) have as long for its next heartbeat.
        """

    @abstractmethod
    def forget_idle(self, limit: int) -> int:
        """Remove up to ``limit`` queues that are empty, not connected, not paused, and idle for IDLE_QUEUE_SECONDS.

        Used idempotency keys that have run out go too, and losses that nobody came for within that time; a queue with
        younger losses stays. Groups without members go as well, at the earliest after that time.
        """

    @abstractmethod
    def forget_keys(self, limit: int) -> int:
        """Remove up to ``limit`` keys (idempotency's, collapsing's) that have run out, records of tracked messages that
        need not be kept any more, and buckets of rates that are full. Fewer: there are no more."""

    @abstractmethod
    def hand_over(self, policy: str, limit: int, receive: Callable[[tuple[UndeliveredMessage, ...]], None]) -> int:
        """Call ``receive`` with up to ``limit`` messages of this policy that nobody has acked in time, and forget that
        they were to be handed over. Returns their number. Fewer: there are no more. Not called without any.

        Each is given to one caller. When ``receive`` raises, so does this, and all of them are as before. In a
        transactional store, what ``receive`` writes commits with it. It is called once at most: an error of the
        database's after it comes out as it is. A message that expires or is dropped before its time is handed over as
        well; one that was superseded or withheld is not. With the policy "default", also those whose policy is gone.
        """

    @abstractmethod
    def forget_bodies(self, limit: int) -> int:
        """Remove up to ``limit`` payloads that messages have shared and none has any more. Fewer: there are no more."""

    @abstractmethod
    def expire_lines(self, limit: int) -> int:
        """Forget up to ``limit`` lines that have been without a connection for their policy's ``line_seconds``.

        What waited for them goes as with ``forget_line``, but counts as expired. Fewer: there are no more.
        """

    @abstractmethod
    def due(self, limit: int) -> Due:
        """What ``sweep``, ``reap``, ``forget_idle``, ``forget_keys``, ``forget_bodies`` and ``forget_letters`` take.

        Each is counted up to ``limit``; of shared payloads, only those whose time is over.
        """

    @abstractmethod
    def stat(self, queue: str) -> QueueStat:
        """One queue as it stands. The cost grows with that queue's messages."""
