"""The signals. None is sent, and nothing is looked up for it, while nobody listens.

``message_acked``, ``message_expired`` and ``message_dropped`` are sent once what they tell of is committed, by the
thread that did it (a server process's store thread, a sender's, the upkeep's), one for each batch. ``sender`` is None.
Arguments:

- ``messages``: a tuple of ``EndedMessage`` (``id``, ``queue``, ``client``, ``priority``), one for each line that a
  message has left;
- ``at``: when, by the store's clock;
- ``reason``: None for ``message_acked``, the LossReason for the others. ``message_dropped`` tells of all but EXPIRED.

What a receiver raises is logged by Django, and changes nothing. A process that is killed right after its commit sends
no signal: they are for counting and hints, receipts are for knowing.

``message_undelivered`` is for policies with UNDELIVERED_SECONDS and without ON_UNDELIVERED. Its argument is
``messages``, a tuple of ``UndeliveredMessage``. Receivers are called within the transaction that hands these messages
over: if one raises, all of them are handed over again by the next run.

``breaker_changed`` is sent when the breaker around this process's store opens, tries again or closes, with ``state``
and ``before`` (BreakerState), by the thread whose call made the difference.

``alert_changed`` is sent when an alert has been opened, acknowledged or resolved, after the commit, with ``alert`` (a
``core.alerting.Alert``, whose ``state`` is the new one) and ``before`` (AlertState; None of one that was opened), by
the process that evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.dispatch import Signal

from .core.message import Fate, LossReason
from .core.tracking import EndedMessage

message_acked = Signal()
message_expired = Signal()
message_dropped = Signal()
message_undelivered = Signal()
breaker_changed = Signal()
alert_changed = Signal()


def _signal(fate: Fate) -> Signal | None:
    if fate is Fate.ACKED:
        return message_acked
    reason = fate.loss
    if reason is None:
        return None
    return message_expired if reason is LossReason.EXPIRED else message_dropped


def has_listeners(fate: Fate) -> bool:
    """Whether anybody wants to know of messages that end so."""
    signal = _signal(fate)
    return signal is not None and signal.has_listeners()


def tell(fate: Fate, messages: Sequence[EndedMessage], at: datetime) -> None:
    """Send the signal for these messages. Never raises."""
    signal = _signal(fate)
    if signal is not None and messages:
        signal.send_robust(sender=None, messages=tuple(messages), at=at, reason=fate.loss)
