"""The system checks of rates that keep honest clients out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Warning, register

from . import conf
from .control_checks import TAG
from .core.policy import Policy
from .core.rate import Rate
from .exceptions import NotConfigured

PINGS = 2  # in each heartbeat: what the protocol advises, and our clients do


def rate_problem(value: object) -> str | None:
    """What is wrong with a rate; None: nothing."""
    try:
        Rate.parse(value)
    except ValueError as error:
        return str(error)
    return None


@register(TAG)
def check_rates(**kwargs: Any) -> list[CheckMessage]:
    try:
        return [message for policy in conf.policies() for message in _of(policy)]
    except (NotConfigured, TypeError):
        return []  # reported as wrong settings


def _of(policy: Policy) -> Iterator[CheckMessage]:
    connections, frames = policy.connections, policy.control_frames
    if connections is not None and connections.burst < policy.max_lines:
        yield Warning(
            f"Policy {policy.name!r}: CONNECTIONS lets {connections.burst} connections through at once, and MAX_LINES "
            f"allows {policy.max_lines} devices: when a server restarts, not all of them can come back.",
            hint=f"Write a burst of twice MAX_LINES: '{connections.count}/… burst {2 * policy.max_lines}'.",
            id="netra_queue.W021",
        )
    if frames is not None and frames.seconds_each > policy.heartbeat_seconds / PINGS:
        yield Warning(
            f"Policy {policy.name!r}: CONTROL_FRAMES, {frames}, is less than the pings that HEARTBEAT_SECONDS "
            f"({policy.heartbeat_seconds}) makes clients send.",
            hint=f"Leave it out: the default is {conf.POLICY_DEFAULTS['CONTROL_FRAMES']!r}.",
            id="netra_queue.W022",
        )
