"""How long the admin's lists take with a million messages: ``python benchmarks/admin_lists.py [messages]``.

Makes a database of its own on the PostgreSQL server that DATABASE_URL names (by default the one at its usual local
port), fills it, asks for each page a few times through Django's test client, prints the times, and removes it.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "netra_bench_admin"
QUEUES = 10_000
REPEATS = 5
PAGES = {
    "queues": "queue/",
    "queues, last page offered": "queue/?p=200",
    "queues, name begins with user.99": "queue/?q=user.99",
    "queues, connected only": "queue/?connected=yes",
    "messages, newest of all": "message/",
    "messages of one queue": "message/?q=user.7",
    "messages of the largest queue": "message/?q=user.0",
    "messages of the largest queue, low": "message/?q=user.0&priority=low",
    "server processes": "serverprocess/",
    "live connections": "liveconnection/",
}


def main(messages: int) -> None:
    sys.path.insert(0, str(ROOT))
    os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
    os.environ.setdefault("DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/test")
    import django
    from django.conf import settings

    settings.DATABASES["default"]["TEST"] = {"NAME": DATABASE}
    settings.ROOT_URLCONF = "benchmarks.admin_urls"
    settings.ALLOWED_HOSTS = ["testserver"]
    django.setup()
    from django.db import connection

    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        fill(messages)
        measure(messages)
    finally:
        connection.creation.destroy_test_db(settings.DATABASES["default"]["NAME"], verbosity=0)


FILL_QUEUES = """
INSERT INTO netra_queue_queue (id, name, policy, created_at, idle_since)
SELECT id, name, '', now(), now() FROM numbered
"""
FILL_MESSAGES = """
INSERT INTO netra_queue_message (queue_id, uid, priority, kind, payload, size, created_at, expires_at)
SELECT q.id, md5(g::text), mod(g, 4), 0, '{"n":' || g || '}', 10, now(), now() + interval '1 day'
FROM generate_series(1, %s) g JOIN numbered q ON q.n = CASE WHEN mod(g, 5) = 0 THEN 0 ELSE mod(g, %s) END
"""
FILL_SERVERS = """
INSERT INTO netra_queue_serverprocess (id, host, pid, started_at, heartbeat_at)
VALUES ('server', 'here', 1, now(), now() + interval '1 hour')
"""
FILL_CONNECTIONS = """
INSERT INTO netra_queue_liveconnection (id, client, connected_at, queue_id, server_id)
SELECT md5(n::text), '', now(), id, 'server' FROM numbered WHERE mod(n, 10) = 0
"""


def fill(messages: int) -> None:
    """A fifth of the messages wait in one queue, the rest in others; every tenth queue is connected."""
    from django.db import connection

    from netra_queue.models import queue_id

    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE numbered (n int PRIMARY KEY, id bigint, name text)")
        with cursor.copy("COPY numbered FROM STDIN") as copy:
            for number in range(QUEUES):
                copy.write_row((number, queue_id(f"user.{number}"), f"user.{number}"))
        cursor.execute(FILL_QUEUES)
        cursor.execute(FILL_MESSAGES, [messages, QUEUES])
        cursor.execute(FILL_SERVERS)
        cursor.execute(FILL_CONNECTIONS)
        cursor.execute("ANALYZE")


def measure(messages: int) -> None:
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    print(f"{messages} messages in {QUEUES} queues; milliseconds of {REPEATS} requests")  # noqa: T201
    print(f"{'page':<38}{'median':>8}{'worst':>8}{'statements':>12}{'slowest statement':>19}")  # noqa: T201
    for title, address in PAGES.items():
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            response = client.get(f"/admin/netra_queue/{address}")
            seconds.append(time.perf_counter() - started)
            assert response.status_code == 200, (title, response.status_code)
        with CaptureQueriesContext(connection) as context:
            client.get(f"/admin/netra_queue/{address}")
        slowest = max(float(query["time"]) for query in context.captured_queries)
        print(  # noqa: T201
            f"{title:<38}{statistics.median(seconds) * 1000:>8.0f}{max(seconds) * 1000:>8.0f}"
            f"{len(context.captured_queries):>12}{slowest * 1000:>19.0f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
