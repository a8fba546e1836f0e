"""Bar charts of a comparison: per class, and edge against body."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpkd.analysis.classes import Spread
from bpkd.analysis.plots import COLORS, finish, pyplot
from bpkd.analysis.report import display_name
from bpkd.text import label as drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASSES_PER_ROW = 12


def bars(scores: Mapping[str, Mapping[str, Spread]], path: Path, *, title: str, unit: str = "IoU in %") -> None:
    """Draws a bar per method in each group, with the standard deviation over seeds as a line on it.

    Args:
        scores: {method: {group (a class): (mean, deviation)}}; a nan mean leaves a gap, a nan deviation no line.
        path: PNG to write.
        title: text above the figure.
        unit: label of the vertical axis.
    """
    groups = list(dict.fromkeys(name for of in scores.values() for name in of))
    rows = [groups[i : i + CLASSES_PER_ROW] for i in range(0, len(groups), CLASSES_PER_ROW)]
    wide = max(5.5, 0.17 * len(scores) * len(rows[0]) + 2.0)
    figure, grid = pyplot().subplots(len(rows), 1, figsize=(wide, 3.4 * len(rows)), squeeze=False, layout="constrained")
    for axes, names in zip(grid[:, 0], rows, strict=True):
        _draw(axes, scores, names)
        axes.set_ylabel(unit)
    grid[0, 0].set_title(title)
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=max(2, int(wide / 1.6)), frameon=False, fontsize=8)
    finish(figure, path)


def _draw(axes: Axes, scores: Mapping[str, Mapping[str, Spread]], names: Sequence[str]) -> None:
    width = 0.84 / len(scores)
    for i, (method, of) in enumerate(scores.items()):
        spreads = [of.get(name, (math.nan, math.nan)) for name in names]
        x = [g - 0.42 + (i + 0.5) * width for g in range(len(names))]
        values, deviations = [v for v, _ in spreads], [0.0 if d != d else d for _, d in spreads]
        label, color = drawn(display_name(method)), COLORS.get(method)
        axes.bar(x, values, width, label=label, color=color)
        where = [k for k, d in enumerate(deviations) if d]
        lines: dict[str, Any] = {"fmt": "none", "ecolor": "#222222", "elinewidth": 0.9, "capsize": 1.2}
        axes.errorbar([x[k] for k in where], [values[k] for k in where], [deviations[k] for k in where], **lines)
    slanted: dict[str, Any] = {"rotation": 30, "ha": "right"} if len(names) > 4 else {}
    axes.set_xticks(range(len(names)), [drawn(name) for name in names], **slanted)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_ylim(bottom=0)
