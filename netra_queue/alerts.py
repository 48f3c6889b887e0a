"""Looks at the store and the statistics, and opens and resolves alerts. docs/alerts.md has the rules.

    Beat, or cron --> evaluate --> look --> core.alerting --under the row's lock--> Store.change_alerts
                                                                  after the commit, for what has changed: a log line,
                                                                  the signal alert_changed, a mail to ADMINS

Any number of processes may evaluate at the same time: each decides with what the one before has written, and the older
look at the store decides nothing. Who is told of a change is whoever wrote it, once; if that process is killed at this
moment, nobody is told, and the alert is in the admin.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from django.core.mail import mail_admins

from . import conf, policies
from .complaints import complain
from .core import alerting
from .core.alert_rules import KEYS, RULES, Rule, Severity
from .core.alerting import Alert, AlertState, Book, Change
from .core.situation import LONGEST_WINDOW_SECONDS, Situation
from .exceptions import NotConfigured
from .fullness import near_limit
from .maintenance import COUNT_LIMIT
from .signals import alert_changed
from .stores import current_store
from .stores.base import Store

logger = logging.getLogger(__name__)

RECENT = timedelta(hours=2)  # in steps of RECENT_STEP_SECONDS; what is older in OLD_STEP_SECONDS
RECENT_STEP_SECONDS = 60
OLD_STEP_SECONDS = 600
MAIL_SECONDS = 20.0  # a mail server that does not answer by then holds nobody up
_BY_NAME = {rule.name: rule for rule in RULES}
CHANGEABLE = {"ABOVE", "FOR_SECONDS"}

# --- the rules in force --------------------------------------------------------------------------------------------


def rules() -> tuple[Rule, ...]:
    """The rules as the settings have them. Raises NotConfigured."""
    given = conf.get("ALERTS")
    if not isinstance(given, Mapping):
        raise NotConfigured(_where(), f"expected a dict, got {given!r}")
    for key in given:
        if key not in KEYS:
            raise NotConfigured(_where(), f"there is no alert {key!r}; known are {', '.join(KEYS)}")
    return tuple(_changed(rule, given.get(rule.key, {})) for rule in RULES if given.get(rule.key, {}) is not None)


def _changed(rule: Rule, values: object) -> Rule:
    if not isinstance(values, Mapping) or not set(values) <= CHANGEABLE:
        expected = " and ".join(sorted(CHANGEABLE))
        raise NotConfigured(_where(rule), f"expected None or a dict with {expected}, got {values!r}")
    for key, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= conf.LONGEST_SECONDS:
            raise NotConfigured(_where(rule), f"{key}: expected a number from 0 on, got {value!r}")
    changes = {"above": values.get("ABOVE"), "for_seconds": values.get("FOR_SECONDS")}
    return replace(rule, **{name: value for name, value in changes.items() if value is not None})


def _where(rule: Rule | None = None) -> str:
    return f"{conf.SETTING}['ALERTS']" + (f"[{rule.key!r}]" if rule is not None else "")


# --- evaluating ----------------------------------------------------------------------------------------------------


def evaluate(chosen: Sequence[Rule] | None = None) -> list[Alert]:
    """Look at everything, and open and resolve what there is to; returns the alerts that go on.

    ``chosen``: rules instead of those in force. Blocks; raises StoreUnavailable, and changes nothing then.
    """
    wanted = rules() if chosen is None else chosen
    store = policies.fresh_store()
    situation = look(store)
    return list(_carry_out(store, lambda book: alerting.evaluate(book, situation, wanted)).going_on)


def look(store: Store) -> Situation:
    """The store as it stands, with what all processes have done. Raises StoreUnavailable."""
    now = store.now()
    since, recent = now - timedelta(seconds=LONGEST_WINDOW_SECONDS), now - RECENT
    older = store.statistics(since, recent, OLD_STEP_SECONDS)
    overview, expired_since = store.overview(0, COUNT_LIMIT), store.due(1).expired_since
    return Situation(
        at=now,
        buckets=(*older, *store.statistics(recent, now, RECENT_STEP_SECONDS)),
        oldest_seconds=(now - (overview.oldest_at or now)).total_seconds(),
        expired_seconds=(now - (expired_since or now)).total_seconds(),
        servers=overview.servers,
        connections=overview.connections,
        near_limit=[stat.queue for stat in near_limit(store)],
    )


def acknowledge(numbers: Collection[int], by: str) -> list[Alert]:
    """Somebody sees to these alerts. Returns those that were open; the others stay as they are."""
    store = current_store()
    now = store.now()
    after = _carry_out(store, lambda book: book.acknowledged(numbers, by, now))
    return [alert for alert in after.going_on if alert.number in numbers and alert.acknowledged_at == now]


def _carry_out(store: Store, change: Callable[[Book], Book]) -> Book:
    before, after = store.change_alerts(change)
    found = alerting.changes(before, after)
    if found:
        store.after_commit(lambda: _tell(found))
    return after


# --- who is told ---------------------------------------------------------------------------------------------------


def _tell(changes: Sequence[Change]) -> None:
    """Never raises."""
    for change in changes:
        _log(change)
        alert_changed.send_robust(sender=None, alert=change.alert, before=change.before)
    _mail(*_as_mail(changes))


def _log(change: Change) -> None:
    alert, rule = change.alert, rule_of(change.alert.name)
    text, values = "alert %s is %s: %s", (alert.name, alert.state.value, alert.detail)
    extra = {"action": "alert_changed", "alert": alert.name, "state": alert.state.value}
    if alert.state is not AlertState.OPEN:
        logger.info(text, *values, extra=extra)
    elif rule is not None and rule.severity is Severity.CRITICAL:
        logger.error(text, *values, extra=extra)
    else:
        logger.warning(text, *values, extra=extra)


def rule_of(name: str) -> Rule | None:
    """The rule with this name; None: another release had it."""
    return _BY_NAME.get(name)


def as_text(alert: Alert) -> str:
    """An alert in some lines, for people."""
    rule = rule_of(alert.name)
    lines = [f"{alert.name}: {alert.state.value}", alert.detail, f"Since {alert.opened_at:%Y-%m-%d %H:%M:%S} UTC."]
    if rule is not None:
        lines[0] += f" ({rule.severity.value}): {rule.summary}"
        lines.append(f"See {rule.runbook}.")
    if alert.acknowledged_by:
        lines.insert(3, f"Acknowledged by {alert.acknowledged_by}.")
    return "\n".join(lines)


def _as_mail(changes: Sequence[Change]) -> tuple[str, str]:
    first = changes[0].alert
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"{first.name} is {first.state.value}{more}", "\n\n".join(as_text(change.alert) for change in changes)


def _mail(subject: str, text: str) -> None:
    """In a thread: Django waits for a mail server without end, unless EMAIL_TIMEOUT says otherwise."""
    thread = threading.Thread(target=_try_to_mail, args=(subject, text), name="netra-alerts", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # Python starts no more
        complain(logger, "alert not mailed", "alert_not_mailed", error)
        return
    thread.join(MAIL_SECONDS)
    if thread.is_alive():
        late = TimeoutError(f"no answer within {MAIL_SECONDS:g} seconds")
        complain(logger, "alert not mailed", "alert_not_mailed", late)


def _try_to_mail(subject: str, text: str) -> None:
    try:
        mail_admins(subject, text)
    except Exception as error:
        complain(logger, "alert not mailed", "alert_not_mailed", error)
