"""Dead letters: what was set aside and why; put back, or deleted."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from .. import letters
from ..core.message import LossReason
from ..models import DeadLetter, queue_id
from .actions import ActingAdmin, Action, Result, Work
from .messages import QueueFilter, complete_with_queues, shown_payload, shown_queue

BATCH = 50  # letters that are worked on together


class Requeue(Action):
    name, permission, batch = "requeue", "netra_queue.requeue_deadletter", BATCH
    title = _("Requeue dead letters")
    question = _(
        "These messages go back into their queues, with a new time to live. Full queues push out others for them, or "
        "refuse them."
    )
    done = _("Requeued %(count)d dead letters.")
    refused = _("%(refused)d stay: their queues have no room for them.")

    def carry_out(self, work: Work) -> Result:
        requeued = letters.requeue(letter.pk for letter in work.rows)
        refused = dict.fromkeys(requeued.refused, "Refused: its queue has no room.")
        history = {letter.pk: refused.get(letter.pk, "Requeued.") for letter in work.rows}
        return Result(count=requeued.count, history=history, refused=len(refused))


class Delete(Action):
    name, permission, batch = "delete_letters", "netra_queue.delete_deadletter", BATCH
    title = _("Delete dead letters")
    question = _("These messages are deleted for good.")
    done = _("Deleted %(count)d dead letters.")

    def carry_out(self, work: Work) -> Result:
        keys = [letter.pk for letter in work.rows]
        return Result(count=letters.delete(keys), history=dict.fromkeys(keys, "Deleted."))


class ReasonFilter(admin.SimpleListFilter):
    title = _("reason")
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(reason.value, reason.value) for reason in LossReason]

    def queryset(self, request: HttpRequest, queryset: QuerySet[DeadLetter]) -> QuerySet[DeadLetter]:
        known = {reason.value for reason in LossReason}
        return queryset.filter(reason=self.value()) if self.value() in known else queryset


@admin.register(DeadLetter)
class DeadLetterAdmin(ActingAdmin):
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
    acts = (Requeue(), Delete())

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
        return shown_payload(letter, letter.payload)
