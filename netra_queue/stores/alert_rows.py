"""The part of the database store that keeps alerts. One row is locked by whoever changes anything about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from .. import models
from ..core.alerting import Alert, AlertState, Book
from . import overview
from .alerts_base import ALERTS_KEPT, ALERTS_REMOVED
from .base import Store
from .connecting import own_transaction, run
from .rows import delete
from .values import QueueStat

ONLY = 1  # the id of the one row


class DatabaseAlerts(Store):
    """See ``Store``."""

    using: str

    def change_alerts(self, change: Callable[[Book], Book]) -> tuple[Book, Book]:
        now = self.now()
        return run(self.using, lambda: _change(self.using, change, now))

    def alerts(self, limit: int) -> list[Alert]:
        rows = models.Alert.objects.using(self.using).order_by("-pk")
        return [_alert(row) for row in run(self.using, lambda: list(rows.all()[:limit]))]

    def fullest(self, messages: int, size: int, limit: int, scan: int) -> list[QueueStat]:
        return run(self.using, lambda: overview.fullest(self.using, messages, size, limit, scan))


def _change(using: str, change: Callable[[Book], Book], now: datetime) -> tuple[Book, Book]:
    with own_transaction(using):
        row = _locked(using)
        before = _book(using, row)
        after = change(before)
        if after == before:
            return before, before
        after = _write_alerts(using, before, after)
        row.evaluated_at, row.memory = after.evaluated_at, _memory(after)
        row.save(using=using, force_update=True)
        old = models.Alert.objects.using(using).filter(resolved_at__lt=now - ALERTS_KEPT).order_by("pk")
        delete(using, list(old.values_list("pk", flat=True)[:ALERTS_REMOVED]), models.Alert)
        return before, after


def _locked(using: str) -> models.AlertBook:
    """The row is looked for first: an insert that finds it would share a lock with others who all want it alone."""
    rows = models.AlertBook.objects.using(using).select_for_update()
    if (row := rows.filter(pk=ONLY).first()) is not None:
        return row
    models.AlertBook.objects.using(using).bulk_create([models.AlertBook(id=ONLY)], ignore_conflicts=True)
    return rows.get(pk=ONLY)


def _book(using: str, row: models.AlertBook) -> Book:
    """With what a caller's transaction would otherwise see as it was when that began."""
    memory = json.loads(row.memory) if row.memory else {"since": {}, "servers": []}
    alerts = models.Alert.objects.using(using).filter(resolved_at=None).order_by("pk").select_for_update()
    return Book(
        evaluated_at=row.evaluated_at,
        alerts=tuple(map(_alert, alerts)),
        since={name: _moment(seconds) for name, seconds in memory["since"].items()},
        servers=tuple((_moment(seconds), count) for seconds, count in memory["servers"]),
    )


def _memory(book: Book) -> str:
    since = {name: at.timestamp() for name, at in book.since.items()}
    servers = [(at.timestamp(), count) for at, count in book.servers]
    return json.dumps({"since": since, "servers": servers}, separators=(",", ":"))


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _alert(row: models.Alert) -> Alert:
    return Alert(
        number=row.pk,
        name=row.name,
        state=AlertState(row.state),
        opened_at=row.opened_at,
        acknowledged_at=row.acknowledged_at,
        acknowledged_by=row.acknowledged_by,
        resolved_at=row.resolved_at,
        value=row.value,
        detail=row.detail,
    )


def _fields(alert: Alert) -> dict[str, Any]:
    return {
        "name": alert.name,
        "state": alert.state.value,
        "opened_at": alert.opened_at,
        "acknowledged_at": alert.acknowledged_at,
        "acknowledged_by": alert.acknowledged_by,
        "resolved_at": alert.resolved_at,
        "value": alert.value,
        "detail": alert.detail,
    }


def _write_alerts(using: str, before: Book, after: Book) -> Book:
    return replace(after, alerts=tuple(_written(using, alert, before) for alert in after.alerts))


def _written(using: str, alert: Alert, before: Book) -> Alert:
    if alert in before.alerts:
        return alert
    row = models.Alert(pk=alert.number, **_fields(alert))
    row.save(using=using, force_insert=alert.number is None, force_update=alert.number is not None)
    return replace(alert, number=row.pk)
