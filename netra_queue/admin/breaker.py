"""The breakers of all processes, as operators force them, and the kill switch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST

from .. import operating
from ..core.controls import ForcedBreaker
from ..models import ControlState
from ..stores import current_store
from .policies import ControlAdmin

AUTO, OPEN, CLOSED = "auto", "open", "closed"
WORDS = {AUTO: _("does what the store shows"), OPEN: _("open: nobody asks the store"), CLOSED: _("closed, in any case")}
MINUTES, MOST_MINUTES = 15, 24 * 60


def word_of(row: ControlState) -> str:
    """How the breakers are forced now."""
    if row.is_breaker_open is None or row.breaker_until is None or row.breaker_until <= datetime.now(UTC):
        return AUTO
    return OPEN if row.is_breaker_open else CLOSED


class BreakerForm(forms.ModelForm):  # type: ignore[type-arg]
    word = forms.ChoiceField(
        choices=WORDS.items(),
        label=_("Breaker"),
        help_text=_("In force in all processes within two seconds. It ends by itself."),
    )
    minutes = forms.IntegerField(min_value=1, max_value=MOST_MINUTES, initial=MINUTES, label=_("For so many minutes"))

    class Meta:
        model = ControlState
        fields = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["word"] = word_of(self.instance)

    def change(self) -> operating.Change:
        word, minutes = self.cleaned_data["word"], self.cleaned_data["minutes"]
        until = current_store().now() + timedelta(minutes=minutes)
        return operating.breaker_forced(None if word == AUTO else ForcedBreaker(word == OPEN, until))

    def changes(self) -> list[tuple[str, str, str]]:
        """What it was, and what it is; that it is so for longer is a change as well."""
        word = self.cleaned_data["word"]
        new = word if word == AUTO else f"{word} for {self.cleaned_data['minutes']} minutes"
        return [("breaker", self.initial["word"], new)]


@admin.register(ControlState)
class BreakerAdmin(ControlAdmin):
    form = BreakerForm
    list_display = ("word", "breaker_until")
    fields = ("word", "minutes")
    change_list_template = "netra_queue/admin/switch.html"
    sortable_by = ()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ControlState | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The one row is made when it is wanted for the first time."""
        found = current_store().change_controls(lambda before: before)
        may_switch = request.user.has_perm("netra_queue.switch_off")
        context = {"is_off": found.is_off, "may_switch": may_switch, **(extra_context or {})}
        return super().changelist_view(request, context)

    def get_urls(self) -> list[Any]:
        switch = self.admin_site.admin_view(require_POST(self.switch_view))
        return [path("switch/", switch, name="netra_queue_switch"), *super().get_urls()]

    def switch_view(self, request: HttpRequest) -> HttpResponse:
        """The kill switch: pulled, or put back, by one click."""
        if not request.user.has_perm("netra_queue.switch_off"):
            raise PermissionDenied
        is_off = request.POST.get("is_off") == "1"
        operating.carry_out(operating.switched(is_off=is_off))
        row = ControlState.objects.get()
        self.log_change(request, row, f"kill switch: {'pulled' if is_off else 'put back'}")
        self.message_user(
            request, _("Every queue is plain Channels now.") if is_off else _("Queues are durable again.")
        )
        return HttpResponseRedirect(reverse("admin:netra_queue_controlstate_changelist"))

    @admin.display(description=_("breaker"))
    def word(self, row: ControlState) -> str:
        return str(WORDS[word_of(row)])
