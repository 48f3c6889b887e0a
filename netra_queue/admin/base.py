"""Lists that stay quick whatever the tables hold, and pages that change nothing."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import cached_property

from ..exceptions import StoreUnavailable

COUNT_LIMIT = 10_000
ROWS_PER_PAGE = 50


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than ``COUNT_LIMIT``, so the last page it offers may not be the last one there is."""

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows.order_by()[:COUNT_LIMIT].count()


class BoundedChangeList(ChangeList):
    """Sorts as the admin class says, whatever the address asks for: any other order would sort the whole table."""

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return list(self.model_admin.get_ordering(request))

    def get_ordering_field_columns(self) -> dict[int, str]:  # type: ignore[override]
        return {}

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        rows = list(self.result_list)
        cast(ReadOnlyAdmin, self.model_admin).complete(rows)
        self.result_list = rows


class ReadOnlyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """No adding, changing or deleting, also for superusers."""

    paginator = BoundedPaginator
    show_full_result_count = False
    list_per_page = ROWS_PER_PAGE
    list_max_show_all = 0
    show_facets = admin.ShowFacets.NEVER  # they count the whole table once for each filter
    sortable_by: ClassVar[Any] = ()

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return BoundedChangeList

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Drawn at once: parts of the page are asked of the store, which may not answer."""
        try:
            extra = {**(extra_context or {}), **self.shown_beside(request, object_id)}
            response = super().change_view(request, object_id, form_url, extra)
            return response.render() if isinstance(response, TemplateResponse) else response
        except StoreUnavailable as error:
            self.message_user(request, str(error), messages.ERROR)
            name = f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"
            return HttpResponseRedirect(reverse(name, current_app=self.admin_site.name))

    def shown_beside(self, request: HttpRequest, object_id: str) -> dict[str, Any]:
        """What the page of a row shows besides its fields, for the template."""
        return {}

    def complete(self, rows: list[Any]) -> None:
        """Add to the rows of one page what their table does not hold, in few queries for all of them."""

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """No filters from the address but those of ``list_filter``: they could scan, or ask about hidden fields."""
        return any(getattr(of, "parameter_name", None) == lookup for of in self.list_filter)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
