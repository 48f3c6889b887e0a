from __future__ import annotations

from importlib.util import find_spec

from django.apps import AppConfig


class NetraQueueConfig(AppConfig):
    name = "netra_queue"
    verbose_name = "Message queues"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import (  # noqa: F401  they register themselves
            alert_checks,
            checks,
            control_checks,
            rate_checks,
            statistics,
        )

        if find_spec("prometheus_client") is not None:
            from . import metrics

            metrics.begin()
