"""The part of the database store that keeps what operators set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from ..core.controls import Controls, ForcedBreaker, PatternRule
from ..models import ControlState, PolicyPattern, QueuePolicy, ServerProcess
from .base import Store
from .connecting import own_transaction, run
from .presence import lease

ONLY = 1  # the id of the one row that has the version


class DatabaseControls(Store):
    """See ``Store``."""

    using: str

    def controls(self, known: int | None = None) -> Controls | None:
        return run(self.using, lambda: _read(self.using, known))

    def change_controls(self, change: Callable[[Controls], Controls]) -> Controls:
        now = self.now()
        return run(self.using, lambda: _change(self.using, change, now))

    def servers(self) -> list[str]:
        now = self.now()
        living = ServerProcess.objects.using(self.using).filter(heartbeat_at__gt=lease(now))
        return run(self.using, lambda: sorted(living.values_list("pk", flat=True)))


def _read(using: str, known: int | None) -> Controls | None:
    """The version first: rows that are newer than it are read once more next time."""
    state = ControlState.objects.using(using).filter(pk=ONLY).first() or ControlState()
    return None if state.version == known else _rows(using, state)


def _rows(using: str, state: ControlState, *, is_locking: bool = False) -> Controls:
    policies, patterns = QueuePolicy.objects.using(using), PolicyPattern.objects.using(using)
    if is_locking:  # also in a caller's transaction that would otherwise see them as they were when it began
        policies, patterns = policies.select_for_update(), patterns.select_for_update()
    return Controls(
        version=state.version,
        overrides={name: _decoded(text) for name, text in policies.order_by("pk").values_list("name", "values")},
        rules=tuple(
            sorted(PatternRule(*row) for row in patterns.order_by("pk").values_list("place", "pattern", "policy"))
        ),
        is_off=state.is_off,
        breaker=_forced(state),
    )


def _forced(state: ControlState) -> ForcedBreaker | None:
    if state.is_breaker_open is None or state.breaker_until is None:
        return None
    return ForcedBreaker(state.is_breaker_open, state.breaker_until)


def _decoded(text: str) -> Any:
    """What somebody wrote by other means than a store may be anything: whoever uses it finds that out."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _change(using: str, change: Callable[[Controls], Controls], now: datetime) -> Controls:
    with own_transaction(using):
        state = _locked(using)
        before = _rows(using, state, is_locking=True)
        after = change(before)
        if after == before:
            return before
        _write_policies(using, before, after, now)
        _write_patterns(using, before, after, now)
        _advance(state, now)
        state.is_off = after.is_off
        state.is_breaker_open = after.breaker.is_open if after.breaker else None
        state.breaker_until = after.breaker.until if after.breaker else None
        state.save(using=using, force_update=True)
        return replace(after, version=state.version)


def _advance(state: ControlState, now: datetime) -> None:
    """A time, so that a database that was emptied or restored does not come to a version that is known already."""
    state.version = max(state.version + 1, int(now.timestamp() * 1000))


def touch(using: str, now: datetime) -> None:
    """In the caller's transaction: operators have done something that servers have to look at; the controls are as they
    were."""
    state = _locked(using)
    _advance(state, now)
    state.save(using=using, force_update=True, update_fields=["version"])


def _locked(using: str) -> ControlState:
    """The row is looked for first: an insert that finds it would share a lock with others who all want it alone."""
    rows = ControlState.objects.using(using).select_for_update()
    if (state := rows.filter(pk=ONLY).first()) is not None:
        return state
    ControlState.objects.using(using).bulk_create([ControlState(id=ONLY)], ignore_conflicts=True)
    return rows.get(pk=ONLY)


def _write_policies(using: str, before: Controls, after: Controls, now: datetime) -> None:
    gone = sorted(before.overrides.keys() - after.overrides.keys())
    QueuePolicy.objects.using(using).filter(pk__in=gone)._raw_delete(using)
    for name, values in after.overrides.items():
        if name not in before.overrides or before.overrides[name] != values:
            QueuePolicy(name=name, values=json.dumps(values), changed_at=now).save(using=using)


def _write_patterns(using: str, before: Controls, after: Controls, now: datetime) -> None:
    gone = sorted({rule.pattern for rule in before.rules} - {rule.pattern for rule in after.rules})
    PolicyPattern.objects.using(using).filter(pk__in=gone)._raw_delete(using)
    for rule in after.rules:
        if rule not in before.rules:
            row = PolicyPattern(pattern=rule.pattern, policy=rule.policy, place=rule.place, changed_at=now)
            row.save(using=using)
