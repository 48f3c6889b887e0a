"""Where queues live. ``current_store()`` is the one that the settings name."""

from __future__ import annotations

from typing import Any, cast

from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from .. import conf
from . import guarded as guarded
from .base import Store

_current: Store | None = None


def current_store() -> Store:
    """The process's store, made on first use. Stores are thread-safe, so one instance serves every thread."""
    global _current
    if _current is None:
        _current = guarded.with_breaker(cast(type[Store], import_string(conf.get("STORE"))))()
    return _current


def _forget(*, setting: str, **kwargs: Any) -> None:
    global _current
    if setting == conf.SETTING:
        _current = None
        guarded.forget()


setting_changed.connect(_forget, dispatch_uid="netra_queue.stores")
