"""Alerts: what is wrong, since when, and who sees to it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.formats import localize
from django.utils.timezone import localtime, now
from django.utils.translation import gettext_lazy as _

from .. import alerts
from ..core import alerting
from ..core.alerting import AlertState
from ..exceptions import StoreUnavailable
from ..models import Alert, AlertBook
from .base import ReadOnlyAdmin


def _nobody_evaluates() -> str:
    """What to say of that; nothing if somebody does."""
    book = AlertBook.objects.first()
    at = book.evaluated_at if book is not None else None
    if at is None:
        return str(_("The alerts have never been evaluated: see docs/alerts.md."))
    if now() - at > alerting.GAP:
        return _("The alerts were evaluated at %(at)s for the last time.") % {"at": localize(localtime(at))}
    return ""


class StateFilter(admin.SimpleListFilter):
    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(state.value, state.value) for state in AlertState]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Alert]) -> QuerySet[Alert]:
        known = {state.value for state in AlertState}
        return queryset.filter(state=self.value()) if self.value() in known else queryset


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    list_display = ("name", "state", "severity", "detail", "opened_at", "acknowledged_by", "resolved_at")
    list_filter = (StateFilter,)
    ordering = ("-pk",)
    fields = (
        "name",
        "state",
        "severity",
        "summary",
        "detail",
        "value",
        "runbook",
        "opened_at",
        "acknowledged_at",
        "acknowledged_by",
        "resolved_at",
    )
    readonly_fields = fields
    actions = ("acknowledge",)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """With a warning where alerts do not change because nobody evaluates them."""
        if request.method == "GET" and (problem := _nobody_evaluates()):
            self.message_user(request, problem, messages.WARNING)
        return super().changelist_view(request, extra_context)

    @admin.display(description=_("severity"))
    def severity(self, alert: Alert) -> str:
        rule = alerts.rule_of(alert.name)
        return rule.severity.value if rule is not None else "-"

    @admin.display(description=_("summary"))
    def summary(self, alert: Alert) -> str:
        rule = alerts.rule_of(alert.name)
        return rule.summary if rule is not None else "-"

    @admin.display(description=_("runbook"))
    def runbook(self, alert: Alert) -> str:
        rule = alerts.rule_of(alert.name)
        return rule.runbook if rule is not None else "-"

    # --- actions -----------------------------------------------------------------------------------------------

    def has_acknowledge_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("netra_queue.acknowledge_alert")

    @admin.action(description=_("Acknowledge selected alerts"), permissions=["acknowledge"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        """Only those that are open; the others stay as they are."""
        chosen = {alert.pk: alert for alert in queryset}
        try:
            done = alerts.acknowledge(chosen, request.user.get_username())
        except StoreUnavailable as error:
            self.message_user(request, _("Failed: %(error)s") % {"error": error}, messages.ERROR)
            return
        for alert in done:
            self.log_change(request, chosen[alert.number or 0], "Acknowledged.")
        text = _("Acknowledged %(count)d alerts.") % {"count": len(done)}
        self.message_user(request, text, messages.SUCCESS if done else messages.WARNING)
