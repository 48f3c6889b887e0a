"""Agents that report numbered steps to a user. They neither know nor ask whether the user is connected."""

from __future__ import annotations

import threading
import time
import uuid

from django.conf import settings
from django.db import connections, transaction
from django.db.models import F

import netra_queue
from netra_queue import Outcome, Priority, Receipt
from project.models import Agent

AGENTS = {
    "guard": Priority.CRITICAL,
    "planner": Priority.HIGH,
    "writer": Priority.NORMAL,
    "logger": Priority.LOW,
}
URGENT = "urgent"


def start(user_pk: int, *, steps: int, pause_seconds: float, ttl_seconds: float | None = None) -> str:
    """Have each agent send ``steps`` steps to the user: by Celery workers if a broker is configured, else by threads of
    this process. Returns the run's id at once."""
    run_id = uuid.uuid4().hex[:8]
    Agent.objects.bulk_create(Agent(user_id=user_pk, run=run_id, name=name) for name in AGENTS)
    for name in AGENTS:
        arguments = (user_pk, run_id, name, steps, pause_seconds, ttl_seconds)
        if settings.CELERY_BROKER_URL.startswith("memory://"):
            threading.Thread(target=_work_in_thread, args=arguments, name=f"{name}-{run_id}", daemon=True).start()
        else:
            from project.tasks import run_agent

            run_agent.delay(*arguments)
    return run_id


def work(
    user_pk: int, run_id: str, name: str, steps: int, pause_seconds: float, ttl_seconds: float | None = None
) -> None:
    """One agent's run. Celery may repeat it: a step's key makes it one message however often it is sent."""
    place = list(AGENTS).index(name) + 1
    for step in range(1, steps + 1):
        payload = {"type": "agent.step", "run": run_id, "agent": name, "step": step}
        payload["number"] = (step - 1) * len(AGENTS) + place  # no two steps of a run have the same
        with transaction.atomic():  # a step and its count are committed together, or neither is
            receipt = netra_queue.send(
                f"user.{user_pk}", payload, priority=AGENTS[name], ttl=ttl_seconds, key=f"{run_id}-{name}-{step}"
            )
            if receipt.outcome is not Outcome.DUPLICATE:
                Agent.objects.filter(user_id=user_pk, run=run_id, name=name).update(sent=F("sent") + 1)
        time.sleep(pause_seconds)


def send_urgent(user_pk: int) -> Receipt:
    """What the user sends to themselves: a message that overtakes whatever waits."""
    with transaction.atomic():
        Agent.objects.get_or_create(user_id=user_pk, run=URGENT, name="you")
        agent = Agent.objects.select_for_update().get(user_id=user_pk, run=URGENT, name="you")
        agent.sent += 1
        agent.save()
        payload = {"type": "agent.step", "run": URGENT, "agent": agent.name, "step": agent.sent, "number": agent.sent}
        return netra_queue.send(f"user.{user_pk}", payload, priority=Priority.CRITICAL)


def _work_in_thread(*arguments: object) -> None:
    try:
        work(*arguments)  # type: ignore[arg-type]
    finally:
        connections.close_all()
