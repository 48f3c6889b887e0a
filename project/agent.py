"""An "agent" that reports numbered steps to a user. It neither knows nor asks whether the user is connected."""

from __future__ import annotations

import threading
import time
import uuid

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connections

import netra_queue


def start(user_pk: int, *, steps: int, pause_seconds: float) -> str:
    """Have ``steps`` steps sent to the user by a Celery worker if a broker is configured, else by a thread of this
    process. Returns the run's id at once."""
    run_id = uuid.uuid4().hex[:8]
    if settings.CELERY_BROKER_URL.startswith("memory://"):
        arguments = (user_pk, run_id, steps, pause_seconds)
        threading.Thread(target=_run_in_thread, args=arguments, name=f"agent-{run_id}", daemon=True).start()
    else:
        from project.tasks import run_agent

        run_agent.delay(user_pk, run_id, steps, pause_seconds)
    return run_id


def run(user_pk: int, run_id: str, steps: int, pause_seconds: float) -> None:
    """Send the steps. May be repeated, as Celery may do: a step's key makes it one message however often it is sent."""
    user = get_user_model().objects.get(pk=user_pk)
    for step in range(1, steps + 1):
        payload = {"type": "agent.step", "run": run_id, "step": step, "of": steps}
        netra_queue.send_to_user(user, payload, key=f"{run_id}-{step}")
        time.sleep(pause_seconds)


def _run_in_thread(user_pk: int, run_id: str, steps: int, pause_seconds: float) -> None:
    try:
        run(user_pk, run_id, steps, pause_seconds)
    finally:
        connections.close_all()
