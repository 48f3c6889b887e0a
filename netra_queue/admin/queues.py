"""Queues: who waits for what, and purging one."""

from __future__ import annotations

from typing import Any, cast

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import connections
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from .. import maintenance
from ..core.message import Priority
from ..exceptions import StoreUnavailable
from ..models import Queue
from ..stores import current_store
from ..stores.base import QueueStat
from .base import ReadOnlyAdmin
from .figures import connected_queues, figures

PURGE_LIMIT = 100  # queues in one purge
PURGE_BUDGET_SECONDS = 10.0  # for all of them: a page must answer


class ConnectedFilter(admin.SimpleListFilter):
    """Only "yes": the queues that are not connected are nearly all, and asking for them would look at all."""

    title = _("connected")
    parameter_name = "connected"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("yes", _("Yes"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Queue]) -> QuerySet[Queue]:
        return queryset.filter(pk__in=connected_queues()) if self.value() == "yes" else queryset


def _stat(queue: Any) -> QueueStat:
    """Asked for once a page; reading a long queue takes its time."""
    if not hasattr(queue, "stat"):
        queue.stat = current_store().stat(queue.name)
    return cast(QueueStat, queue.stat)


@admin.register(Queue)
class QueueAdmin(ReadOnlyAdmin):
    list_display = ("name", "policy", "depth", "oldest_message", "connected", "seen_at", "message_list")
    list_filter = (ConnectedFilter,)
    ordering = ("name",)
    search_fields = ("name",)
    search_help_text = _("A queue's name, or its beginning.")
    fields = (
        "name",
        "policy",
        "waiting",
        "lost",
        "superseded",
        "connection_count",
        "created_at",
        "seen_at",
        "message_list",
    )
    readonly_fields = fields
    actions = ("purge",)

    def complete(self, rows: list[Queue]) -> None:
        found = figures([queue.pk for queue in rows])
        for queue in rows:
            queue.figures = found.get(queue.pk)  # type: ignore[attr-defined]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Queue], search_term: str
    ) -> tuple[QuerySet[Queue], bool]:
        """Names that begin so. Databases use their index for one of two ways to say that."""
        term = search_term.strip()
        if term and connections[queryset.db].vendor == "postgresql":
            queryset = queryset.filter(name__startswith=term)
        elif term:
            queryset = queryset.filter(name__gte=term, name__lt=term + "\x7f")
        return queryset, False

    # --- columns -----------------------------------------------------------------------------------------------

    @admin.display(description=_("depth"))
    def depth(self, queue: Any) -> str | None:
        return queue.figures.depth_text if queue.figures else None

    @admin.display(description=_("oldest message"))
    def oldest_message(self, queue: Any) -> Any:
        return queue.figures.oldest_at if queue.figures else None

    @admin.display(description=_("connected"), boolean=True)
    def connected(self, queue: Any) -> bool:
        return bool(queue.figures and queue.figures.is_connected)

    @admin.display(description=_("messages"))
    def message_list(self, queue: Queue) -> str:
        url = reverse("admin:netra_queue_message_changelist", current_app=self.admin_site.name)
        return format_html('<a href="{}?queue={}">{}</a>', url, queue.pk, _("Show"))

    # --- fields of the detail page -----------------------------------------------------------------------------

    @admin.display(description=_("waiting"))
    def waiting(self, queue: Queue) -> str:
        stat = _stat(queue)
        counts = ", ".join(f"{priority.name.lower()} {count}" for priority, count in sorted(stat.by_priority.items()))
        return f"{stat.messages} ({stat.size} bytes){': ' if counts else ''}{counts}"

    @admin.display(description=_("lost, client not told yet"))
    def lost(self, queue: Queue) -> str:
        counts = _stat(queue).losses.counts
        parts = [f"{reason.value} {priority.name.lower()}: {count}" for (reason, priority), count in counts.items()]
        return ", ".join(sorted(parts)) or "0"

    @admin.display(description=_("superseded by newer messages of their collapse key"))
    def superseded(self, queue: Queue) -> int:
        return _stat(queue).superseded

    @admin.display(description=_("connections"))
    def connection_count(self, queue: Queue) -> int:
        return _stat(queue).connections

    # --- purge -------------------------------------------------------------------------------------------------

    def has_purge_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("netra_queue.purge_queue")

    @admin.action(description=_("Purge selected queues"), permissions=["purge"])
    def purge(self, request: HttpRequest, queryset: QuerySet[Queue]) -> TemplateResponse | None:
        """Ask first; with ``confirmed`` in the form, do it."""
        queues = list(queryset.order_by("name")[: PURGE_LIMIT + 1])
        if len(queues) > PURGE_LIMIT:
            text = _("Choose at most %(limit)d queues to purge at once.") % {"limit": PURGE_LIMIT}
            self.message_user(request, text, messages.ERROR)
            return None
        if request.POST.get("confirmed") != "yes":
            return self._ask(request, queues)
        name = request.POST.get("priority", "")
        if name and name.upper() not in Priority.__members__:
            self.message_user(request, _("There is no priority of that name."), messages.ERROR)
            return None
        self._purge(request, queues, Priority[name.upper()] if name else None)
        return None

    def _ask(self, request: HttpRequest, queues: list[Queue]) -> TemplateResponse:
        self.complete(queues)
        context = {
            **self.admin_site.each_context(request),
            "title": _("Purge queues"),
            "opts": self.opts,
            "queues": queues,
            "priorities": [priority.name.lower() for priority in Priority],
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "netra_queue/admin/purge.html", context)

    def _purge(self, request: HttpRequest, queues: list[Queue], priority: Priority | None) -> None:
        budget_seconds = PURGE_BUDGET_SECONDS / max(1, len(queues))
        which = f" of priority {priority.name.lower()}" if priority is not None else ""
        for queue in queues:
            try:
                removal = maintenance.purge(queue.name, priority, budget_seconds=budget_seconds)
            except StoreUnavailable as error:
                self.log_change(request, queue, f"Purging messages{which} failed: {error}")
                text = _("Purging %(queue)s failed: %(error)s") % {"queue": queue.name, "error": error}
                self.message_user(request, text, messages.ERROR)
                continue
            self.log_change(request, queue, f"Purged {removal.count} messages{which}.")
            text = ngettext(
                "Purged %(count)d message of %(queue)s.", "Purged %(count)d messages of %(queue)s.", removal.count
            )
            self.message_user(request, text % {"queue": queue.name, "count": removal.count}, messages.SUCCESS)
            if not removal.finished:
                text = _("There are more messages in %(queue)s: purge it again.") % {"queue": queue.name}
                self.message_user(request, text, messages.WARNING)
