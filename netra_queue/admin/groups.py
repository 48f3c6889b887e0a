"""Durable groups, and the queues that are subscribed to them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from ..models import Group, Membership, Queue, group_id
from .base import ReadOnlyAdmin
from .figures import bounded_counts

MEMBER_LIMIT = 1000  # members counted of each group


def _member_counts(groups: list[int]) -> dict[int, int]:
    return bounded_counts(Membership, "group_id", groups, MEMBER_LIMIT + 1)


@admin.register(Group)
class GroupAdmin(ReadOnlyAdmin):
    list_display = ("name", "members", "created_at", "member_list")
    ordering = ("name",)
    search_fields = ("name",)
    search_help_text = _("The exact name of a group.")
    fields = ("name", "members", "created_at", "member_list")
    readonly_fields = fields

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Group], search_term: str
    ) -> tuple[QuerySet[Group], bool]:
        name = search_term.strip()
        return (queryset.filter(pk=group_id(name)) if name else queryset), False

    def complete(self, rows: list[Group]) -> None:
        counts = _member_counts([row.pk for row in rows])
        for row in rows:
            row.member_count = counts.get(row.pk, 0)  # type: ignore[attr-defined]

    @admin.display(description=_("members"))
    def members(self, group: Any) -> str:
        if not hasattr(group, "member_count"):
            self.complete([group])
        count: int = group.member_count
        return str(count) if count <= MEMBER_LIMIT else f"more than {MEMBER_LIMIT}"

    @admin.display(description=_("memberships"))
    def member_list(self, group: Group) -> str:
        url = reverse("admin:netra_queue_membership_changelist", current_app=self.admin_site.name)
        return format_html('<a href="{}?group={}">{}</a>', url, group.pk, _("Show"))


class GroupFilter(admin.SimpleListFilter):
    """Chosen with a link from the list of groups; shows the group's name while it is."""

    title = _("group")
    parameter_name = "group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        given = request.GET.get("group")
        if not given:
            return []
        if not given.isascii() or not given.isdigit() or int(given) >= 2**63:
            raise IncorrectLookupParameters(f"group: expected an id, got {given[:40]!r}")
        known = Group.objects.filter(pk=int(given)).values_list("name", flat=True).first()
        return [(given, known or f"#{given}")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Membership]) -> QuerySet[Membership]:
        return queryset.filter(group_id=int(self.value() or 0)) if self.value() else queryset


@admin.register(Membership)
class MembershipAdmin(ReadOnlyAdmin):
    list_display = ("pk", "group_name", "queue_name", "created_at")
    list_filter = (GroupFilter,)
    ordering = ("-pk",)
    search_fields = ("group",)
    search_help_text = _("The exact name of a group.")
    fields = ("group_name", "queue_name", "created_at")
    readonly_fields = fields

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        """Of one group, in the order of an index."""
        return ("queue_id",) if request.GET.get("group") or request.GET.get("q") else ("-pk",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Membership], search_term: str
    ) -> tuple[QuerySet[Membership], bool]:
        name = search_term.strip()
        return (queryset.filter(group_id=group_id(name)) if name else queryset), False

    def complete(self, rows: list[Membership]) -> None:
        """Names in queries of their own: joined, members whose queue was forgotten as idle would be missing."""
        groups = dict(Group.objects.filter(pk__in={row.group_id for row in rows}).values_list("pk", "name"))
        queues = dict(Queue.objects.filter(pk__in={row.queue_id for row in rows}).values_list("pk", "name"))
        for row in rows:
            row.known_group = groups.get(row.group_id, f"#{row.group_id}")  # type: ignore[attr-defined]
            row.known_queue = queues.get(row.queue_id, f"#{row.queue_id}")  # type: ignore[attr-defined]

    @admin.display(description=_("group"))
    def group_name(self, row: Any) -> str:
        if not hasattr(row, "known_group"):
            self.complete([row])
        return str(row.known_group)

    @admin.display(description=_("queue"))
    def queue_name(self, row: Any) -> str:
        if not hasattr(row, "known_queue"):
            self.complete([row])
        return str(row.known_queue)
