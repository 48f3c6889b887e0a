"""The example's settings with a Celery queue of one test's own, so that no other worker takes its tasks."""

from __future__ import annotations

import os

from project.settings import *  # noqa: F403

CELERY_TASK_DEFAULT_QUEUE = os.environ["NETRA_TEST_CELERY_QUEUE"]
CELERY_BEAT_MAX_LOOP_INTERVAL = 1
