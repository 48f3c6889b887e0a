"""The dashboard's place in the admin: among the lists, for those with its permission."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import URLPattern, path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..dashboard import views
from ..models import Dashboard
from .base import ReadOnlyAdmin


@admin.register(Dashboard)
class DashboardAdmin(ReadOnlyAdmin):
    def get_urls(self) -> list[URLPattern]:
        """A script asks for figures: it is told 401 or 403 rather than sent to a login."""
        page = self.admin_site.admin_view(require_safe(self.changelist_view))
        figures = login_not_required(never_cache(require_safe(self.figures_view)))
        return [
            path("", page, name="netra_queue_dashboard_changelist"),
            path("figures/", figures, name="netra_queue_dashboard_figures"),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {**self.admin_site.each_context(request), "opts": self.opts, **(extra_context or {})}
        return views.page(request, self.admin_site.name, context)

    def figures_view(self, request: HttpRequest) -> JsonResponse:
        if not self.admin_site.has_permission(request) or not self.has_view_permission(request):
            return JsonResponse({"error": "not allowed"}, status=403 if request.user.is_authenticated else 401)
        return views.figures(request)
