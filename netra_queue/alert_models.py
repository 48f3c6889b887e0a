"""The tables of alerts. Rows are changed through a store only."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from .core.alerting import AlertState
from .fields import ExactCharField, ExactTextField


class Alert(models.Model):
    """Something that was wrong, from when it was found until it was over. See ``core.alerting.Alert``."""

    id = models.BigAutoField(primary_key=True)
    name = ExactCharField(_("name"), max_length=64)
    state = ExactCharField(_("state"), max_length=16, choices=[(state.value, state.value) for state in AlertState])
    opened_at = models.DateTimeField(_("opened at"))
    acknowledged_at = models.DateTimeField(_("acknowledged at"), null=True)
    acknowledged_by = models.CharField(_("acknowledged by"), max_length=150, blank=True, default="")
    resolved_at = models.DateTimeField(_("resolved at"), null=True, db_index=True)  # None: it goes on
    value = models.FloatField(_("value"))
    detail = ExactTextField(_("detail"))

    class Meta:
        verbose_name = _("alert")
        verbose_name_plural = _("alerts")
        default_permissions = ("view",)
        permissions = [("acknowledge_alert", _("Can acknowledge alert"))]

    def __str__(self) -> str:
        return str(self.name)


class AlertBook(models.Model):
    """One row: what an evaluation leaves for the next one. Whoever evaluates holds it."""

    id = models.SmallIntegerField(primary_key=True)
    evaluated_at = models.DateTimeField(null=True)
    memory = models.TextField(default="")  # JSON; nothing before the first evaluation

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.evaluated_at)
