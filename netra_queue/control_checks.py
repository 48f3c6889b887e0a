"""The system checks of what the project's own code decides (POLICY_RESOLVER, REDACT), and of what operators set."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import iscoroutinefunction
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import DatabaseError, router
from django.utils.module_loading import import_string

from . import conf
from .core.controls import Controls
from .exceptions import NetraQueueError, NotConfigured
from .stores import current_store
from .stores.database import DatabaseStore

TAG = "netra_queue"


@register(TAG)
def check_resolver(**kwargs: Any) -> list[CheckMessage]:
    hint = "Name a function of a user that returns the name of a policy, or None."
    return _callable("POLICY_RESOLVER", hint=hint, id="netra_queue.E011", may_be_async=True)


@register(TAG)
def check_redact(**kwargs: Any) -> list[CheckMessage]:
    hint = "Name a function of a queue's name and what was sent, which returns what is shown of it."
    return _callable("REDACT", hint=hint, id="netra_queue.E013")


def _callable(key: str, *, hint: str, id: str, may_be_async: bool = False) -> list[CheckMessage]:
    """What is wrong with a setting that names a callable, or None."""
    try:
        path = conf.get(key)
    except NotConfigured:
        return []
    problem = None
    if path is not None and not isinstance(path, str):
        problem = f"expected a text or None, got {path!r}"
    elif path:
        problem = _import_problem(path, may_be_async)
    return [] if problem is None else [Error(f"{conf.SETTING}[{key!r}]: {problem}.", hint=hint, id=id)]


def _import_problem(path: str, may_be_async: bool) -> str | None:
    try:
        found = import_string(path)
    except Exception as error:  # whatever happens when somebody's module is imported
        return f"cannot import {path!r}: {error}"
    if not callable(found):
        return f"{path!r} cannot be called"
    return f"{path!r} is not synchronous" if iscoroutinefunction(found) and not may_be_async else None


def _judged(databases: Sequence[str] | None) -> conf.Judged | None:
    """What operators have set in these databases; None: nothing can be said of it."""
    if not databases or router.db_for_read(apps.get_model("netra_queue", "QueuePolicy")) not in databases:
        return None
    try:
        store = current_store()
        return conf.judge(store.controls() or Controls()) if isinstance(store, DatabaseStore) else None
    except (DatabaseError, NetraQueueError, ImportError, TypeError):
        return None  # not migrated yet, not to be reached, or reported as wrong settings


def watching_policies(databases: Sequence[str] | None = None) -> list[str]:
    """The policies that have messages handed over, as the beginning of a sentence; none if the settings are wrong.

    Those of operators only where their database may be asked.
    """
    try:
        watching = {policy.name: None for policy in conf.policies() if policy.undelivered}
    except (NotConfigured, TypeError):
        return []
    if (found := _judged(databases)) is not None:
        overrides = found.controls.overrides
        watching |= {name: None for name in overrides if overrides[name].get("UNDELIVERED_SECONDS") is not None}
    return [f"Policy {name!r}" for name in watching]


@register(TAG, Tags.database)
def check_controls(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """With ``check --database``: what operators have set and cannot be in force."""
    found = _judged(databases)
    if found is None:
        return []
    hint = "Put it right in the admin, under Policies or Policy patterns, or delete it there."
    ignored = [
        Error(f"{what} is ignored: {problem}.", hint=hint, id="netra_queue.E012")
        for what, problem in found.problems.items()
    ]
    defaults = [
        Warning(f"{what}: {problem}. Its queues have the default one.", hint=hint, id="netra_queue.W014")
        for what, problem in found.unknown.items()
    ]
    return [*ignored, *defaults]
