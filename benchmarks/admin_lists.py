"""How long the admin's pages take: ``python benchmarks/admin_lists.py [messages] [queues] [--keep]``.

Makes a database of its own on the PostgreSQL server that DATABASE_URL names (by default the one at its usual local
port), fills it, asks for each page a few times through Django's test client, prints the times, and removes it. "first"
is the first request for that page, whose rows PostgreSQL may not have in its buffers yet; the others follow it.
"processor" is the time that a processor worked for one of these, here and in PostgreSQL. ``--keep`` leaves the database
there, and uses it if it is there already.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "netra_bench_admin"
REPEATS = 5
FULL_QUEUES, FULL = 300, 1000  # so many queues hold so many messages each, written in one go
LARGE = 100_000  # messages of user.0
LINES = 10  # devices of user.0
PAGES = {
    "queues": "queue/",
    "queues, last page offered": "queue/?p=200",
    "queues, name begins with user.99": "queue/?q=user.99",
    "queues, by user": "queue/?q=operator",
    "queues, connected": "queue/?connected=yes",
    "queues, deepest first": "queue/?o=-3",
    "queues, at least 100 messages": "queue/?depth=100",
    "queues, oldest message first": "queue/?o=-5",
    "queues, waiting for more than an hour": "queue/?age=3600",
    "queues, most losses first": "queue/?o=-7",
    "queues, lost something, not connected": "queue/?lost=yes&connected=no",
    "queues, 100 messages, lost, connected": "queue/?depth=100&lost=yes&connected=yes",
    "queues, begin with user.99, deepest first": "queue/?q=user.99&o=-3",
    "queues, last seen first": "queue/?o=-9",
    "page of a queue": "queue/{one}/change/",
    "page of the largest queue": "queue/{large}/change/",
    "messages, newest of all": "message/",
    "messages of one queue": "message/?q=user.7",
    "messages of the largest queue": "message/?q=user.0",
    "messages of the largest queue, low": "message/?q=user.0&priority=low",
    "messages, search in a full queue": "message/?queue={full}&q=4711",
    "messages, search in the largest queue": "message/?queue={large}&q=4711",
    "page of a message": "message/{message}/change/",
    "dead letters": "deadletter/",
    "dead letters of one queue": "deadletter/?q=user.7",
    "dead letters, expired": "deadletter/?reason=expired",
    "server processes": "serverprocess/",
    "live connections": "liveconnection/",
}


def main(messages: int, queues: int, *, keep: bool) -> None:
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

    from netra_queue.models import Queue

    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False, keepdb=keep)
    try:
        if not Queue.objects.exists():
            fill(messages, queues)
        print(f"{messages} messages in {queues} queues; milliseconds of {REPEATS} requests")  # noqa: T201
        measure()
    finally:
        connection.creation.destroy_test_db(settings.DATABASES["default"]["NAME"], verbosity=0, keepdb=keep)


FILL = {
    "queues": (
        "INSERT INTO netra_queue_queue (id, name, policy, created_at, seen_at, idle_since) "
        "SELECT id, name, '', now(), now() - n * interval '1 second', now() - n * interval '1 second' FROM numbered"
    ),
    "lines": (
        "UPDATE netra_queue_queue SET parent_id = {large} WHERE name LIKE 'user.0/%'; "
        "UPDATE netra_queue_queue SET seen_at = now() WHERE name LIKE 'user.0%'"
    ),
    "messages of many queues": (
        "INSERT INTO netra_queue_message (queue_id, uid, priority, kind, payload, size, created_at, expires_at) "
        "SELECT q.id, md5(g::text), mod(g, 4), 0, '{{\"n\":' || g || ',\"text\":\"' || repeat('x', 100) || '\"}}', "
        "120, now() - ({messages} - g) * interval '10 millisecond', now() + interval '1 day' "
        "FROM generate_series(1, {rest}) g JOIN numbered q ON q.n = mod(g::bigint * 7919, {queues})"
    ),
    "full queues": (
        "INSERT INTO netra_queue_message (queue_id, uid, priority, kind, payload, size, created_at, expires_at) "
        "SELECT q.id, md5(q.n || '-' || g), 2, 0, '{{\"n\":' || g || ',\"text\":\"' || repeat('x', 100) || '\"}}', "
        "120, now(), now() + interval '1 day' FROM numbered q, generate_series(1, {full}) g "
        "WHERE mod(q.n, {step}) = 5 ORDER BY q.n, g"
    ),
    "the large queue": (
        "INSERT INTO netra_queue_message (queue_id, uid, priority, kind, payload, size, created_at, expires_at) "
        "SELECT {large}, md5('large' || g), mod(g, 4), 0, '{{\"n\":' || g || '}}', 12, now(), now() + interval '1 day' "
        "FROM generate_series(1, {size}) g"
    ),
    "losses": (
        "INSERT INTO netra_queue_loss (queue_id, reason, priority, count, since) "
        "SELECT q.id, 'dropped', 2, mod(g, 9) + 1, now() - interval '1 hour' "
        "FROM generate_series(1, 200000) g JOIN numbered q ON q.n = mod(g * 5, {queues})"
    ),
    "dead letters": (
        "INSERT INTO netra_queue_deadletter (queue_id, uid, reason, priority, kind, payload, size, deliveries, "
        "created_at, expires_at, died_at, keep_until) "
        "SELECT q.id, md5(g::text), CASE mod(g, 2) WHEN 0 THEN 'dead' ELSE 'expired' END, 2, 0, '{{}}', 2, 20, "
        "now(), now(), now(), now() + interval '1 day' "
        "FROM generate_series(1, 200000) g JOIN numbered q ON q.n = mod(g * 7, {queues})"
    ),
    "servers": (
        "INSERT INTO netra_queue_serverprocess (id, host, pid, started_at, heartbeat_at) "
        "SELECT 'server-' || n, 'here', n, now(), now() + interval '1 day' FROM generate_series(0, 7) n"
    ),
    "connections": (
        "INSERT INTO netra_queue_liveconnection (id, client, connected_at, queue_id, server_id) "
        "SELECT md5(n::text), '', now(), id, 'server-' || mod(n, 8) FROM numbered WHERE mod(n, 20) = 0"
    ),
}


def fill(messages: int, queues: int) -> None:
    """Some queues are full, one is much larger, the others share what is left; every 20th is connected."""
    from django.db import connection

    from netra_queue.models import queue_id

    names = [*(f"user.{number}" for number in range(queues)), *(f"user.0/device-{n}" for n in range(LINES))]
    size = min(LARGE, messages // 10)
    values = {
        "messages": messages,
        "queues": queues,
        "large": queue_id("user.0"),
        "size": size,
        "full": FULL,
        "step": max(10, queues // FULL_QUEUES),
        "rest": max(0, messages - size - FULL * min(FULL_QUEUES, queues // 10)),
    }
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE numbered (n int PRIMARY KEY, id bigint, name text)")
        with cursor.copy("COPY numbered FROM STDIN") as copy:
            for number, name in enumerate(names):
                copy.write_row((number, queue_id(name), name))
        for sql in FILL.values():
            cursor.execute(sql.format(**values))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


def measure() -> None:
    from django.contrib.auth.models import User
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    from netra_queue.models import Message, queue_id

    client = Client()
    user = User.objects.filter(username="operator").first() or User.objects.create_superuser("operator")
    client.force_login(user)
    client.get("/admin/")
    full = Message.objects.order_by("-pk").filter(priority=2, payload__startswith='{"n":1000,"text"').first()
    ids = {
        "one": queue_id("user.7"),
        "large": queue_id("user.0"),
        "full": full.queue_id if full else queue_id("user.7"),
        "message": full.pk if full else 1,
    }
    head = f"{'page':<44}{'first':>8}{'best':>8}{'median':>8}{'worst':>8}{'processor':>11}{'statements':>12}"
    print(head)  # noqa: T201
    for title, address in PAGES.items():
        url = f"/admin/netra_queue/{address.format(**ids)}"
        first = timed(client, url) * 1000
        worked = processor_seconds(connection)
        rest = [timed(client, url) * 1000 for _ in range(REPEATS)]
        worked = (processor_seconds(connection) - worked) * 1000 / REPEATS
        with CaptureQueriesContext(connection) as context:
            client.get(url)
        print(  # noqa: T201
            f"{title:<44}{first:>8.0f}{min(rest):>8.0f}{statistics.median(rest):>8.0f}{max(rest):>8.0f}"
            f"{worked:>11.0f}{len(context.captured_queries):>12}",
            flush=True,
        )


def processor_seconds(connection: Any) -> float:
    """Of this process and of the server process that it talks to, if that runs here: what others do adds nothing."""
    status = Path(f"/proc/{connection.connection.info.backend_pid}/stat")
    fields = status.read_text().rpartition(")")[2].split() if status.exists() else ["0"] * 13
    return time.process_time() + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(client: Any, url: str) -> float:
    started = time.perf_counter()
    response = client.get(url)
    assert response.status_code == 200, (url, response.status_code)
    return time.perf_counter() - started


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:] if each.isdigit()]
    main(*(numbers + [1_000_000, 200_000][len(numbers) :])[:2], keep="--keep" in sys.argv)
