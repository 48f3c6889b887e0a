"""The page, and the few small answers it asks for."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST

import netra_queue
from netra_queue import Priority
from netra_queue.core.message import line_name
from netra_queue.stores import current_store
from netra_queue.validation import check_address
from project import agent

MOST_STEPS = 500
LONGEST_PAUSE_SECONDS = 2.0


@login_required
@require_GET
def home(request: HttpRequest) -> HttpResponse:
    return render(request, "project/home.html")


@login_required
@require_POST
def start_run(request: HttpRequest) -> JsonResponse:
    """Start an agent run of ``steps`` steps with ``pause`` seconds between them."""
    try:
        steps, pause_seconds = int(request.POST.get("steps", "40")), float(request.POST.get("pause", "0.25"))
    except ValueError:
        return JsonResponse({"error": "steps and pause are numbers"}, status=400)
    if not (1 <= steps <= MOST_STEPS and 0 <= pause_seconds <= LONGEST_PAUSE_SECONDS):
        error = f"steps: 1 to {MOST_STEPS}; pause: 0 to {LONGEST_PAUSE_SECONDS} seconds"
        return JsonResponse({"error": error}, status=400)
    return JsonResponse({"run": agent.start(request.user.pk, steps=steps, pause_seconds=pause_seconds)})


@login_required
@require_POST
def send_urgent(request: HttpRequest) -> JsonResponse:
    """Send a message that overtakes whatever waits."""
    payload = {"type": "urgent", "text": "Urgent: this overtakes what waits."}
    receipt = netra_queue.send_to_user(request.user, payload, priority=Priority.CRITICAL)
    return JsonResponse({"id": receipt.id, "outcome": receipt.outcome.value})


@login_required
@require_GET
def queue_state(request: HttpRequest) -> JsonResponse:
    """What waits for the user: for the device that asks (``?client=``), or for those without an id."""
    try:
        queue = check_address(line_name(f"user.{request.user.pk}", request.GET.get("client", "")))
    except netra_queue.InvalidMessage as error:
        return JsonResponse({"error": str(error)}, status=400)
    stat = current_store().stat(queue)
    by_priority = {priority.name.lower(): count for priority, count in stat.by_priority.items()}
    return JsonResponse({"messages": stat.messages, "by_priority": by_priority, "connections": stat.connections})
