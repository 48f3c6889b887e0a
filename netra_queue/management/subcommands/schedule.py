"""``manage.py netra_queue schedule``: have django-celery-beat start the upkeep tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser

HELP = "Create the django-celery-beat schedule of the upkeep tasks. What exists is left as it is."


@dataclass(frozen=True, slots=True)
class Entry:
    """A periodic task, started every ``every_seconds``; not taken by a worker until then, it is thrown away."""

    name: str
    task: str
    every_seconds: int
    expire_seconds: int


ENTRIES = (
    Entry("netra_queue: sweep", "netra_queue.sweep", every_seconds=60, expire_seconds=50),
    Entry("netra_queue: upkeep", "netra_queue.upkeep", every_seconds=300, expire_seconds=240),
    Entry("netra_queue: hand over", "netra_queue.hand_over", every_seconds=60, expire_seconds=50),
    Entry("netra_queue: alerts", "netra_queue.alerts", every_seconds=60, expire_seconds=50),
)


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="Only say what would be created.")


def handle(command: BaseCommand, options: dict[str, Any]) -> None:
    if not apps.is_installed("django_celery_beat"):
        raise CommandError(
            "django_celery_beat is not in INSTALLED_APPS. Install netra-queue[beat] and add it, or start the tasks "
            f"{', '.join(entry.task for entry in ENTRIES)} (or `manage.py netra_queue sweep`) by other means."
        )
    for entry in ENTRIES:
        is_new = not _exists(entry) if options["dry_run"] else _create(entry)
        done = "would be created" if options["dry_run"] else "created"
        outcome = f"{done}, every {entry.every_seconds} seconds" if is_new else "exists, left as it is"
        command.stdout.write(f"{entry.name}: {outcome}")


def _exists(entry: Entry) -> bool:
    from django_celery_beat.models import PeriodicTask

    return bool(PeriodicTask.objects.filter(name=entry.name).exists())


def _create(entry: Entry) -> bool:
    """Returns whether it was created. Saving it tells a running beat by itself."""
    from django_celery_beat.models import PeriodicTask

    if _exists(entry):
        return False
    defaults = {"task": entry.task, "interval": _interval(entry), "expire_seconds": entry.expire_seconds}
    _, was_created = PeriodicTask.objects.get_or_create(name=entry.name, defaults=defaults)
    return bool(was_created)


def _interval(entry: Entry) -> Any:
    """An interval of this length; there may be several, as django-celery-beat does not keep them unique."""
    from django_celery_beat.models import IntervalSchedule

    found = {"every": entry.every_seconds, "period": IntervalSchedule.SECONDS}
    return IntervalSchedule.objects.filter(**found).first() or IntervalSchedule.objects.create(**found)
