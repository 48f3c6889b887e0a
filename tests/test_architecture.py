"""The house rules, checked in the source: imports go one way, modules and functions stay short."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "netra_queue"
NAME = "netra_queue"
MAX_MODULE_LINES = 400
THINKING = [PACKAGE / "client" / name for name in ("protocol.py", "frames.py", "values.py")]  # as core does
MAX_FUNCTION_LINES = 40
# What a first name below the package may import of the others. Those not named here are the top: they may import all.
BASE = {"core", "exceptions"}
GROUND = BASE | {"controls", "fields", "conf", "signals", "models", "apps", "ids", "counting"}
GROUND |= {"alert_models", "control_models"}
VERBS = GROUND | {"deadline", "stores", "wakeup", "threads", "cancelling", "policies", "tracing", "validation"}
ALLOWED = {
    "core": set(),
    "exceptions": {"core"},
    "conf": BASE | {"controls"},
    "signals": BASE,
    "controls": BASE,
    "fields": set(),
    "control_models": {"fields"},
    "alert_models": {"core", "fields"},
    "models": BASE
    | {
        "conf",
        "fields",
        "alert_models",
        "control_models",
        "models_connections",
        "models_rates",
        "models_statistics",
    },
    "models_connections": {"fields"},
    "models_statistics": set(),
    "counting": BASE,
    "tracing": BASE,
    "policies": GROUND | {"stores"},
    "validation": GROUND,
    "client": BASE | {"cancelling"},
    "threads": GROUND,
    "cancelling": set(),
    "ids": set(),
    "deadline": BASE | {"conf"},
    "stores": GROUND | {"threads"},
    "wakeup": GROUND | {"threads", "cancelling", "hearing", "joined"},
    "joined": {"cancelling"},
    "describing": BASE | {"stores", "acks", "complaints", "link", "links"},
    "details": {"stores", "wakeup"},
    "models_rates": set(),
    "rates": VERBS,
    "receipts": VERBS,
    "backpressure": BASE,
    "unprotected": VERBS | {"statistics"},
    "passing": VERBS | {"unprotected"},
    "sending": VERBS | {"receipts", "counted", "backpressure", "passing", "rates"},
    "groups": VERBS | {"sending", "receipts", "passing", "rates"},
    "complaints": BASE,
    "counted": GROUND,
    "statistics": GROUND | {"stores", "complaints"},
    "meter": GROUND | {"stores", "tracing", "complaints", "statistics", "link", "acks"},
    "permission": BASE,
    "mailbox": set(),
    "link": VERBS | {"permission", "mailbox"},
    "acks": VERBS | {"complaints"},
    "arrivals": VERBS | {"acks"},
    "adopting": VERBS | {"link", "acks"},
    "obeying": VERBS | {"link", "acks", "complaints"},
    "own_sends": VERBS | {"sending", "link"},
    "returns": VERBS | {"link", "acks", "complaints"},
    "replaying": VERBS | {"link", "acks"},
    "hearing": {"cancelling"},
    "group_memory": set(),
    "links": BASE | {"link"},
    "giving": VERBS | {"link", "links", "passing", "permission"},
    "joining": VERBS | {"link", "complaints"},
    "detaching": VERBS | {"acks", "complaints"},
    "settling": VERBS | {"acks", "complaints"},
    "attaching": VERBS | {"groups", "hub", "incoming", "link", "parting"},
    "reads": VERBS | {"link", "acks", "complaints", "permission", "replay_reads", "turns"},
    "replay_reads": VERBS | {"link"},
    "turns": set(),
    "incoming": VERBS | {"hub", "link", "rates"},
    "lingering": VERBS,
    "operating": VERBS,
    "operators": VERBS | {"operating", "sending", "maintenance", "letters", "redaction"},
    "redaction": BASE | {"conf"},
    "choosing": VERBS | {"hub"},
    "hub": VERBS
    | {
        "sending",
        "lingering",
        "link",
        "acks",
        "adopting",
        "arrivals",
        "complaints",
        "describing",
        "detaching",
        "giving",
        "joining",
        "links",
        "meter",
        "obeying",
        "own_sends",
        "settling",
        "returns",
        "replaying",
        "reads",
        "statistics",
    },
    "letters": VERBS | {"sending"},
    "maintenance": VERBS,
    "known": BASE | {"stores", "complaints"},
    "sweeps": BASE | {"stores"},
    "dashboard": VERBS | {"known", "sweeps", "complaints", "maintenance"},
    "fullness": GROUND | {"stores", "maintenance"},
    "alerts": GROUND | {"stores", "policies", "complaints", "maintenance", "fullness"},
}
FOREIGN = {
    "channels": {"consumers", "wakeup", "group_memory", "dashboard"},
    "channels_redis": {"consumers", "wakeup"},
    "celery": {"tasks"},
    "django_celery_beat": {"tasks", "management"},
    "prometheus_client": {"metrics"},
    "health_check": {"health_plugin"},
    "websockets": {"client"},
    "opentelemetry": {"tracing"},
}


@dataclass(frozen=True)
class Import:
    path: Path
    line: int
    module: str  # absolute

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"

    @property
    def importer(self) -> str:
        """The first name below the package: ``stores`` for netra_queue/stores/base.py, "" for its ``__init__``."""
        first = self.path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        return "" if first == "__init__" else first


def is_scenario(found: Import) -> bool:
    """The scenarios are a Channels application of their own, as a project would write it."""
    return (PACKAGE / "management" / "scenarios") in found.path.parents


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts)


def imports() -> Iterator[Import]:
    """Every import in the package, those within functions and under TYPE_CHECKING included."""
    for path in sources():
        parts = [NAME, *path.relative_to(PACKAGE).parent.parts]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (Import(path, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = parts[: len(parts) - node.level + 1] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                yield from (Import(path, node.lineno, f"{module}.{alias.name}") for alias in node.names)


def inner() -> Iterator[tuple[Import, str]]:
    """Imports of the package's own modules, each with the first name below the package that it reaches for."""
    for found in imports():
        first, *rest = found.module.split(".")
        if first == NAME:
            name = rest[0] if rest else ""
            is_module = (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()
            yield found, name if is_module else ""


def test_imports_go_one_way() -> None:
    wrong = [
        f"{found.place}: {found.importer} must not import {name or 'the package itself'}"
        for found, name in inner()
        if found.importer in ALLOWED and name != found.importer and name not in ALLOWED[found.importer]
    ]
    assert not wrong, "\n".join(wrong)


def test_core_imports_only_the_standard_library_and_itself() -> None:
    wrong = [
        f"{found.place}: core must not import {found.module}"
        for found in imports()
        if found.importer == "core"
        and found.module.split(".")[0] not in sys.stdlib_module_names
        and not found.module.startswith(f"{NAME}.core")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["asyncio", "time", "logging", "threading", "random", "socket", "os", "websockets"])
def test_core_and_the_clients_protocol_only_think(module: str) -> None:
    wrong = [
        f"{found.place}: must not import {module}"
        for found in imports()
        if (found.importer == "core" or found.path in THINKING) and found.module.split(".")[0] == module
    ]
    assert all(path.exists() for path in THINKING)
    assert not wrong, "\n".join(wrong)


def test_foreign_packages_stay_where_they_belong() -> None:
    wrong = [
        f"{found.place}: {package} belongs into {' and '.join(sorted(FOREIGN[package]))} only"
        for found in imports()
        if (package := found.module.split(".")[0]) in FOREIGN
        and found.importer not in FOREIGN[package]
        and not is_scenario(found)
    ]
    assert not wrong, "\n".join(wrong)


def test_of_the_dashboard_only_its_consumer_needs_channels() -> None:
    """The page is served by processes that hold no WebSocket, too."""
    found = {found.path.name for found in imports() if found.importer == "dashboard" and "channels" in found.module}
    assert found == {"consumer.py"}


def test_only_stores_write_rows() -> None:
    writes = {"bulk_create", "bulk_update", "_raw_delete", "get_or_create", "update_or_create"}
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.func.attr} belongs into a store"
        for path in sources()
        if path.relative_to(PACKAGE).parts[0] not in {"stores", "management", "tasks.py"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in writes
    ]
    assert not wrong, "\n".join(wrong)


def test_modules_stay_short() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {lines} lines, at most {MAX_MODULE_LINES}"
        for path in sources()
        if (lines := len(path.read_text().splitlines())) > MAX_MODULE_LINES
    ]
    assert not wrong, "\n".join(wrong)


def test_functions_stay_short() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {lines} lines, at most {MAX_FUNCTION_LINES}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rules_have_something_to_look_at() -> None:
    assert len(sources()) > 20
    assert {found.importer for found in imports()} >= {"core", "stores", "conf", "models"}
