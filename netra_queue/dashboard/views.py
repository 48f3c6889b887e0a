"""The page, and its figures as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.template.response import TemplateResponse
from django.urls import get_script_prefix, reverse
from django.utils.translation import gettext_lazy as _

from ..exceptions import StoreUnavailable
from . import asking, charts
from .figures import DEFAULT, RANGES, range_named

PERMISSION = "netra_queue.view_dashboard"
SOCKET_PATH = "ws/netra_queue/dashboard/"
LABELS = {
    "15m": _("15 minutes"),
    "1h": _("1 hour"),
    "6h": _("6 hours"),
    "24h": _("24 hours"),
    "7d": _("7 days"),
    "30d": _("30 days"),
}


def may_view(user: Any) -> bool:
    return bool(user.is_active and user.is_staff and user.has_perm(PERMISSION))


def page(request: HttpRequest, site_name: str, context: Mapping[str, Any]) -> TemplateResponse:
    """The page, without figures: its script gets them. An unknown range in its address is the default one."""
    wanted = request.GET.get("range", DEFAULT)
    queues = reverse("admin:netra_queue_queue_changelist", current_app=site_name)
    return TemplateResponse(
        request,
        "netra_queue/dashboard/dashboard.html",
        {
            **context,
            "title": _("Dashboard"),
            "charts": charts.CHARTS,
            "chart_data": charts.as_json(),
            "ranges": [(name, LABELS[name]) for name in RANGES],
            "chosen": wanted if wanted in RANGES else DEFAULT,
            "figures_url": reverse("admin:netra_queue_dashboard_figures", current_app=site_name),
            "socket_path": get_script_prefix() + SOCKET_PATH,
            "queues_url": queues if request.user.has_perm("netra_queue.view_queue") else "",
        },
    )


def figures(request: HttpRequest) -> JsonResponse:
    """``?range=``: 200 with the figures, 400 for no range of ours, 503 with the reason if the store does not answer."""
    try:
        wanted = range_named(request.GET.get("range", DEFAULT))
    except ValueError as error:
        return JsonResponse({"error": str(error)}, status=400)
    try:
        return JsonResponse(asking.answer(wanted))
    except StoreUnavailable as error:
        return JsonResponse(asking.excuse(error), status=503)
