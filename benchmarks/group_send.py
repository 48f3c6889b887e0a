"""How long a message to 100,000 queues takes, beside the bare rows: ``python benchmarks/group_send.py [queues]``.

Makes a database of its own on the PostgreSQL server that DATABASE_URL names (by default the one at its usual local
port), subscribes that many queues to a group, and then in turn, three times each: sends one message to the group, and
inserts the very same rows into the same table, with its indexes, by INSERT ... SELECT from a table that holds them.
Then all recipients acknowledge. Prints the times, first with empty queues, then with WAITING messages in each.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "netra_bench_groups"
GROUP = "everybody"
REPEATS = 3
WAITING = 5  # messages in each queue, in the second part
ACKS = 500  # recipients' acks in one call
SETTINGS = ("server_version", "shared_buffers", "fsync", "synchronous_commit", "max_wal_size")
COLUMNS = "queue_id, uid, priority, kind, payload, size, created_at, expires_at, body_id, flags, deliveries"
FILL = f"""
INSERT INTO netra_queue_message ({COLUMNS})
SELECT id, md5(n::text || name), 2, 0, '{{"n":1}}', 7, now(), now() + interval '1 day', NULL, 0, 0
FROM netra_queue_queue, generate_series(1, %s) n
"""


def main(queues: int) -> None:
    sys.path.insert(0, str(ROOT))
    os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
    os.environ.setdefault("DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/test")
    import django
    from django.conf import settings

    settings.DATABASES["default"]["TEST"] = {"NAME": DATABASE}
    django.setup()
    from django.db import connection

    from netra_queue import process

    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        describe(queues)
        subscribe(queues)
        print(f"{'':<28}{'group_send':>12}{'bare rows':>12}{'speed':>8}   (seconds; medians of {REPEATS})")  # noqa: T201
        compare("empty queues", queues)
        execute(FILL, [WAITING])
        compare(f"{WAITING} messages in each queue", queues)
        acknowledge()
    finally:
        process.close()  # its threads are connected, too
        connection.creation.destroy_test_db(settings.DATABASES["default"]["NAME"], verbosity=0)


def describe(queues: int) -> None:
    import django

    server = ", ".join(f"{name} {execute(f'SHOW {name}')[0][0]}" for name in SETTINGS)
    cores = len(os.sched_getaffinity(0))
    print(f"{queues} queues; PostgreSQL: {server}")  # noqa: T201
    print(f"Python {platform.python_version()}, Django {django.__version__}, {cores} cores, {platform.machine()}")  # noqa: T201


def execute(sql: str, parameters: list[object] | None = None) -> list[tuple[object, ...]]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def subscribe(queues: int) -> None:
    from netra_queue.stores import current_store

    names = [f"user.{number}" for number in range(queues)]
    for start in range(0, queues, 1000):
        current_store().ensure(names[start : start + 1000])
    seconds = timed(lambda: current_store().subscribe(names, GROUP))
    print(f"{queues} subscriptions: {seconds:.1f} s")  # noqa: T201


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(title: str, queues: int) -> None:
    """Each run begins with the same rows in a table that was vacuumed and analysed."""
    sent: list[float] = []
    bare: list[float] = []
    settle()
    for _ in range(REPEATS):
        sent.append(timed(lambda: send(queues)))
        execute("CREATE TABLE source AS SELECT * FROM netra_queue_message WHERE body_id IS NOT NULL ORDER BY id")
        settle()
        bare.append(timed(lambda: execute(f"INSERT INTO netra_queue_message ({COLUMNS}) SELECT {COLUMNS} FROM source")))
        execute("DROP TABLE source")
        settle()
    ours, theirs = statistics.median(sent), statistics.median(bare)
    print(f"{title:<28}{ours:>12.2f}{theirs:>12.2f}{theirs / ours:>8.0%}", flush=True)  # noqa: T201


def send(queues: int) -> None:
    from netra_queue import group_send

    assert group_send(GROUP, {"type": "news", "text": "x" * 1000}).recipients == queues


def settle() -> None:
    execute("DELETE FROM netra_queue_message WHERE body_id IS NOT NULL")
    execute("DELETE FROM netra_queue_body")
    execute("VACUUM ANALYZE")
    execute("CHECKPOINT")


def acknowledge() -> None:
    """All recipients of one message ack it, in calls of ACKS, in the order in which the rows were written."""
    from netra_queue import group_send
    from netra_queue.models import Body, Message
    from netra_queue.stores import current_store

    store = current_store()
    group_send(GROUP, {"type": "news"})
    rows = list(
        Message.objects.filter(body__isnull=False).order_by("pk").values_list("queue__name", "pk").iterator(10_000)
    )
    seconds = []
    for start in range(0, len(rows), ACKS):
        acked = {name: [position] for name, position in rows[start : start + ACKS]}
        seconds.append(timed(lambda acked=acked: store.ack(acked)))  # type: ignore[misc]
    tenth = max(1, len(seconds) // 10)
    first, last = statistics.median(seconds[:tenth]) * 1000, statistics.median(seconds[-tenth:]) * 1000
    print(  # noqa: T201
        f"{len(rows)} acks, {ACKS} a call: {sum(seconds):.1f} s; a call takes {first:.0f} ms among the first tenth, "
        f"{last:.0f} ms among the last"
    )
    upkeep = timed(lambda: store.forget_bodies(1000))
    print(f"its payload is removed by upkeep in {upkeep * 1000:.0f} ms; payloads left: {Body.objects.count()}")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
