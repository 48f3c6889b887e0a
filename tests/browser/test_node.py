"""The browser client: its tests in JavaScript, which need node, and what can be seen in the file that pages get."""

from __future__ import annotations

import gzip
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.missing import assert_said_and_noticed

ROOT = Path(__file__).resolve().parent.parent.parent
STATIC = ROOT / "netra_queue/static/netra_queue"
CLIENT = (STATIC / "client.js").read_text()
CODE = re.sub(r"/\*.*?\*/|//[^\n]*", "", CLIENT, flags=re.DOTALL)  # its strings have neither
MOST_BYTES = 8192
TESTS = sorted(Path(__file__).parent.glob("*.test.mjs"))


def find_node() -> str:
    found = shutil.which("node")
    if found is None:
        if os.environ.get("NETRA_REQUIRE_SERVERS") == "1":
            pytest.fail("NETRA_REQUIRE_SERVERS=1, but there is no node")
        pytest.skip("there is no node")
    return found


@pytest.fixture(scope="module")
def node() -> str:
    return find_node()


def run(command: list[str]) -> str:
    """What it said. Fails with all of it, when the command fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_in_javascript(node: str, path: Path) -> None:
    said = run([node, "--test", "--test-reporter=tap", str(path)])
    assert re.search(r"^# pass [1-9]", said, re.MULTILINE), said
    assert re.search(r"^# (skipped|todo) [1-9]", said, re.MULTILINE) is None, said


def test_there_are_tests_in_javascript() -> None:
    assert [path.name.split(".")[0] for path in TESTS] == [
        "dashboard",
        "handling",
        "interleavings",
        "life",
        "protocol",
        "regressions",
        "sending",
        "tabs",
    ]


def test_it_is_what_its_parts_give() -> None:
    joined = runpy.run_path(str(ROOT / ".ci/join_client.py"))["joined"]
    assert joined() == CLIENT, "`make client` was forgotten"


def test_it_is_small() -> None:
    size = len(gzip.compress(CLIENT.encode(), 9, mtime=0))
    assert size < MOST_BYTES, f"{size} bytes gzipped, not minified"


def test_it_is_a_module(node: str, tmp_path: Path) -> None:
    (tmp_path / "client.mjs").write_text(CLIENT)
    run([node, "--check", str(tmp_path / "client.mjs")])


def test_it_needs_nothing_else_and_no_loose_policy() -> None:
    """A strict Content-Security-Policy: no code out of strings, no inline code, nothing from elsewhere."""
    forbidden = r"\bimport\b|\beval\b|\bFunction\b|\binnerHTML\b|\bset\w+\(\s*[\"'`]|https?://|\bfrom\s*[\"']"
    assert re.findall(forbidden, CODE) == []
    assert re.findall(r"^export (?:const|class) (\w+)", CODE, re.MULTILINE) == [
        "SUBPROTOCOL",
        "SeenIds",
        "Protocol",
        "NetraQueue",
        "QueueMessage",
    ]


def test_the_protocol_only_thinks() -> None:
    code = CODE.split("class NetraQueue")[0]
    assert "class Protocol" in code
    forbidden = r"\b(WebSocket|setTimeout|Date\.now|performance|document|addEventListener|navigator|\w+Storage)\b"
    assert re.findall(forbidden, code) == []


@pytest.mark.parametrize("name", ["client.js", "client.d.ts", "protocol.js", "browser.js"])
def test_it_is_found_by_staticfiles(name: str) -> None:
    from django.contrib.staticfiles import finders

    assert finders.find(f"netra_queue/{name}") == str(STATIC / name)


def test_without_node_it_says_so_and_ci_notices(tmp_path: Path) -> None:
    assert_said_and_noticed(f"{__file__}::test_it_is_a_module", tmp_path)


def test_where_nothing_may_be_missing_it_fails_without_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NETRA_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="there is no node"):
        find_node()
