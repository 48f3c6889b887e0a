"""What operators load into Prometheus and Grafana, and the runbooks: compared with the code and with each other."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.management import load_command_class
from django.test import RequestFactory
from prometheus_client import CollectorRegistry

from netra_queue import metrics
from netra_queue.core.alert_rules import FAST, FEWEST_LOSSES, FEWEST_TIMES, KEYS, SLOW, SPIKE, Rule
from netra_queue.core.alert_rules import RULES as IN_APP
from netra_queue.core.alerting import SAMPLES_KEPT
from netra_queue.core.statistics import Event, Gauge
from tests.missing import assert_said_and_noticed
from tests.test_docs import LINK, ROOT

PROMETHEUS = ROOT / "deploy/prometheus"
RULES = (PROMETHEUS / "netra_queue.rules.yml").read_text()
TESTS = (PROMETHEUS / "netra_queue.tests.yml").read_text()
DASHBOARD = json.loads((ROOT / "deploy/grafana/netra_queue.json").read_text())
RUNBOOKS = ROOT / "docs/runbooks"
LOSSES = ["loss_of_a_server", "loss_of_redis", "loss_of_the_database"]  # pages that no alert has for itself
PLANS = ["capacity", "deployment_and_rollback"]  # nor has one for these
NAME = re.compile(r"\bnetra_queue_[a-z_]+")
GROUP = re.compile(r"^  - name: netra_queue_\w+$", re.MULTILINE)
EVENTS = re.compile(r'\bevent=~?"([^"]*)"')
COMMAND = re.compile(r"manage\.py netra_queue ([^`\n]*)")
ADMIN_LIST = re.compile(r"admin page \*\*([^*]+)\*\*")
ADMIN_ACTION = re.compile(r'\baction "([^"]+)"')


def as_blocks(rules: str) -> dict[str, str]:
    """Each alert's part of the file, by its name."""
    parts = re.split(r"^      - alert: ", rules, flags=re.MULTILINE)[1:]
    return {part.split("\n", 1)[0]: part for part in parts}


ALERTS = as_blocks(RULES)


def page_of(alert: str) -> str:
    """NetraQueueOldestWaiting: oldest_waiting."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", alert.removeprefix("NetraQueue")).lower()


def known_metrics() -> set[str]:
    """As Prometheus sees them: a histogram is three."""
    names = {f"netra_queue_store_{name}" for name in (*metrics.STORE_GAUGES, "near_limit", "oldest_seconds", "up")}
    names |= {f"netra_queue_{name}" for name in ("breaker_state", *(name for name, _ in metrics.GAUGES.values()))}
    names.add("netra_queue_cluster_last_sweep_timestamp_seconds")
    for prefix in ("netra_queue_", "netra_queue_cluster_"):
        names |= {f"{prefix}{name}_total" for name in ("messages", *(name for name, _ in metrics.OTHERS.values()))}
        names |= {f"{prefix}{time}_seconds_{part}" for time in ("ack", "live") for part in ("bucket", "count", "sum")}
    return names


def base(metric: str) -> str:
    return re.sub(r"_seconds_(bucket|count|sum)$", "_seconds", metric)


def test_known_metrics_are_those_of_the_code_and_of_the_document() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    assert [name for name in known_metrics() if f"| `{base(name)}` |" not in text] == []
    registry = CollectorRegistry()
    metrics.ProcessMetrics(registry)
    native = {f"{family.name}{'_total' if family.type == 'counter' else ''}" for family in registry.collect()}
    mine = {base(n) for n in known_metrics() if not n.startswith(("netra_queue_store_", "netra_queue_cluster_"))}
    assert native == mine
    assert len(metrics.GAUGES) == len(Gauge)


# --- Prometheus ----------------------------------------------------------------------------------------------------


def find_promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("NETRA_REQUIRE_SERVERS") == "1":
            pytest.fail("NETRA_REQUIRE_SERVERS=1, but there is no promtool")
        pytest.skip("there is no promtool")
    return found


@pytest.fixture
def promtool() -> str:
    return find_promtool()


def run(*command: str, cwd: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_rules_are_rules(promtool: str) -> None:
    done = run(promtool, "check", "rules", "netra_queue.rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_in_their_cases_alone(promtool: str) -> None:
    done = run(promtool, "test", "rules", "netra_queue.tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_notices_an_alert_that_does_not_fire(promtool: str, tmp_path: Path) -> None:
    (tmp_path / "netra_queue.rules.yml").write_text(RULES.replace("absent(netra_queue_store_up)", "absent(up) > 1"))
    head, cases = TESTS.split("tests:\n")
    case = next(case for case in cases.split("\n\n") if "NetraQueueMetricsMissing" in case)
    (tmp_path / "one.yml").write_text(f"{head}tests:\n{case}\n")
    done = run(promtool, "test", "rules", "one.yml", cwd=tmp_path)
    assert done.returncode != 0
    assert "NetraQueueMetricsMissing" in done.stdout + done.stderr


def test_without_promtool_it_says_so_and_ci_notices(tmp_path: Path) -> None:
    assert_said_and_noticed(f"{__file__}::test_rules_are_rules", tmp_path)


def test_where_nothing_may_be_missing_it_fails_without_promtool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("NETRA_REQUIRE_SERVERS", "1")
    with pytest.raises(pytest.fail.Exception, match="there is no promtool"):
        find_promtool()


def test_rules_use_metrics_and_events_that_exist() -> None:
    used = set(NAME.findall(GROUP.sub("", RULES)))
    # A comment names a whole kind: netra_queue_store_….
    assert used - known_metrics() - {"netra_queue_store_", "netra_queue_cluster_"} == set()
    assert len(used) > 10
    assert unknown_events(RULES) == set()


def unknown_events(promql: str) -> set[str]:
    known = {event.name.lower() for event in Event if event.has_priority}
    return {event for found in EVENTS.findall(promql) for event in found.split("|")} - known - {""}


def test_cases_use_metrics_that_exist() -> None:
    series = re.findall(r"series: '(\w+)\{", TESTS)
    assert series
    assert set(series) - known_metrics() == set()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_people_need(alert: str) -> None:
    block = ALERTS[alert]
    assert re.search(r"^        for: \d+m$", block, re.MULTILINE)
    assert re.search(r"^          severity: (warning|critical)$", block, re.MULTILINE)
    assert re.search(r"^          summary: \S", block, re.MULTILINE)
    assert re.search(r"^          description: >-\n            \S", block, re.MULTILINE)
    assert f"          runbook_url: docs/runbooks/{page_of(alert)}.md\n" in block
    assert f"      - alertname: {alert}\n" in TESTS, "no case in which it fires"


def test_the_dashboard_and_the_rules_have_one_objective() -> None:
    objective = next(v for v in DASHBOARD["templating"]["list"] if v["name"] == "objective")
    lost = re.search(r"objective:lost_ratio.*\n\s+expr: vector\(([\d.]+)\)", RULES)
    assert lost is not None
    assert 1 - float(objective["query"]) == pytest.approx(float(lost[1]))


# --- Grafana -------------------------------------------------------------------------------------------------------


def panels(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in found:
        yield panel
        yield from panels(panel.get("panels", []))


PANELS = list(panels(DASHBOARD["panels"]))
QUERIES = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]


def test_panels_have_ids_titles_and_places_of_their_own() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in PANELS)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_each_query_asks_the_datasource_that_is_chosen() -> None:
    variable = next(v for v in DASHBOARD["templating"]["list"] if v["name"] == "datasource")
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    shown = [panel for panel in PANELS if panel["type"] != "row"]
    assert [panel["title"] for panel in shown if panel["datasource"] != chosen or not panel["targets"]] == []
    assert [t for panel in shown for t in panel["targets"] if t["datasource"] != chosen] == []


def test_queries_use_metrics_and_events_that_exist() -> None:
    variables = [v["query"] for v in DASHBOARD["templating"]["list"]]
    used = {name for text in (*QUERIES, *map(str, variables)) for name in NAME.findall(text)}
    assert used - known_metrics() == set()
    assert unknown_events("\n".join(QUERIES)) == set()


def test_queries_are_promql(promtool: str, tmp_path: Path) -> None:
    """As rules, with the dashboard's variables filled in."""
    assert len(QUERIES) > 20
    filled = [
        q.replace("$__rate_interval", "5m").replace("$__range", "1d").replace("$objective", "0.9995") for q in QUERIES
    ]
    lines = [f"      - {{record: 'query:number{n}', expr: {json.dumps(q)}}}" for n, q in enumerate(filled)]
    (tmp_path / "queries.yml").write_text("groups:\n  - name: queries\n    rules:\n" + "\n".join(lines) + "\n")
    done = run(promtool, "check", "rules", "queries.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


# --- runbooks ------------------------------------------------------------------------------------------------------

PAGES = {path.stem: path.read_text() for path in sorted(RUNBOOKS.glob("*.md"))}


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    assert sorted(PAGES) == sorted([*map(page_of, ALERTS), *LOSSES, *PLANS, "index"])


def test_the_index_leads_to_every_page() -> None:
    assert {link[1] for link in LINK.finditer(PAGES["index"])} >= {f"{name}.md" for name in PAGES if name != "index"}
    assert [alert for alert in ALERTS if f"| `{alert}` |" not in PAGES["index"]] == []


@pytest.mark.parametrize("alert", ALERTS)
def test_a_page_says_what_it_has_to(alert: str) -> None:
    page = PAGES[page_of(alert)]
    assert page.startswith(f"# {alert}\n")
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings == ["What it means", "What to look at", "What to do", "How to know that it is over"]


class Refused(Exception):
    pass


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise Refused(message)


def commands(page: str) -> list[str]:
    return [found.strip() for found in COMMAND.findall(page)]


def refusal(command: str) -> str | None:
    """Why the command's own parser does not take it, if so. Places for a value (<queue>) are filled in."""
    parser = Parser()
    load_command_class("netra_queue", "netra_queue").add_arguments(parser)
    filled = re.sub(r"<number>", "7", command)
    filled = re.sub(r"<[a-z ]+>", "user.42", filled)
    try:
        parser.parse_args(shlex.split(filled, comments=True))
    except Refused as refused:
        return f"{command}: {refused}"
    return None


@pytest.mark.parametrize("name", PAGES)
def test_commands_of_a_page_exist(name: str) -> None:
    assert [why for command in commands(PAGES[name]) if (why := refusal(command))] == []


def test_commands_that_do_not_exist_are_noticed() -> None:
    assert refusal("repair --all") is not None
    assert refusal("stats --limits 5") is not None
    assert sum(len(commands(page)) for page in PAGES.values()) > 20


@pytest.mark.parametrize("name", PAGES)
def test_admin_pages_and_metrics_of_a_page_exist(name: str) -> None:
    titles = {
        str(model._meta.verbose_name_plural).capitalize()
        for model in admin.site._registry
        if model._meta.app_label == "netra_queue"
    }
    assert set(ADMIN_LIST.findall(PAGES[name])) - titles == set()
    used = {found for found in NAME.findall(PAGES[name]) if not found.endswith("_") and f"{found}_" not in PAGES[name]}
    assert {n for n in used if n.startswith(("netra_queue_store_", "netra_queue_cluster_"))} - known_metrics() == set()


@pytest.mark.parametrize("name", PAGES)
def test_admin_actions_of_a_page_exist(name: str) -> None:
    request = RequestFactory().get("/")
    request.user = User(is_active=True, is_staff=True, is_superuser=True)
    ours = [made for model, made in admin.site._registry.items() if model._meta.app_label == "netra_queue"]
    titles = {str(title) for made in ours for _, _, title in made.get_actions(request).values()}
    assert set(ADMIN_ACTION.findall(PAGES[name])) - titles == set()


@pytest.mark.parametrize("name", PAGES)
def test_log_lines_of_a_page_exist(name: str) -> None:
    known = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/logging.md").read_text(), re.MULTILINE))
    assert set(re.findall(r"`action` `(\w+)`", PAGES[name])) - known == set()


# --- the same rules in the app -------------------------------------------------------------------------------------

PROMETHEUS_ALONE = {"NetraQueueMetricsMissing", "NetraQueueStoreDown"}  # about itself, and about where alerts are kept
OBJECTIVES = {
    name: float(value) for name, value in re.findall(r"objective:(\w+) #.*\n\s+expr: vector\(([\d.]+)\)", RULES)
}
OBJECTIVE_OF = {
    "NetraQueueOldestWaiting": "oldest_seconds",
    "NetraQueueErrorBudgetFast": "lost_ratio",
    "NetraQueueErrorBudgetSlow": "lost_ratio",
    "NetraQueueDeliverySlow": "ack_seconds",
    "NetraQueueReconnectSlow": "live_seconds",
}
COMPARED_OTHERWISE = {  # what measures them in the app, and here
    "NetraQueueNoServers": "max by (job) (netra_queue_store_servers) == 0",
    "NetraQueueServersStale": "(quantile_over_time(0.5, netra_queue_store_servers[6h]))",
    "NetraQueueSweepNotRun": f"min_over_time(netra_queue_store_expired[{KEYS['sweep_not_run'].above / 60:g}m])",
}


def field(alert: str, name: str) -> str:
    found = re.search(rf"^ +{name}: (.+)$", ALERTS[alert], re.MULTILINE)
    return found[1] if found else ""


def in_seconds(time: str) -> float:
    return 60 * float(time.removesuffix("m") or 0)


def test_the_app_has_the_same_alerts() -> None:
    assert [rule.name for rule in IN_APP] == [alert for alert in ALERTS if alert not in PROMETHEUS_ALONE]


@pytest.mark.parametrize("rule", IN_APP, ids=lambda rule: rule.key)
def test_an_alert_of_the_app_is_as_prometheus_has_it(rule: Rule) -> None:
    assert rule.key == page_of(rule.name)
    assert rule.runbook == field(rule.name, "runbook_url")
    assert rule.summary == field(rule.name, "summary")
    assert rule.severity.value == field(rule.name, "severity")
    assert rule.for_seconds == in_seconds(field(rule.name, "for"))
    assert rule.keep_seconds == in_seconds(field(rule.name, "keep_firing_for"))


@pytest.mark.parametrize("rule", IN_APP, ids=lambda rule: rule.key)
def test_thresholds_of_the_app_are_those_of_prometheus(rule: Rule) -> None:
    expression = ALERTS[rule.name].split("        for: ")[0]
    if rule.name in OBJECTIVE_OF:
        objective = OBJECTIVE_OF[rule.name]
        assert f"scalar(netra_queue:objective:{objective})" in expression
        assert rule.above == OBJECTIVES[objective]
    elif rule.name in COMPARED_OTHERWISE:
        assert COMPARED_OTHERWISE[rule.name] in expression
    else:
        assert re.search(rf"> {rule.above:g}\s", expression)


def test_numbers_within_the_measures_are_those_of_prometheus() -> None:
    for windows, alert in ((FAST, "NetraQueueErrorBudgetFast"), (SLOW, "NetraQueueErrorBudgetSlow")):
        pairs = re.findall(r"ratio_rate(\w+) > (?:([\d.]+) \* )?scalar", ALERTS[alert])
        expected = [(window, factor) for factor, *both in windows for window in both]
        assert [(as_seconds(window), float(factor or 1)) for window, factor in pairs] == expected
        assert f">= {FEWEST_LOSSES}\n" in ALERTS[alert]
    for alert in ("NetraQueueOverflow", "NetraQueueExpiry"):
        assert f"<= {SPIKE} * 15 * 60 * sum" in ALERTS[alert]
    for alert in ("NetraQueueDeliverySlow", "NetraQueueReconnectSlow"):
        assert f">= {FEWEST_TIMES}\n" in ALERTS[alert]
    assert f"{SAMPLES_KEPT.total_seconds() / 3600:g}h" in ALERTS["NetraQueueServersStale"]


def as_seconds(window: str) -> float:
    return float(window[:-1]) * {"m": 60, "h": 3600, "d": 86_400}[window[-1]]


@pytest.mark.parametrize("rule", IN_APP, ids=lambda rule: rule.key)
def test_the_documents_table_has_the_rule(rule: Rule) -> None:
    text = (ROOT / "docs/alerts.md").read_text()
    numbers = f"| {rule.above:g} | {rule.for_seconds / 60:g} min | {rule.keep_seconds / 60:g} min |"
    assert re.search(rf"^\| `{rule.key}` \| .* {re.escape(numbers)}$", text, re.MULTILINE)
