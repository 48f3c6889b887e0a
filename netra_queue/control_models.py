"""The tables of what operators set. Rows are changed through a store only; in the admin, that is done."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from .fields import ExactCharField, ExactTextField


class QueuePolicy(models.Model):
    """What operators say of a policy, over the settings. ``values``: a JSON object, with the settings' keys."""

    name = ExactCharField(_("name"), max_length=100, primary_key=True)
    values = ExactTextField(_("values"))
    changed_at = models.DateTimeField(_("changed at"))

    class Meta:
        verbose_name = _("policy")
        verbose_name_plural = _("policies")

    def __str__(self) -> str:
        return str(self.name)


class PolicyPattern(models.Model):
    """Queues whose names match have this policy. The one with the lowest ``place`` of several."""

    pattern = ExactCharField(_("pattern"), max_length=200, primary_key=True)
    policy = ExactCharField(_("policy"), max_length=100)
    place = models.IntegerField(_("place"))
    changed_at = models.DateTimeField(_("changed at"))

    class Meta:
        verbose_name = _("policy pattern")
        verbose_name_plural = _("policy patterns")

    def __str__(self) -> str:
        return str(self.pattern)


class ControlState(models.Model):
    """One row. ``version`` is another one after each change of what operators set, of these tables or of this row."""

    id = models.SmallIntegerField(primary_key=True)
    version = models.BigIntegerField(default=0)
    is_off = models.BooleanField(default=False, db_default=False)
    is_breaker_open = models.BooleanField(_("breaker"), null=True)  # as operators have forced it; None: they have not
    breaker_until = models.DateTimeField(_("until"), null=True)

    class Meta:
        verbose_name = _("breaker")
        verbose_name_plural = _("breaker")
        default_permissions = ("view", "change")
        permissions = (("switch_off", _("Can pull the kill switch, and put it back")),)

    def __str__(self) -> str:
        return str(_("of all processes"))
