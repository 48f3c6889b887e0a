"""The Makefile's own work: its virtual environment is there or it is not, and what `.ci/run` looks for is printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Debian's python3 without the package python3-venv: it cannot import ensurepip, and -m venv breaks off half-way.
WITHOUT_VENV = """#!/bin/sh
echo "$*" >>python.log
case "$*" in
*ensurepip*) test -e python3-venv-is-here ;;
*"-m venv"*) mkdir -p .venv/bin && touch .venv/bin/python && exit 1 ;;
esac
"""
WITH_VENV = """#!/bin/sh
echo "$*" >>python.log
case "$*" in
*"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


class Folder:
    """A copy of the Makefile, and commands that stand in for the machine's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "commands").mkdir()
        (path / "requirements.txt").touch()
        shutil.copy(ROOT / "Makefile", path)
        self.command("id", "#!/bin/sh\necho 1000\n")
        self.command("apt-get", "#!/bin/sh\necho must not be called >&2\nexit 1\n")

    def command(self, name: str, script: str) -> None:
        file = self.path / "commands" / name
        file.write_text(script)
        file.chmod(0o755)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
            "PATH": f"{self.path / 'commands'}{os.pathsep}{os.environ['PATH']}",
        }
        command = ["make", ".venv/.requirements", *arguments]
        return subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True, check=False)

    @property
    def calls(self) -> list[str]:
        return (self.path / "python.log").read_text().splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_without_venv_it_names_the_package_and_leaves_nothing(folder: Folder) -> None:
    folder.command("python3", WITHOUT_VENV)
    for _ in range(2):
        done = folder.make()
        assert done.returncode != 0
        said, *rest = done.stderr.splitlines()
        assert "apt-get install python3-venv" in said
        assert all(line.startswith("make: ***") for line in rest)
        assert not (folder.path / ".venv").exists()


def test_an_attempt_that_fails_half_way_leaves_nothing(folder: Folder) -> None:
    folder.command("python3", WITHOUT_VENV)
    (folder.path / "python3-venv-is-here").touch()
    assert folder.make().returncode != 0
    assert any("-m venv" in call for call in folder.calls)
    assert not (folder.path / ".venv").exists()


def test_an_environment_without_pip_is_made_anew(folder: Folder) -> None:
    folder.command("python3", WITH_VENV)
    (folder.path / ".venv/bin").mkdir(parents=True)
    (folder.path / ".venv/bin/python").symlink_to(folder.path / "gone")
    (folder.path / ".venv/left").touch()
    done = folder.make()
    assert (done.returncode, done.stderr) == (0, "")
    assert not (folder.path / ".venv/left").exists()


def test_the_second_start_calls_no_pip_and_no_python(folder: Folder) -> None:
    folder.command("python3", WITH_VENV)
    assert folder.make().returncode == 0
    assert any("pip install" in call for call in folder.calls)
    before = folder.calls
    assert folder.make().returncode == 0
    assert folder.calls == before


@pytest.mark.parametrize("works", [True, False])
def test_as_root_it_installs_the_package_itself(folder: Folder, works: bool) -> None:
    folder.command(
        "python3", WITH_VENV.replace("case", 'case "$*" in *ensurepip*) exec test -e installed ;; esac\ncase', 1)
    )
    folder.command("id", "#!/bin/sh\necho 0\n")
    install = "touch installed" if works else "exit 100"
    folder.command("apt-get", f'#!/bin/sh\ncase "$*" in *"install"*python3-venv) {install} ;; esac\n')
    done = folder.make()
    assert (done.returncode == 0) is works
    assert (folder.path / ".venv").exists() is works
    assert works or "apt-get install python3-venv" in done.stderr


REDIS = "from tests.conftest import needs_redis\n@needs_redis\ndef test_it() -> None: ...\n"
CHROMIUM = "from tests.browser.conftest import chromium\ndef test_it(chromium: object) -> None: ...\n"


@pytest.mark.parametrize("code", [REDIS, CHROMIUM], ids=["redis", "chromium"])
def test_ci_notices_the_skips_of_a_missing_server(tmp_path: Path, code: str) -> None:
    """The pattern in `.ci/run`, on what pytest prints with a server or program that is not there."""
    pattern = re.search(r"grep -E '([^']+)' \"\$WORK/tests.log\"", (ROOT / ".ci/run").read_text())
    assert pattern is not None
    test = tmp_path / "test_it.py"
    test.write_text(code)
    options = ["-p", "no:cacheprovider", "-c", "pyproject.toml", "--rootdir", "."]
    environment = {
        **os.environ,
        "PATH": str(tmp_path),
        "TEST_REDIS_URL": "redis://127.0.0.1:1/5",
        "NETRA_REQUIRE_SERVERS": "",
    }
    command = [sys.executable, "-m", "pytest", *options, str(test)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "1 skipped" in done.stdout, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if re.search(pattern[1], line)] != []
