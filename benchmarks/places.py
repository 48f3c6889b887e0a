"""Where measurements take place: a database of their own, servers, and what the machine is."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

from netra_queue.management.scenarios import server as servers
from netra_queue.management.scenarios.server import Server

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "netra_bench"
APPLICATION = "benchmarks.application.application"
POLICIES = {"default": {"MAX_MESSAGES": 1_000_000, "MAX_BYTES": 1 << 32}}
SETTINGS = ("server_version", "shared_buffers", "fsync", "synchronous_commit", "max_wal_size")
PACKAGES = ("django", "channels", "channels-redis", "daphne", "redis", "psycopg", "websockets")


def prepare() -> None:
    """Have this process, and those that it starts, use a database of our own. Before Django is used."""
    given = os.environ.get("DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/test")
    os.environ["DATABASE_URL"] = urlunsplit(urlsplit(given)._replace(path=f"/{DATABASE}"))
    os.environ.setdefault("REDIS_URL", "redis://127.0.0.1:6379/9")
    os.environ.update(DJANGO_SETTINGS_MODULE="project.settings", DEBUG="0", LOG_LEVEL="ERROR")
    os.environ[servers.OVERRIDES] = json.dumps({"POLICIES": POLICIES, "CHANNEL_LAYER": "bells"})
    remove()
    administer(f"CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8'")
    subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity", "0", "--skip-checks"], cwd=ROOT, check=True)
    import django

    django.setup()
    servers.configure()


def close() -> None:
    """End this process's threads, which are connected, and remove the database."""
    from netra_queue import process

    process.close()
    remove()


def remove() -> None:
    administer(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")


def administer(statement: str) -> list[tuple[Any, ...]]:
    """One statement on the server's own database, outside of transactions."""
    url = urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path="/postgres"))
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def execute(sql: str, parameters: list[Any] | None = None) -> list[tuple[Any, ...]]:
    """One statement on our database, in this process's connection."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else []


def empty() -> None:
    """Every measurement begins with empty tables that have no dead rows."""
    from django.apps import apps

    tables = ", ".join(model._meta.db_table for model in apps.get_app_config("netra_queue").get_models())
    execute(f"TRUNCATE {tables}")
    execute("VACUUM ANALYZE")
    execute("CHECKPOINT")


@contextmanager
def server(kind: str = "daphne") -> Iterator[Server]:
    """A server of the benchmark's consumers, in a process of its own."""
    with servers.running(kind, application=APPLICATION) as running:
        yield running


def describe() -> list[str]:
    """The machine, and the versions of what is measured."""
    import redis

    own = importlib.metadata.version
    database = ", ".join(f"{name} {administer(f'SHOW {name}')[0][0]}" for name in SETTINGS)
    memory = redis.Redis.from_url(os.environ["REDIS_URL"], socket_timeout=5)
    persistence = ", ".join(f"{name} {memory.config_get(name)[name] or 'none'}" for name in ("save", "appendonly"))
    cores = len(os.sched_getaffinity(0))
    return [
        f"{cores} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        ", ".join(f"{name} {own(name)}" for name in PACKAGES),
        f"PostgreSQL: {database}",
        f"Redis {memory.info('server')['redis_version']}: {persistence}",
    ]
