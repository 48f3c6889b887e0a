"""Messages: the newest of all queues, or those of one queue in the order of their delivery."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList, ChangeListSearchForm
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from ..core.message import Payload, PayloadKind, Priority
from ..models import Body, Message, Queue, queue_id
from ..redaction import shown_text
from .base import BoundedChangeList, ReadOnlyAdmin
from .searching import search

PAYLOAD_LIMIT = 10_000  # characters shown


def chosen_queue(request: HttpRequest) -> int | None:
    """The id of the one queue that the page is about: chosen by its id, or found by its name."""
    given = request.GET.get("queue")
    if not given:
        form = ChangeListSearchForm(request.GET)  # what it refuses, the list does not search for either
        name = form.cleaned_data["q"].strip() if form.is_valid() else ""
        return queue_id(name) if name else None
    if not given.isascii() or not given.isdigit() or int(given) >= 2**63:
        raise IncorrectLookupParameters(f"queue: expected an id, got {given[:40]!r}")
    return int(given)


class QueueFilter(admin.SimpleListFilter):
    """Chosen with a link from the list of queues; shows the queue's name while it is."""

    title = _("queue")
    parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        id = chosen_queue(request) if request.GET.get("queue") else None
        if id is None:
            return []
        known = Queue.objects.filter(pk=id).values_list("name", flat=True).first()
        return [(str(id), known or f"#{id}")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Message]) -> QuerySet[Message]:
        id = chosen_queue(request) if self.value() else None
        return queryset if id is None else queryset.filter(queue_id=id)


class PriorityFilter(admin.SimpleListFilter):
    """Only within one queue, where an index serves it."""

    title = _("priority")
    parameter_name = "priority"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        if chosen_queue(request) is None:
            return []
        return [(priority.name.lower(), priority.name.lower()) for priority in Priority]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Message]) -> QuerySet[Message]:
        name = (self.value() or "").upper()
        return queryset.filter(priority=Priority[name].value) if name in Priority.__members__ else queryset


def complete_with_queues(rows: Iterable[Any]) -> None:
    """Names in a query of their own: joined, rows whose queue has no row (yet) would be missing."""
    found = list(rows)
    names = dict(Queue.objects.filter(pk__in={row.queue_id for row in found}).values_list("pk", "name"))
    for row in found:
        row.known_queue = names.get(row.queue_id)


def shown_queue(row: Any, site: str) -> str:
    """The queue of a row, as a link to its page."""
    if not hasattr(row, "known_queue"):
        complete_with_queues([row])
    if row.known_queue is None:
        return f"#{row.queue_id}"
    url = reverse("admin:netra_queue_queue_change", args=[row.queue_id], current_app=site)
    return format_html('<a href="{}">{}</a>', url, row.known_queue)


def shown_payload(row: Any, stored: str) -> str:
    """What REDACT lets be shown of the payload of a message or a letter, escaped, the beginning only."""
    if not hasattr(row, "known_queue"):
        complete_with_queues([row])
    queue = row.known_queue or f"#{row.queue_id}"
    text = shown_text(queue, Payload(PayloadKind(row.kind), stored, row.size))
    rest = len(text) - PAYLOAD_LIMIT
    more = format_html("<p>{}</p>", _("… and %(count)d more characters") % {"count": rest}) if rest > 0 else ""
    # A text area wraps without a style of its own, which strict Content-Security-Policies refuse.
    area = '<textarea class="vLargeTextField" rows="12" readonly aria-label="{}">{}</textarea>{}'
    return format_html(area, _("payload"), text[:PAYLOAD_LIMIT], more)


class MessageChangeList(BoundedChangeList):
    """Says what the search looks for: the name of a queue, or text in the payloads of the queue that is chosen."""

    def __init__(self, request: HttpRequest, *arguments: Any) -> None:
        super().__init__(request, *arguments)
        if request.GET.get("queue") and request.user.has_perm("netra_queue.view_payload"):
            self.search_help_text = gettext("Text in the payloads of this queue as they are shown, in any case.")


@admin.register(Message)
class MessageAdmin(ReadOnlyAdmin):
    list_display = ("uid", "queue_name", "priority", "kind", "size", "created_at", "expires_at")
    list_filter = (QueueFilter, PriorityFilter)
    search_fields = ("queue",)
    search_help_text = _("The exact name of a queue.")
    fields = ("uid", "queue_name", "priority", "kind", "size", "deliveries", "created_at", "expires_at", "payload_text")
    readonly_fields = fields

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return MessageChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Message]:
        """Without payloads: a page of them may be many megabytes, and few may see them."""
        return super().get_queryset(request).defer("payload")

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        return ("-pk",) if chosen_queue(request) is None else ("priority", "pk")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Message], search_term: str
    ) -> tuple[QuerySet[Message], bool]:
        """The queue of this name; within a chosen one, the messages whose shown payloads have the text."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if not request.GET.get("queue"):
            return queryset.filter(queue_id=queue_id(term)), False
        if not request.user.has_perm("netra_queue.view_payload"):
            messages.error(request, _("To search in payloads, one must be allowed to see them."))
            return queryset.none(), False
        found = search(queryset, term)
        if found.note:
            messages.warning(request, found.note)
        return queryset.filter(pk__in=found.keys), False

    def get_fields(self, request: HttpRequest, obj: Message | None = None) -> tuple[str, ...]:
        may_see = request.user.has_perm("netra_queue.view_payload")
        return self.fields if may_see else tuple(name for name in self.fields if name != "payload_text")

    def complete(self, rows: list[Message]) -> None:
        complete_with_queues(rows)

    @admin.display(description=_("queue"))
    def queue_name(self, message: Any) -> str:
        return shown_queue(message, self.admin_site.name)

    @admin.display(description=_("payload"))
    def payload_text(self, message: Message) -> str:
        body = Body.objects.filter(pk=message.body_id).first() if message.body_id is not None else None
        return shown_payload(message, message.payload if body is None else body.payload)
