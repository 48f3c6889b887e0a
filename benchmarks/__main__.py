"""``python -m benchmarks [NAME…]``: measure, print a table, and write it to benchmarks/results. Without names: all."""

from __future__ import annotations

import sys
from importlib import import_module

from benchmarks import places, report

NAMES = ("live", "own_sends", "enqueueing", "replaying", "crowd", "growth")


def main(names: list[str]) -> None:
    if unknown := set(names) - set(NAMES):
        sys.exit(f"expected some of {', '.join(NAMES)}; got {', '.join(sorted(unknown))}")
    places.prepare()
    try:
        environment = places.describe()
        say(*environment, "", report.HEAD)
        figures = []
        for name in names or NAMES:
            for figure in import_module(f"benchmarks.{name}").figures():
                say(str(figure))
                figures.append(figure)
        path = report.write(figures, environment, " ".join(["python -m benchmarks", *names]))
        say("", f"written: {path.relative_to(places.ROOT)}")
    finally:
        places.close()


def say(*lines: str) -> None:
    print("\n".join(lines), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
