"""The pages that machines read: a Prometheus server, a load balancer, an orchestrator."""

from __future__ import annotations

import secrets
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from . import conf, readiness
from .health import Health, as_json

PERMISSION = "netra_queue.view_statistics"


@login_not_required  # a Prometheus server has a token, and no login; this view looks for either
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """What all processes do, for users with the permission and for whoever knows METRICS_TOKEN."""
    if not _knows_token(request) and not _has_permission(request):
        is_logged_in = getattr(getattr(request, "user", None), "is_authenticated", False)
        return HttpResponse(status=403) if is_logged_in else _unauthorized()
    try:
        from . import metrics
    except ModuleNotFoundError as error:
        return HttpResponse(f"{error}: pip install 'netra-queue[prometheus]'\n", "text/plain", 501)
    return HttpResponse(*metrics.exposition())


# Asynchronous, so that they show whether the event loop answers; without a transaction around them, as that would need
# a database; and without a login, which whoever asks has not got.


@login_not_required
@non_atomic_requests
@never_cache
@require_safe
async def live(request: HttpRequest) -> HttpResponse:
    """This process answers. Nothing else is looked at: to start it again would help nothing else."""
    return JsonResponse({"health": Health.OK.value})


@login_not_required
@non_atomic_requests
@never_cache
@require_safe
async def ready(request: HttpRequest) -> HttpResponse:
    """Whether this process can serve: 200, or 503 when the store or the hub has failed. Who knows METRICS_TOKEN is told
    more. A user's permission would have to be looked up in a database, which may be the one that does not answer."""
    report = await readiness.report()
    answer: dict[str, Any] = {"health": (report.health if report else Health.FAILED).value}
    if report is not None and _knows_token(request):
        answer["probes"] = as_json(report.findings)
    return JsonResponse(answer, status=200 if report is not None and report.is_ready else 503)


def _unauthorized() -> HttpResponse:
    return HttpResponse(status=401, headers={"WWW-Authenticate": 'Bearer realm="netra_queue"'})


def _knows_token(request: HttpRequest) -> bool:
    token = conf.get("METRICS_TOKEN")
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    is_bearer = bool(token) and kind.lower() == "bearer"
    return is_bearer and secrets.compare_digest(given.strip().encode(), str(token).encode())


def _has_permission(request: HttpRequest) -> bool:
    user = getattr(request, "user", None)
    return user is not None and user.has_perm(PERMISSION)
