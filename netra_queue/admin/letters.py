"""Dead letters: what was set aside and why; put back, or deleted."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.translation import gettext_lazy as _

from .. import letters
from ..core.message import LossReason
from ..exceptions import StoreUnavailable
from ..models import DeadLetter, queue_id
from .base import ReadOnlyAdmin
from .messages import QueueFilter, complete_with_queues, shown_payload, shown_queue

AT_ONCE = 200  # letters in one action: a page must answer


class ReasonFilter(admin.SimpleListFilter):
    title = _("reason")
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(reason.value, reason.value) for reason in LossReason]

    def queryset(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> QuerySet[DeadLetter]:
        known = {reason.value for reason in LossReason}
        return queryset.filter(reason=self.value()) if self.value() in known else queryset


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    list_display = ("uid", "queue_name", "reason", "deliveries", "priority", "size", "created_at", "died_at")
    list_filter = (QueueFilter, ReasonFilter)
    ordering = ("-pk",)
    search_fields = ("queue",)
    search_help_text = _("The exact name of a queue.")
    fields = (
        "uid",
        "queue_name",
        "reason",
        "deliveries",
        "priority",
        "kind",
        "size",
        "created_at",
        "expires_at",
        "died_at",
        "keep_until",
        "payload_text",
    )
    readonly_fields = fields
    actions = ("requeue", "delete_letters")

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeadLetter]:
        """Without payloads: a page of them may be many megabytes, and few may see them."""
        return super().get_queryset(request).defer("payload")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[DeadLetter], search_term: str
    ) -> tuple[QuerySet[DeadLetter], bool]:
        name = search_term.strip()
        return (queryset.filter(queue_id=queue_id(name)) if name else queryset), False

    def get_fields(self, request: HttpRequest, obj: DeadLetter | None = None) -> tuple[str, ...]:
        may_see = request.user.has_perm("netra_queue.view_payload")
        return self.fields if may_see else tuple(name for name in self.fields if name != "payload_text")

    def complete(self, rows: list[DeadLetter]) -> None:
        complete_with_queues(rows)

    @admin.display(description=_("queue"))
    def queue_name(self, letter: Any) -> str:
        return shown_queue(letter, self.admin_site.name)

    @admin.display(description=_("payload"))
    def payload_text(self, letter: DeadLetter) -> str:
        return shown_payload(letter.payload)

    # --- actions -----------------------------------------------------------------------------------------------

    def has_requeue_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("netra_queue.requeue_deadletter")

    def has_delete_letters_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("netra_queue.delete_deadletter")

    @admin.action(description=_("Requeue selected dead letters"), permissions=["requeue"])
    def requeue(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> TemplateResponse | None:
        """Ask first; with ``confirmed`` in the form, do it."""
        page = self._asked(request, queryset, "requeue")
        if page is None:
            self._requeue(request, self._chosen(queryset))
        return page

    @admin.action(description=_("Delete selected dead letters"), permissions=["delete_letters"])
    def delete_letters(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> TemplateResponse | None:
        """Ask first; with ``confirmed`` in the form, do it."""
        page = self._asked(request, queryset, "delete_letters")
        if page is None:
            self._delete(request, self._chosen(queryset))
        return page

    def _chosen(self, queryset: QuerySet[DeadLetter]) -> list[DeadLetter]:
        return list(queryset.order_by("pk")[:AT_ONCE])

    def _asked(self, request: HttpRequest, queryset: QuerySet[DeadLetter], action: str) -> TemplateResponse | None:
        """The page that asks; None when it has been answered."""
        if request.POST.get("confirmed") == "yes":
            return None
        chosen = self._chosen(queryset)
        self.complete(chosen)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Requeue dead letters") if action == "requeue" else _("Delete dead letters"),
            "opts": self.opts,
            "letters": chosen,
            "action": action,
            "at_once": AT_ONCE,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "netra_queue/admin/letters.html", context)

    def _requeue(self, request: HttpRequest, chosen: list[DeadLetter]) -> None:
        try:
            requeued = letters.requeue(letter.pk for letter in chosen)
        except StoreUnavailable as error:
            self._failed(request, chosen, error)
            return
        for letter in chosen:
            done = "Refused: its queue has no room." if letter.pk in requeued.refused else "Requeued."
            self.log_change(request, letter, done)
        text = _("Requeued %(count)d dead letters.") % {"count": requeued.count}
        self.message_user(request, text, messages.SUCCESS)
        if requeued.refused:
            text = _("%(count)d stay: their queues have no room for them.") % {"count": len(requeued.refused)}
            self.message_user(request, text, messages.WARNING)

    def _delete(self, request: HttpRequest, chosen: list[DeadLetter]) -> None:
        try:
            count = letters.delete([letter.pk for letter in chosen])
        except StoreUnavailable as error:
            self._failed(request, chosen, error)
            return
        for letter in chosen:
            self.log_change(request, letter, "Deleted.")
        self.message_user(request, _("Deleted %(count)d dead letters.") % {"count": count}, messages.SUCCESS)

    def _failed(self, request: HttpRequest, chosen: list[DeadLetter], error: StoreUnavailable) -> None:
        for letter in chosen:
            self.log_change(request, letter, f"Failed, perhaps after it was done: {error}")
        self.message_user(request, _("Failed: %(error)s") % {"error": error}, messages.ERROR)
