"""Where the example's servers are: one URL each in the environment, embedded defaults without."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

BASE_DIR = Path(__file__).resolve().parent.parent
ENGINES = {"postgres": "postgresql", "postgresql": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


def database(url: str | None) -> dict[str, Any]:
    """A DATABASES entry for ``postgresql://user:password@host:port/name`` and the like; SQLite without a URL."""
    if not url or url.startswith("sqlite"):
        path = url.partition("///")[2] if url else ""
        return _sqlite(path or str(BASE_DIR / "db.sqlite3"))
    parts = urlsplit(url)
    engine = ENGINES.get(parts.scheme)
    if engine is None:
        raise ValueError(f"DATABASE_URL: expected one of {sorted({*ENGINES, 'sqlite'})}, got {parts.scheme!r}")
    if engine == "mysql":
        _use_pymysql()
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        "OPTIONS": {**({"charset": "utf8mb4"} if engine == "mysql" else {}), **dict(parse_qsl(parts.query))},
    }


def _sqlite(path: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"},
        "TEST": {"NAME": str(BASE_DIR / "test.sqlite3")},
    }


def _use_pymysql() -> None:
    """PyMySQL needs no compiler; Django asks for the version of the driver that it stands in for."""
    import pymysql

    pymysql.version_info = (2, 2, 7, "final", 0)
    pymysql.install_as_MySQLdb()


def channel_layers(url: str | None) -> dict[str, Any]:
    """The Redis layers for ``redis://…``, one for the application, one for bells; the in-process layer without a URL.

    redis-py 8 waits 5 seconds for an answer by default, as long as an idle channel layer asks for one, and opens 100
    connections at most: both need values of their own (docs/deployment.md).
    """
    if not url:
        return {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
    hosts = [{"address": url, "socket_timeout": 30, "max_connections": 10_000}]
    backends = {"default": "core.RedisChannelLayer", "bells": "pubsub.RedisPubSubChannelLayer"}
    return {
        alias: {"BACKEND": f"channels_redis.{name}", "CONFIG": {"hosts": hosts}} for alias, name in backends.items()
    }


def get(name: str, default: str = "") -> str:
    return os.environ.get(name, default)
