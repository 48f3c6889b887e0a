"""A real worker and a real Beat on a real broker: what they send arrives, and what is scheduled is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from celery import Celery
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django_celery_beat.models import IntervalSchedule, PeriodicTask

import netra_queue
from netra_queue import testing
from netra_queue.models import Message
from tests.conftest import needs_rabbitmq
from tests.server.conftest import World, new_queue, play
from tests.settings import RABBITMQ_URL
from tests.waiting import wait_until

pytestmark = needs_rabbitmq


@pytest.fixture
def celery_queue(sqlite_world: World, tmp_path: Path) -> Iterator[str]:
    """The name of a Celery queue that a worker takes tasks from; Beat puts what is due into it."""
    name = f"netra-test-{os.urandom(4).hex()}"
    environment = {
        **os.environ,
        **sqlite_world.environment,
        "DJANGO_SETTINGS_MODULE": "tests.server.celery_settings",
        "CELERY_BROKER_URL": RABBITMQ_URL,
        "NETRA_TEST_CELERY_QUEUE": name,
    }
    schedule = str(tmp_path / "beat.pid")
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "celery.log").open("wb"))
        for arguments in (["worker", "--pool", "prefork", "--concurrency", "2"], ["beat", "--pidfile", schedule]):
            stack.enter_context(celery(arguments, environment, log))
        yield name
    with Celery(broker=RABBITMQ_URL).connection_for_write() as connection:
        connection.default_channel.queue_delete(name)


@contextmanager
def celery(arguments: list[str], environment: dict[str, str], log: object) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "--app", "project", *arguments, "--loglevel", "INFO"]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # type: ignore[call-overload]
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def start_task(name: str, queue: str, *arguments: object) -> None:
    with Celery(broker=RABBITMQ_URL) as app:
        app.send_task(name, arguments, queue=queue)


def test_what_a_worker_sends_arrives(sqlite_world: World, celery_queue: str) -> None:
    server = sqlite_world.start()
    user = get_user_model().objects.create_user("reader")

    async def arrives() -> None:
        async with sqlite_world.client(server, f"user.{user.pk}") as client:
            start_task("project.run_agent", celery_queue, user.pk, "run", "writer", 20, 0.01, None)
            steps = [data["step"] for data in await client.take(20, 40)]
            assert steps == list(range(1, 21))

    play(arrives())


def test_beat_has_expired_messages_removed(
    sqlite_world: World, make_schedule_quick: Callable[[], None], celery_queue: str
) -> None:
    netra_queue.send(new_queue(), "old", ttl=0.01)
    netra_queue.send(new_queue(), "young")
    testing.shutdown()
    wait_until(lambda: Message.objects.count() == 1, 40)
    make_schedule_quick()
    assert PeriodicTask.objects.get(task="netra_queue.sweep").interval.every == 1, "an operator's edit stays"


@pytest.fixture
def make_schedule_quick(sqlite_world: World) -> Callable[[], None]:
    """The schedule of the command, its interval edited as an operator would. Returns the command, to be run again."""

    def schedule() -> None:
        call_command("netra_queue", "schedule", verbosity=0)

    schedule()
    interval = IntervalSchedule.objects.create(every=1, period=IntervalSchedule.SECONDS)
    for task in PeriodicTask.objects.all():
        task.interval = interval
        task.save()
    return schedule
