"""The same agents in Celery workers: `make worker`, with CELERY_BROKER_URL naming a broker."""

from __future__ import annotations

from celery import shared_task

from project import agent


@shared_task(name="project.run_agent")
def run_agent(
    user_pk: int, run_id: str, name: str, steps: int, pause_seconds: float, ttl_seconds: float | None
) -> None:
    agent.work(user_pk, run_id, name, steps, pause_seconds, ttl_seconds)
