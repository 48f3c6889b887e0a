"""What the dashboard shows: of figures made by hand, and of real stores."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from netra_queue import maintenance, statistics
from netra_queue.core.breaker import BreakerState
from netra_queue.core.controls import Controls, ForcedBreaker
from netra_queue.core.message import Priority
from netra_queue.core.rollout import Rollout
from netra_queue.core.statistics import Bucket, Event, Figures, Gauge, Timing
from netra_queue.dashboard import asking, charts, figures
from netra_queue.dashboard.figures import ENDS, RANGES, History, Range, State
from netra_queue.exceptions import StoreUnavailable
from netra_queue.statistics import Ledger
from netra_queue.stores import current_store
from netra_queue.stores.base import Overview
from netra_queue.stores.values import Ages
from tests import counts
from tests.making import HERE, NOON, force_breaker, get, make_draft, make_policy, make_presence, put
from tests.test_docs import ROOT

DOCUMENT = (ROOT / "docs/dashboard.md").read_text()
HOUR = RANGES["1h"]
JUST_AFTER = NOON + timedelta(seconds=figures.WRITTEN_SECONDS)  # what ended at noon has been written


def make_state(**changes: Any) -> State:
    empty = Overview(messages=0, size=0, expired=0, queues=0, connections=0, servers=0, complete=True, largest=())
    values = {
        "at": NOON,
        "overview": empty,
        "ages": Ages({priority: [0] * 6 for priority in Priority}, complete=True),
        "loads": [],
        "swept_at": None,
        "controls": Controls(),
        "breaker": BreakerState.CLOSED,
        "policies": [],
    }
    return State(**{**values, **changes})


def make_history(*buckets: Bucket, range: Range = HOUR, now: datetime = JUST_AFTER) -> History:
    return History(range, *History.span(range, now), buckets)


def made(**events: int) -> Figures:
    found = Figures()
    for name, count in events.items():
        found.counts[Event[name.upper()]][Priority.NORMAL] = count
    return found


def ago(seconds: float, found: Figures) -> Bucket:
    return Bucket(NOON - timedelta(seconds=seconds), found)


# --- ranges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("range", RANGES.values(), ids=lambda range: range.name)
def test_a_range_has_enough_points_and_not_too_many(range: Range) -> None:
    for shift in (0, 1, 9.9, 59, 3599, 5000):
        history = make_history(range=range, now=NOON + timedelta(seconds=shift))
        found = figures.assembled(history, Figures(), make_state())
        assert 89 <= len(found["times"]) <= 361
        assert {len(values) for values in found["series"].values()} == {len(found["times"])}
        assert found["times"] == sorted(set(found["times"]))
        end = found["times"][-1] + range.step
        assert end >= (NOON + timedelta(seconds=shift)).timestamp() - 12
        assert end - found["times"][0] >= range.seconds


@pytest.mark.parametrize("name", ["2h", "", "1H", None, 1, "x" * 1000])
def test_another_range_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="range: expected one of 15m, 1h, 6h, 24h, 7d, 30d, got") as refused:
        figures.range_named(name)
    assert len(str(refused.value)) < 120


# --- over time -----------------------------------------------------------------------------------------------------


def test_rates_are_by_the_second_and_others_by_the_step() -> None:
    history = make_history(ago(20, made(accepted=50, acked=25, expired=3)))
    series = figures.assembled(history, Figures(), make_state())["series"]
    assert series["accepted"][-3:] == [0, 5, 0]
    at = -2
    assert (series["acked"][at], series["expired"][at], series["ratio"][at]) == (2.5, 3, round(25 / 28, 6))
    assert series["ratio"][at - 1] is None, "nothing ended: neither all nor nothing was delivered"


def test_a_step_that_has_only_begun_is_divided_by_what_is_over() -> None:
    now = NOON + timedelta(seconds=60 + 2)  # a minute of two hours
    found = Figures(gauges=[60.0 * 8, 0, 0])
    found.add(made(accepted=120))
    history = make_history(Bucket(NOON, found), range=RANGES["30d"], now=now)
    series = figures.assembled(history, Figures(), make_state(at=now))["series"]
    assert (series["accepted"][-1], series["connections"][-1]) == (2, 8)


def test_depths_lead_to_what_waits_now() -> None:
    waiting = Overview(messages=7, size=0, expired=0, queues=0, connections=0, servers=0, complete=True, largest=())
    history = make_history(
        ago(30, made(accepted=10)), ago(20, made(acked=4, expired=1)), ago(10, made(accepted=5, dropped=2, merged=1))
    )
    found = figures.assembled(history, Figures(), make_state(overview=waiting))
    assert found["series"]["depth"][-4:] == [0, 10, 5, 7]
    assert min(found["series"]["depth"]) == 0, "what was not counted does not make it less than nothing"


def test_every_end_counts_for_the_depth() -> None:
    """As docs/statistics.md has it: accepted is all of these and what waits."""
    text = (ROOT / "docs/statistics.md").read_text()
    ((ends,),) = [re.findall(r"`accepted` is (.+?) \+ the messages in the table", text.replace("\n", " "))]
    assert re.findall(r"`(\w+)`", ends) == [event.name.lower() for event in ENDS]


def test_quantiles() -> None:
    found = Figures()
    found.timings[Timing.ACK].observe_all([0.003] * 98 + [1.5] * 2)
    assembled = figures.assembled(make_history(ago(20, found)), Figures(), make_state())
    at = assembled["times"].index(int(NOON.timestamp()) - 20)
    assert 0.002 < assembled["series"]["ack_p50"][at] < 0.004
    assert 1.0 < assembled["series"]["ack_p99"][at] < 2.1
    assert assembled["series"]["live_p99"][at] is None
    assert assembled["latency"]["ack"]["p99"] == assembled["series"]["ack_p99"][at]
    assert assembled["latency"]["live"] == {"p50": None, "p95": None, "p99": None}


@pytest.mark.parametrize(
    ("events", "ratio", "left"),
    [
        ({}, None, None),
        ({"superseded": 5, "withheld": 2, "left_out": 3}, None, None),
        ({"acked": 10_000}, 1, 1),
        ({"acked": 9_999, "dead": 1}, 0.9999, 0.8),
        ({"acked": 9_990, "expired": 5, "dropped": 5}, 0.999, -1),
    ],
)
def test_the_error_budget(events: dict[str, int], ratio: float | None, left: float | None) -> None:
    found = figures.assembled(make_history(), made(**events), make_state())["delivery"]
    assert (found["month"]["ratio"], found["month"]["budget_left"]) == (ratio, left)


def test_the_objective_is_that_of_the_alerts() -> None:
    rules = (ROOT / "deploy/prometheus/netra_queue.rules.yml").read_text()
    lost = re.search(r"objective:lost_ratio.*\n\s+expr: vector\(([\d.]+)\)", rules)
    assert lost is not None
    assert pytest.approx(float(lost[1])) == 1 - figures.OBJECTIVE


# --- as it stands --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "until"), [(60, NOON.timestamp() + 60), (-1, None)])
def test_a_breaker_that_is_forced(seconds: float, until: float | None) -> None:
    forced = Controls(breaker=ForcedBreaker(True, NOON + timedelta(seconds=seconds)), is_off=True)
    found = figures.assembled(make_history(), Figures(), make_state(controls=forced, breaker=BreakerState.OPEN))
    assert found["breaker"] == {"state": "open", "forced_until": until}
    assert found["is_off"] is True


def test_policies_that_do_not_have_all_of_their_queues_durable() -> None:
    policies = [
        make_policy(name="all"),
        make_policy(name="shadow", rollout=Rollout(is_shadow=True)),
        make_policy(name="some", rollout=Rollout(percent=12.5, allow=("user.1", "user.2"), deny=("room.*",))),
        make_policy(name="but", rollout=Rollout(deny=("room.*",))),
    ]
    found = figures.assembled(make_history(), Figures(), make_state(policies=policies))["rollout"]
    assert [{**each} for each in found] == [
        {"policy": "shadow", "percent": 100.0, "allow": 0, "deny": 0, "is_shadow": True},
        {"policy": "some", "percent": 12.5, "allow": 2, "deny": 1, "is_shadow": False},
        {"policy": "but", "percent": 100.0, "allow": 0, "deny": 1, "is_shadow": False},
    ]


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of a store of before, and nothing is kept."""
    monkeypatch.setattr(asking, "SHORT", 0)
    monkeypatch.setattr(asking, "LONG", 0)
    monkeypatch.setattr(statistics, "ledger", Ledger())
    counts.take()


STORES = ["tests.making.AdvancingMemoryStore", "tests.making.AdvancingDatabaseStore"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("store_path", STORES)
def test_of_a_store(anew: None, settings: Any, store_path: str) -> None:
    settings.NETRA_QUEUE = {"STORE": store_path, "POLICIES": {"default": {"DEAD_LETTERS": ["expired"]}}}
    store: Any = current_store()
    store.heartbeat(HERE)
    store.attach(make_presence("user.1"), make_policy())
    put(store, make_draft(text='"123"'), make_draft(), make_draft("user.2", ttl=5), make_draft("user.2"))
    store.ack({"user.1": [get(store).messages[0].position]})
    store.advance(20)
    maintenance.sweep()
    statistics.ledger.note_gauges(1, dict.fromkeys(Gauge, 0))
    statistics.ledger.write()
    store.advance(15)
    store.heartbeat(HERE)
    for name in RANGES:
        found = asking.answer(RANGES[name])
        assert json.loads(json.dumps(found)) == found
        assert (found["range"], found["step"]) == (name, RANGES[name].step)
        assert found["totals"]["accepted"] == 4
        assert (found["totals"]["acked"], found["totals"]["expired"], found["totals"]["swept"]) == (1, 1, 1)
        assert found["delivery"]["month"] == found["delivery"]["range"]
        assert found["delivery"]["range"]["ratio"] == 0.5
        assert found["store"]["messages"] == found["series"]["depth"][-1] == 2
        assert found["store"]["dead_letters"] == 1
        assert found["ages"]["by_priority"]["normal"] == [2, 0, 0, 0, 0, 0]
        (server,) = found["servers"]
        assert (server["host"], server["pid"], server["connections"]) == ("here", 1, 1)
        assert {each["queue"].strip("#") for each in found["worst"]} >= {"user.1"}
        assert found["upkeep"]["swept_at"] == pytest.approx(found["at"] - 15, abs=12)
        assert found["breaker"] == {"state": "closed", "forced_until": None}


def test_a_store_that_is_away_is_an_error(anew: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.NETRA_QUEUE = {"STORE": STORES[0]}
    assert asking.answer(HOUR)["store"]["messages"] == 0
    force_breaker(current_store(), True)
    with pytest.raises(StoreUnavailable) as away:
        asking.answer(HOUR)
    excuse = asking.excuse(away.value)
    assert excuse["breaker"]["state"] == "open"
    assert excuse["breaker"]["forced_until"] > datetime.now(UTC).timestamp()
    assert "unavailable" in excuse["error"]
    force_breaker(current_store(), None)
    assert asking.answer(HOUR)["breaker"]["state"] == "closed"


def test_the_store_is_asked_now_and_then_whoever_looks(
    anew: None, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.NETRA_QUEUE = {"STORE": STORES[0]}
    monkeypatch.setattr(asking, "SHORT", 1000)
    monkeypatch.setattr(asking, "LONG", 1000)
    store: Any = current_store()
    asked = []
    real = store.statistics
    monkeypatch.setattr(store, "statistics", lambda *arguments: asked.append(arguments) or real(*arguments))
    for _ in range(5):
        asking.answer(HOUR)
    assert {(until - since).days for since, until, _ in asked} == {0, 30, 31}, "the range, the month, the last sweep"
    assert len(asked) == 3


# --- the document, and what is drawn -------------------------------------------------------------------------------


def test_every_series_that_is_drawn_is_there() -> None:
    series = figures.assembled(make_history(), Figures(), make_state())["series"]
    drawn = {name for chart in charts.CHARTS for name in chart.series}
    assert drawn - series.keys() == {"ages", "objective"}, "which the page takes from elsewhere"
    assert len({chart.id for chart in charts.CHARTS}) == len(charts.CHARTS)


def test_the_shape_is_in_the_document() -> None:
    found = figures.assembled(make_history(), Figures(), make_state())
    names = {*found, *found["store"], *found["delivery"], *found["delivery"]["range"], *found["breaker"]}
    names |= {*found["ages"], *found["upkeep"], *found["latency"]}
    names |= {"policy", "percent", "allow", "deny", "is_shadow"}
    names |= {name for name in found["series"] if not name.endswith(("_p50", "_p95", "_p99"))} - found["totals"].keys()
    assert [name for name in sorted(names) if f"`{name}`" not in DOCUMENT] == []
    for name in RANGES:
        assert f"`{name}`" in DOCUMENT
