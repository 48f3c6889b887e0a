"""The page, and the few small answers it asks for."""

from __future__ import annotations

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST

import netra_queue
from netra_queue.core.message import line_name
from netra_queue.stores import current_store
from netra_queue.validation import check_address
from project import agent, consumers
from project.models import Agent

MOST_STEPS = 500
LONGEST_PAUSE_SECONDS = 2.0
LONGEST_TTL_SECONDS = 86_400.0
AGENTS_SHOWN = 100


def may_restart(request: HttpRequest) -> bool:
    return settings.DEBUG and request.user.is_staff


@login_required
@require_GET
def home(request: HttpRequest) -> HttpResponse:
    return render(request, "project/home.html", {"may_restart": may_restart(request)})


@login_required
@require_POST
def start_run(request: HttpRequest) -> JsonResponse:
    """Start a run: each agent sends ``steps`` steps with ``pause`` seconds between them, to live ``ttl`` seconds."""
    try:
        steps, pause_seconds = int(request.POST.get("steps", "40")), float(request.POST.get("pause", "0.25"))
        ttl_seconds = float(request.POST.get("ttl") or LONGEST_TTL_SECONDS)
    except ValueError:
        return JsonResponse({"error": "steps, pause and ttl are numbers"}, status=400)
    if not (1 <= steps <= MOST_STEPS and 0 <= pause_seconds <= LONGEST_PAUSE_SECONDS and ttl_seconds >= 1):
        error = f"steps: 1 to {MOST_STEPS}; pause: 0 to {LONGEST_PAUSE_SECONDS} seconds; ttl: from 1 second on"
        return JsonResponse({"error": error}, status=400)
    ttl_seconds = min(ttl_seconds, LONGEST_TTL_SECONDS)
    run = agent.start(request.user.pk, steps=steps, pause_seconds=pause_seconds, ttl_seconds=ttl_seconds)
    return JsonResponse({"run": run})


@login_required
@require_POST
def send_urgent(request: HttpRequest) -> JsonResponse:
    """Send a message that overtakes whatever waits."""
    receipt = agent.send_urgent(request.user.pk)
    return JsonResponse({"id": receipt.id, "outcome": receipt.outcome.value})


@login_required
@require_POST
def restart(request: HttpRequest) -> JsonResponse:
    """Close every WebSocket of this process. The process goes on: the agents are threads of it."""
    if not may_restart(request):
        raise PermissionDenied
    return JsonResponse({"closed": async_to_sync(consumers.close_all)()})


@login_required
@require_GET
def queue_state(request: HttpRequest) -> JsonResponse:
    """What waits for the user (for the device that asks, ``?client=``, or for those without an id), and what the user's
    agents have sent."""
    try:
        queue = check_address(line_name(f"user.{request.user.pk}", request.GET.get("client", "")))
    except netra_queue.InvalidMessage as error:
        return JsonResponse({"error": str(error)}, status=400)
    stat = current_store().stat(queue)
    by_priority = {priority.name.lower(): count for priority, count in stat.by_priority.items()}
    agents = Agent.objects.filter(user=request.user).order_by("-pk")[:AGENTS_SHOWN]
    return JsonResponse(
        {
            "messages": stat.messages,
            "by_priority": by_priority,
            "connections": stat.connections,
            "agents": [{"run": each.run, "name": each.name, "sent": each.sent} for each in agents],
        }
    )
