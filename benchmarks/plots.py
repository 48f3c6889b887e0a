"""A plot for each table: ours and theirs as bars, each pair in its own unit."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import Figure

OURS, THEIRS = "#1f6f8b", "#b8b8b8"


def draw(figures: list[Figure], letter: str, path: Path) -> None:
    """Write an SVG. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = letter  # the same figures give the same file
    from matplotlib import pyplot

    mine = [figure for figure in figures if figure.letter == letter]
    canvas, axes = pyplot.subplots(len(mine), 1, figsize=(8, 1.3 * len(mine) + 0.4), squeeze=False)
    for axis, figure in zip(axes[:, 0], mine, strict=True):
        bars = axis.barh(["ours", figure.than], [figure.ours, figure.theirs], color=[OURS, THEIRS], height=0.6)
        axis.bar_label(
            bars, labels=[f"{value:,.4g} {figure.unit}" for value in (figure.ours, figure.theirs)], padding=4
        )
        direction = "less is better" if figure.is_cost else "more is better"
        axis.set_title(f"{figure.what} ({direction})", fontsize=9, loc="left")
        axis.set_xlim(0, 1.35 * max(figure.ours, figure.theirs, 1e-9))
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.invert_yaxis()
    canvas.tight_layout()
    canvas.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(canvas)
