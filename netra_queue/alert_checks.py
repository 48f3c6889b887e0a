"""The system check of the setting ALERTS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.checks import CheckMessage, Error, register

from . import alerts, conf
from .control_checks import TAG
from .exceptions import NotConfigured


@register(TAG)
def check_alerts(**kwargs: Any) -> list[CheckMessage]:
    try:
        if isinstance(conf.get("ALERTS"), Mapping):  # E003 otherwise
            alerts.rules()
    except NotConfigured as error:
        if error.setting == conf.SETTING:  # E001
            return []
        hint = "Name an alert of docs/alerts.md, and give it None or a dict with ABOVE and FOR_SECONDS."
        return [Error(f"{error}.", hint=hint, id="netra_queue.E020")]
    return []
