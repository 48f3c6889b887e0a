"""Checks for django-health-check, one for each part. It is imported only where that is installed.

    HealthCheckView.as_view(checks=["netra_queue.health_plugin.NetraQueueStore", …])

They tell what the page for readiness tells, and load the database no more than that: see ``readiness``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from health_check.base import HealthCheck
from health_check.exceptions import ServiceUnavailable, ServiceWarning

from . import readiness
from .health import Health


class _Part(HealthCheck):
    """``part``: the name of a probe of ours. Our WARN is a ServiceWarning, which their view counts as an error."""

    part: ClassVar[str]

    async def run(self) -> None:
        report = await readiness.report()
        if report is None:
            raise ServiceUnavailable("the probes do not end")
        (found,) = [one for one in report.findings if one.name == self.part]
        if found.health is not Health.OK:
            kind = ServiceUnavailable if found.health is Health.FAILED else ServiceWarning
            raise kind(f"{found.text} ({found.page})")


@dataclass
class NetraQueueStore(_Part):
    """The message store answers."""

    part = "store"


@dataclass
class NetraQueueChannelLayer(_Part):
    """A message to itself comes back. Without it, messages wait for the next poll."""

    part = "channel layer"


@dataclass
class NetraQueueHub(_Part):
    """In a process with connections: its event loop answers, and the store has heard of it."""

    part = "hub"


@dataclass
class NetraQueueSweep(_Part):
    """Expired messages are removed."""

    part = "sweep"
