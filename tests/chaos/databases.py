"""The storm's databases: a PostgreSQL of its own, to be stopped as one likes, or a database of the MariaDB here."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import psycopg
import pymysql

from tests.chaos.clocks import Clock
from tests.server.conftest import free_port
from tests.settings import MARIADB_URL

NAME = "storm"
HERE = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "''", "shared_buffers": "32MB"}


class Database(Protocol):
    """``clock`` is None where nobody may step it."""

    url: str
    clock: Clock | None

    def end_sessions(self) -> None:
        """All of them, the senders' included."""

    def restart(self, how: str) -> None:
        """``how``: "fast" or "immediate", which is a crash. Raises NotImplementedError where nobody may do that."""


@dataclass(slots=True)
class OwnPostgresql:
    """``fsync`` and ``synchronous_commit`` are on, as they are by default."""

    binaries: Path
    folder: Path
    port: int
    clock: Clock | None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{NAME}"

    def make(self) -> None:
        self._run("initdb", "-U", "postgres", "-A", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C")
        self._control("start")
        with psycopg.connect(self.url.replace(f"/{NAME}", "/postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {NAME}")

    def restart(self, how: str) -> None:
        self._control("restart", "-m", how)

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def end_sessions(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    def _control(self, *what: str) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in HERE.items())
        log = str(self.folder / "log")
        self._run("pg_ctl", "-w", "-t", "60", "-l", log, "-o", f"-p {self.port} {options}", *what)

    def _run(self, command: str, *arguments: str) -> None:
        """It refuses to run as root. Its output must be no pipe of ours, which the server would hold open."""
        user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        environment = {**os.environ, **(self.clock.environment if self.clock and command == "pg_ctl" else {})}
        subprocess.run(
            [self.binaries / command, "-D", self.folder / "data", *arguments],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            **user,
        )


@dataclass(slots=True)
class SharedMariadb:
    """Others use the same server: only sessions of this database are ended."""

    name: str
    url: str
    clock: Clock | None = None

    def restart(self, how: str) -> None:
        raise NotImplementedError

    def end_sessions(self) -> None:
        query = "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = %s AND ID <> CONNECTION_ID()"
        with self.session() as cursor:
            cursor.execute(query, [self.name])
            for (session,) in cursor.fetchall():
                with suppress(pymysql.err.OperationalError):  # it has just ended by itself
                    cursor.execute("KILL CONNECTION %s", [session])

    @contextmanager
    def session(self) -> Iterator[Any]:
        parts = urlsplit(self.url)
        where = {"host": parts.hostname, "port": parts.port or 3306, "user": parts.username}
        connection = pymysql.connect(**where, password=parts.password or "", autocommit=True)
        try:
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()


def postgresql_binaries() -> Path | None:
    """Where the newest PostgreSQL has its server's programs."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found and (path := shutil.which("initdb")):
        return Path(path).parent
    return max(found, key=lambda folder: float(folder.parent.name), default=None)


@contextmanager
def own_postgresql(binaries: Path) -> Iterator[OwnPostgresql]:
    with tempfile.TemporaryDirectory(prefix="netra-postgresql-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
        database = OwnPostgresql(binaries, folder, free_port(), Clock(folder / "clock"))
        try:
            database.make()
            migrate(database.url)
            yield database
        finally:
            with suppress(subprocess.CalledProcessError):  # it may not have started
                database.stop()


@contextmanager
def shared_mariadb() -> Iterator[SharedMariadb]:
    name = f"netra_storm_{os.getpid()}"
    database = SharedMariadb(name, urlsplit(MARIADB_URL)._replace(path=f"/{name}").geturl())
    with database.session() as cursor:
        cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        migrate(database.url)
        yield database
    finally:
        database.end_sessions()
        with database.session() as cursor:
            cursor.execute(f"DROP DATABASE {name}")


def migrate(url: str) -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "project.settings", "DATABASE_URL": url}
    command = [sys.executable, "manage.py", "migrate", "--skip-checks", "--verbosity", "0", "netra_queue"]
    subprocess.run(command, env=environment, check=True)
