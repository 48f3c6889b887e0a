"""``python -m benchmarks [NAME…]``: measure, print a table, and write it to benchmarks/results. Without names: all."""

from __future__ import annotations

import sys
from importlib import import_module

from benchmarks import places, report

NAMES = ("live", "own_sends", "enqueueing", "replaying", "crowd", "jitter", "growth")


def main(names: list[str]) -> None:
    if unknown := set(names) - set(NAMES):
        sys.exit(f"expected some of {', '.join(NAMES)}; got {', '.join(sorted(unknown))}")
    places.prepare()
    try:
        environment = places.describe()
        say(*environment, "", report.HEAD)
        for name in names or NAMES:
            figures = []
            for figure in import_module(f"benchmarks.{name}").figures():
                say(str(figure))
                figures.append(figure)
            path = report.write(figures, environment)
            say("", f"written: {path.relative_to(places.ROOT)}")
            draw(figures)
    finally:
        places.close()


def draw(figures: list[report.Figure]) -> None:
    """A plot for each letter. Without matplotlib, none."""
    from benchmarks import plots

    for letter in sorted({figure.letter for figure in figures}):
        path = report.RESULTS / f"{letter}.svg"
        try:
            plots.draw(figures, letter, path)
        except ImportError:
            say("no plots: there is no matplotlib (benchmarks/requirements.txt)")
            return
        say(f"written: {path.relative_to(places.ROOT)}")


def say(*lines: str) -> None:
    print("\n".join(lines), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
