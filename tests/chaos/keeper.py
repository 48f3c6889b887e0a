"""The upkeep that a project has its Celery beat do, all of it, every second: ``python -m tests.chaos.keeper``.

Until it is killed. It goes on when the store is not there.
"""

from __future__ import annotations

import time
from contextlib import suppress

PAUSE_SECONDS = 1.0


def main() -> None:
    import django

    from netra_queue import StoreUnavailable, maintenance
    from netra_queue.management.scenarios import server

    django.setup()
    server.configure()
    jobs = (
        maintenance.sweep,
        maintenance.reap,
        maintenance.expire_lines,
        maintenance.forget_keys,
        maintenance.forget_bodies,
        maintenance.forget_letters,
        maintenance.forget_idle,
    )
    while True:
        for job in jobs:
            with suppress(StoreUnavailable):
                job()
        time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
