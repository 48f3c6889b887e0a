"""Durable outbound messages for Django Channels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.message import GroupReceipt, LossReason, Outcome, Priority
from .core.tracking import MessageState, MessageStatus
from .core.waiting import WaitingMessage
from .exceptions import (
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
)

if TYPE_CHECKING:
    from .groups import agroup_send, asubscribe, aunsubscribe, group_send, subscribe, unsubscribe
    from .lines import Device, adevices, aforget_device, devices, forget_device
    from .receipts import Receipt
    from .sending import asend, asend_many, asend_to_user, send, send_many, send_to_user

__version__ = "0.1.0"

__all__ = [
    "BreakerOpen",
    "CalledOnEventLoop",
    "Device",
    "GroupReceipt",
    "InvalidMessage",
    "LossReason",
    "MessageEnded",
    "MessageState",
    "MessageStatus",
    "MessageTooLarge",
    "NetraQueueError",
    "NotAuthenticated",
    "NotConfigured",
    "NotTracked",
    "Outcome",
    "Priority",
    "QueueFull",
    "RateLimited",
    "Receipt",
    "StoreUnavailable",
    "TooManyDevices",
    "WaitingMessage",
    "adevices",
    "aforget_device",
    "agroup_send",
    "asend",
    "asend_many",
    "asend_to_user",
    "asubscribe",
    "aunsubscribe",
    "devices",
    "forget_device",
    "group_send",
    "send",
    "send_many",
    "send_to_user",
    "subscribe",
    "unsubscribe",
]
_MODULES = {
    **dict.fromkeys(["agroup_send", "asubscribe", "aunsubscribe", "group_send", "subscribe", "unsubscribe"], ".groups"),
    **dict.fromkeys(["Device", "adevices", "aforget_device", "devices", "forget_device"], ".lines"),
}


def __getattr__(name: str) -> Any:
    """The verbs are imported on first use: Django imports this package before its models may be."""
    if name in __all__:
        value = globals()[name] = getattr(import_module(_MODULES.get(name, ".sending"), __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
