"""The same agent in a Celery worker: `make worker`, with CELERY_BROKER_URL naming a broker."""

from __future__ import annotations

from celery import shared_task

from project import agent


@shared_task(name="project.run_agent")
def run_agent(user_pk: int, run_id: str, steps: int, pause_seconds: float) -> None:
    agent.run(user_pk, run_id, steps, pause_seconds)
