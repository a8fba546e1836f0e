"""Figures per class, and edge against body: the data of tables and bars (the supplement's Fig. 1 and Table 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from bpkd.analysis.report import Record, display_name, summarise
from bpkd.analysis.task import figures_of

Spread = tuple[float, float]
"""Mean and standard deviation over a method's runs; nan where there are too few."""
ClassScores = Mapping[str, Mapping[str, Spread]]
"""method -> class -> score."""


def class_scores(records: Sequence[Record], figure: str) -> dict[str, dict[str, Spread]]:
    """Collects a figure per class.

    Args:
        records: complete runs; those without the figure are left out.
        figure: its name: "IoU", "AP" or "boundary_AP", or a key of ``record["per_class"]`` such as "trimap_w3".

    Returns:
        {method: {class: (mean, deviation)}}, methods in the order of the comparison table, classes in that of the
        data set.
    """
    order = [s.method for s in summarise(records, [figures_of(records).score])]
    found = {m: [c for r in records if r["method"] == m and (c := _of_classes(r, figure))] for m in order}
    return {m: {name: _spread([r.get(name) for r in runs]) for name in runs[0]} for m, runs in found.items() if runs}


def _of_classes(record: Record, figure: str) -> Mapping[str, float | None]:
    apart: Mapping[str, Mapping[str, float | None]] = record.get("per_class", {})
    if figure in apart:
        return apart[figure]
    prefix = f"{figure}-"
    return {k.removeprefix(prefix): v for k, v in record["metrics"].items() if k.startswith(prefix)}


def _spread(values: Sequence[float | None]) -> Spread:
    there = [v for v in values if v is not None and v == v]
    return mean(there) if there else float("nan"), stdev(there) if len(there) > 1 else float("nan")


def class_rows(scores: ClassScores) -> tuple[list[str], list[list[str]]]:
    """Makes the cells of a table with a class per row and a method per column, the mean over classes last.

    Args:
        scores: scores per method and class as ``class_scores`` returns them, not empty.

    Returns:
        (header, rows).
    """
    header = ["class", *(display_name(m) for m in scores)]
    names = list(dict.fromkeys(name for of in scores.values() for name in of))
    rows = [[name, *(_cell(of[name]) or "-" if name in of else "" for of in scores.values())] for name in names]
    rows.append(["mean", *(_cell(_spread([value for value, _ in of.values()])[:1]) for of in scores.values())])
    return header, rows


def _cell(spread: Sequence[float]) -> str:
    return " ± ".join(f"{v:.2f}" for v in spread if v == v)


def class_figures(records: Sequence[Record], width: int) -> dict[str, tuple[str, ClassScores]]:
    """Returns {file name: (title, scores per class)} of what the records measured per class.

    Args:
        records: complete runs.
        width: half-width of the trimap band.
    """
    wanted = figures_of(records, width).per_class.items()
    found = {name: (title, class_scores(records, figure)) for name, (title, figure) in wanted}
    return {name: (title, scores) for name, (title, scores) in found.items() if scores}


def edge_and_body(records: Sequence[Record], width: int) -> dict[str, dict[str, Spread]]:
    """Collects mIoU inside and outside the trimap band.

    Args:
        records: complete runs.
        width: half-width of the band.

    Returns:
        {method: {"edge": (mean, deviation), "body": (mean, deviation)}} of the methods that measured both.
    """
    keys = {"edge": f"trimap_w{width}", "body": f"body_w{width}"}
    found = summarise(records, ["mIoU", *keys.values()])
    rows = {s.method: {part: s.values[k] for part, k in keys.items()} for s in found}
    return {m: parts for m, parts in rows.items() if all(value == value for value, _ in parts.values())}


def trimap_curves(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    """Returns {method: {half-width: mIoU in the band}}, means over a method's runs."""
    prefix = "trimap_w"
    keys = list(dict.fromkeys(k for r in records for k in r["metrics"] if k.startswith(prefix)))
    return {
        s.method: {int(k.removeprefix(prefix)): s.values[k][0] for k in keys if s.values[k][0] == s.values[k][0]}
        for s in summarise(records, ["mIoU", *keys])
    }
