"""What a run says of a program that is not there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.test_architecture import ROOT


def assert_said_and_noticed(test: str, empty: Path) -> None:
    """Without any program, this test is skipped with a reason, and CI knows the reason. ``empty``: a folder."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test]
    environment = {**os.environ, "PATH": str(empty), "NETRA_REQUIRE_SERVERS": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "1 skipped" in done.stdout, done.stdout + done.stderr
    pattern = re.search(r"grep -E '([^']+)' \"\$WORK/tests.log\"", (ROOT / ".ci/run").read_text())
    assert pattern is not None
    assert [line for line in done.stdout.splitlines() if re.search(pattern[1], line)] != [], done.stdout
