"""What the documents say is compared with the code they speak of."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.core.management.base import CommandParser

import netra_queue
from netra_queue import conf
from netra_queue.management import subcommands

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(#[^)\s]*)?\)")
ROW = re.compile(r"^\| `(?P<key>[A-Z_]+)` \| `(?P<default>[^`]+)` \|", re.MULTILINE)
PYTHON = re.compile(r"```python\n(?P<code>.*?)```", re.DOTALL)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = {row["key"]: row["default"] for row in ROW.finditer((ROOT / "docs/settings.md").read_text())}
    known = {**conf.DEFAULTS, **conf.POLICY_DEFAULTS}
    assert rows == {key: repr(default) for key, default in known.items()}


def test_every_close_code_is_in_the_protocol() -> None:
    codes = json.loads((ROOT / "tests/golden/close_codes.json").read_text())["codes"]
    table = (ROOT / "docs/protocol.md").read_text()
    assert [code for code in codes.values() if f"| {code} |" not in table] == []


def test_every_frame_is_in_the_protocol() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    goldens = [json.loads(path.read_text()) for path in (ROOT / "tests/golden").glob("*.json")]
    sent = [
        json.loads(golden["frame"])["type"]
        for golden in goldens
        if golden["direction"] == "server_to_client" and golden["frame"]
    ]
    assert sent
    assert [kind for kind in sent if f"| `{kind}` |" not in text] == []


def test_every_error_and_outcome_is_explained() -> None:
    text = (ROOT / "docs/sending.md").read_text() + (ROOT / "docs/consumers.md").read_text()
    errors = [name for name in netra_queue.__all__ if isinstance(getattr(netra_queue, name), type)]
    names = [n for n in errors if issubclass(getattr(netra_queue, n), Exception) and n != "NotConfigured"]
    assert [name for name in names if f"{name}`" not in text] == []


@pytest.mark.parametrize("name", subcommands.NAMES)
def test_every_subcommand_and_its_options_are_explained(name: str) -> None:
    text = (ROOT / "docs/commands.md").read_text()
    parser = CommandParser()
    subcommands.load(name).add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings} - {"-h", "--help"}
    usages = [line for line in text.splitlines() if re.match(rf"(\| `|    ){name}\b", line)]
    assert f"manage.py netra_queue {name}" in text, "an example"
    assert [option for option in options if not any(option in usage for usage in usages)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = [link[1] for link in LINK.finditer(document.read_text())]
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_documents_is_python(document: Path) -> None:
    for block in PYTHON.finditer(document.read_text()):
        code: Any = block["code"]
        if code.startswith('"'):  # one entry of a dict
            code = f"{{{code}}}"
        compile(code, document.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
