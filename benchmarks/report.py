"""What was measured, side by side: a table, a dated file, and a plot for each table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
RUNS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One line of a table. ``bound``: what ``ours / theirs`` is to be at least or, if ``is_cost``, at most."""

    letter: str
    what: str
    ours: float
    theirs: float
    unit: str
    than: str  # what ``theirs`` is
    bound: float | None = None
    is_cost: bool = False
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs if self.theirs else float("inf")

    @property
    def holds(self) -> bool:
        if self.bound is None:
            return True
        return self.ratio <= self.bound if self.is_cost else self.ratio >= self.bound

    def __str__(self) -> str:
        target = "" if self.bound is None else f"{'at most' if self.is_cost else 'at least'} {self.bound:g}"
        verdict = "" if self.bound is None else ("yes" if self.holds else "**no**")
        cells = [self.letter, self.what, f"{self.ours:,.4g}", f"{self.theirs:,.4g}", self.unit, self.than]
        return "| " + " | ".join([*cells, f"{self.ratio:.2f}", target, verdict, self.note]) + " |"


HEAD = (
    "| | what | ours | theirs | unit | theirs is | ratio | target | holds | |\n"
    "|---|---|---:|---:|---|---|---:|---|---|---|"
)


def alternating(ours: Callable[[], float], theirs: Callable[[], float], runs: int = RUNS) -> tuple[float, float]:
    """The medians of so many runs of both, one after the other in turn: whatever slows the machine slows both."""
    mine: list[float] = []
    others: list[float] = []
    for _ in range(runs):
        others.append(theirs())
        mine.append(ours())
    return statistics.median(mine), statistics.median(others)


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def write(figures: Iterable[Figure], environment: Sequence[str]) -> Path:
    """Add these figures to today's file, in place of those of the same letters. Returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}.json"
    new = [asdict(figure) for figure in figures]
    known = json.loads(path.read_text())["figures"] if path.exists() else []
    letters = {figure["letter"] for figure in new}
    kept = [figure for figure in known if figure["letter"] not in letters]
    rows = sorted([*kept, *new], key=lambda figure: figure["letter"])
    path.write_text(json.dumps({"environment": list(environment), "figures": rows}, indent=1) + "\n")
    lines = [HEAD, *(str(Figure(**row)) for row in rows)]
    path.with_suffix(".md").write_text("\n".join([*(f"- {line}" for line in environment), "", *lines]) + "\n")
    return path
