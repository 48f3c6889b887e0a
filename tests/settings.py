"""The tests' settings: SQLite in a file as the default database, and every database server that answers.

A server that does not answer is left out, and the tests that need it are skipped. With NETRA_REQUIRE_SERVERS=1 it is an
error instead. The test databases carry the process's id, so that two runs at a time do not share them.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from project.environment import database
from project.settings import *  # noqa: F403

PROBE_SECONDS = 1.0
TEST_DATABASE = os.environ.setdefault("NETRA_TEST_DATABASE", f"test_netra_{os.getpid()}")
POSTGRESQL_URL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql://postgres@127.0.0.1:5432/test")
MARIADB_URL = os.environ.get("TEST_MARIADB_URL", "mysql://root@127.0.0.1:3306/test")
REDIS_URL = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/5")
RABBITMQ_URL = os.environ.get("TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "redis": 6379, "amqp": 5672}


def answers(url: str) -> bool:
    """Whether something listens at the URL's host and port."""
    parts = urlsplit(url)
    try:
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        socket.create_connection((parts.hostname, port), PROBE_SECONDS).close()
    except OSError:
        return False
    return True


SERVERS = {"postgresql": POSTGRESQL_URL, "mariadb": MARIADB_URL, "redis": REDIS_URL, "rabbitmq": RABBITMQ_URL}
MISSING = {name: f"{name} does not answer at {url}" for name, url in SERVERS.items() if not answers(url)}
if MISSING and os.environ.get("NETRA_REQUIRE_SERVERS") == "1":
    raise ImproperlyConfigured(f"NETRA_REQUIRE_SERVERS=1, but {'; '.join(MISSING.values())}")

_file = str(Path(tempfile.gettempdir()) / f"{TEST_DATABASE}.sqlite3")
DATABASES = {"default": {**database(None), "TEST": {"NAME": _file}}}
DATABASES |= {
    alias: {**database(SERVERS[alias]), "TEST": {"NAME": TEST_DATABASE, "DEPENDENCIES": [], **charset}}
    for alias, charset in {"postgresql": {"CHARSET": "UTF8", "TEMPLATE": "template0"}, "mariadb": {}}.items()
    if alias not in MISSING
}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
