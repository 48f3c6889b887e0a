from __future__ import annotations

from django.apps import AppConfig


class NetraQueueConfig(AppConfig):
    name = "netra_queue"
    verbose_name = "Message queues"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from . import checks  # noqa: F401  registers the system checks
