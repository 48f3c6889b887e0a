"""Durable outbound messages for Django Channels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.message import Outcome, Priority, Receipt
from .exceptions import (
    CalledOnEventLoop,
    InvalidMessage,
    MessageTooLarge,
    NetraQueueError,
    NotAuthenticated,
    NotConfigured,
    QueueFull,
    StoreUnavailable,
)

if TYPE_CHECKING:
    from .sending import asend, asend_many, asend_to_user, send, send_many, send_to_user

__version__ = "0.1.0"

__all__ = [
    "CalledOnEventLoop",
    "InvalidMessage",
    "MessageTooLarge",
    "NetraQueueError",
    "NotAuthenticated",
    "NotConfigured",
    "Outcome",
    "Priority",
    "QueueFull",
    "Receipt",
    "StoreUnavailable",
    "asend",
    "asend_many",
    "asend_to_user",
    "send",
    "send_many",
    "send_to_user",
]


def __getattr__(name: str) -> Any:
    """The verbs are imported on first use: Django imports this package before its models may be."""
    if name in __all__:
        return getattr(import_module(".sending", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
