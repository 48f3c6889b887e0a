"""The table of statistics. Beside ``models``, which every query of messages is about."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Statistics(models.Model):
    """What one process did in ten seconds; rolled up, what all of them did in a minute, in an hour, or ever.

    ``span``: how many seconds from ``start`` on; 0: ever, the one row that is kept for good. ``figures``: a
    ``core.statistics.Figures`` as JSON. ``process``: empty when it stands for all.
    """

    id = models.BigAutoField(primary_key=True)
    span = models.IntegerField(_("seconds"))
    start = models.DateTimeField(_("from"))
    process = models.CharField(_("process"), max_length=32, blank=True, default="")
    figures = models.TextField(_("figures"))

    class Meta:
        verbose_name = _("statistics")
        verbose_name_plural = _("statistics")
        default_permissions = ("view",)
        constraints = [models.UniqueConstraint(fields=["span", "start", "process"], name="netra_statistics_once")]

    def __str__(self) -> str:
        return f"{self.span} s from {self.start}"


class Dashboard(Statistics):
    """Has no table: it gives the dashboard its permission, and its place in the admin."""

    class Meta:
        proxy = True
        verbose_name = _("dashboard")
        verbose_name_plural = _("dashboard")
        default_permissions = ("view",)
