"""``manage.py netra_queue scenarios`` as an operator starts it: a process of its own, on a database of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Manage = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def manage(tmp_path: Path) -> Manage:
    """Runs manage.py on a new SQLite file."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'scenarios.sqlite3'}",
        "REDIS_URL": "",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def test_without_tables_it_says_what_to_do(manage: Manage) -> None:
    done = manage("netra_queue", "scenarios")
    assert done.returncode == 1
    assert "run `manage.py migrate` first" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("options", [[], ["--server", "uvicorn", "--raw"]], ids=["daphne-v1", "uvicorn-raw"])
def test_it_prints_a_line_each_and_exits_with_0(manage: Manage, options: list[str]) -> None:
    assert manage("migrate", "--verbosity", "0").returncode == 0
    done = manage("netra_queue", "scenarios", "--only", "2", *options)
    assert done.returncode == 0, done.stderr
    header, line = done.stdout.splitlines()
    assert header.split() == ["scenario", "sent", "received", "lost", "repeated", "out_of_order", "seconds"]
    assert line.startswith("2 a sequence while away")
    assert line.split()[5:10] == ["10", "10", "0", "0", "0"]
    assert line.endswith("ok")
