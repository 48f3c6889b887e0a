"""Take each mechanism out in a copy of the tree, and see its tests fail.

    python -m tests.mutants.run [name …]

Exits with 1 if a mutant lived: a test passed although what it is to show was gone. Without any change, the same tests
pass; that is looked at first.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from tests.mutants.mutant import ROOT, Mutant, mutants

LIMIT_SECONDS = 300  # a test that hangs has noticed as well
FAILED = 1  # pytest's; other codes mean that no test ran


def main(names: list[str]) -> int:
    chosen = [mutant for mutant in mutants() if not names or any(mutant.name.startswith(name) for name in names)]
    with tempfile.TemporaryDirectory(prefix="netra_mutants_") as folder:
        tree = _copy(Path(folder) / "tree")
        tests = dict.fromkeys(test for mutant in chosen for test in mutant.tests)
        if (status := _pytest(tree, tests, shall_pass=True)) != 0:
            say(f"without any change, pytest ends with {status}")
            return 1
        alive = [mutant for mutant in chosen if not _is_noticed(tree, mutant)]
    say(f"{len(chosen) - len(alive)} of {len(chosen)} noticed")
    return 1 if alive else 0


def _copy(tree: Path) -> Path:
    """What git knows of, with the changes that are not committed."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    return tree


def _is_noticed(tree: Path, mutant: Mutant) -> bool:
    """By each of its tests: one that cannot fail is none."""
    file, began = tree / mutant.file, time.monotonic()
    whole = file.read_text()
    file.write_text(mutant.text(tree))
    try:
        passed = [test for test in mutant.tests if _pytest(tree, [test]) != FAILED]
    finally:
        file.write_text(whole)
    verdict = f"LIVES: {', '.join(passed)}" if passed else "noticed"
    say(f"{mutant.name}: {verdict} ({mutant.shows}; {time.monotonic() - began:.0f} s)")
    return not passed


def _pytest(tree: Path, tests: Iterable[str], *, shall_pass: bool = False) -> int:
    """``shall_pass``: all tests of many mutants, which take longer, and whose failure is of interest."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"NETRA_MUTANT": "1"}
    try:
        limit = None if shall_pass else LIMIT_SECONDS
        ended = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return FAILED
    if ended.returncode not in (0, FAILED) or (shall_pass and ended.returncode):
        say(ended.stdout[-3000:] + ended.stderr[-2000:])
    return ended.returncode


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  a script's words


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
