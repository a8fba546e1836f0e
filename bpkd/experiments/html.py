"""The comparison's HTML page: what the report folder holds, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpkd.analysis.classes import class_figures, class_rows
from bpkd.analysis.instances import instance_layers
from bpkd.analysis.page import Figure, Picture, Table, write_page
from bpkd.analysis.plots import colored, errors, fitted
from bpkd.analysis.report import display_name, provenance, run_rows, table_rows, verdicts
from bpkd.analysis.significance import HEADER, explanation, paired_tests
from bpkd.analysis.task import task_of

FIGURES = {
    "trimap": "mIoU inside the trimap band",
    "edge_body": "Edge and body",
    "classes_trimap": "Classes, near edges",
    "classes_iou": "Classes",
    "classes_boundary": "Classes, Boundary AP",
    "classes_ap": "Classes, mask AP",
    "curves": "Training",
    "panels": "Predictions, edge bands and errors",
    "instances": "Instances",
}


def comparison_page(
    records: Sequence[Mapping[str, Any]],
    pictures: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    classes: Sequence[tuple[str, Sequence[int]]],
    trimap_width: int,
    margin: float,
) -> int:
    """Writes ``report.html`` from a comparison's records, pictures and the figures that its folder holds.

    Args:
        records: complete runs.
        pictures: per picture ``name``, ``image`` [3, h, w], ``label`` [H, W] and ``predictions`` {method: [H, W]}, or
            of instances what ``instance_layers`` takes.
        folder: of the report.
        classes: names and RGB, in the order of the ids; none where colours are instances.
        trimap_width: half-width of the trimap figures and of the red error band.
        margin: the smallest gain that would matter, in percentage points.

    Returns:
        The file's size in bytes.
    """
    figures = task_of(records, trimap_width).tested
    tests = paired_tests(records, figures, margin=margin)
    notes = {"In short": [line for figure in figures for line in verdicts(records, figure)]}
    if any(t.seeds > 1 for t in tests):
        notes["How sure"] = [explanation(margin)]
    colors = [color for _, color in classes]
    return write_page(
        folder / "report.html",
        title=f"Comparison on {records[0]['dataset']}",
        notes=notes,
        tables=_tables(records, [t.row() for t in tests], trimap_width),
        pictures=[_picture(p, colors, trimap_width) for p in pictures],
        legend=list(classes),
        figures=[Figure(title, path) for n, title in FIGURES.items() if (path := folder / f"{n}.png").is_file()],
        sources=[provenance(records)],
    )


def _tables(records: Sequence[Mapping[str, Any]], tests: Sequence[Sequence[str]], width: int) -> list[Table]:
    found = [Table("Mean ± standard deviation over seeds", *table_rows(records, trimap_width=width))]
    if tests:
        found.append(Table("Paired tests", HEADER, tests))
    found += [Table(title, *class_rows(scores)) for title, scores in class_figures(records, width).values()]
    return [*found, Table("Runs", *run_rows(records))]


def _picture(row: Mapping[str, Any], colors: Sequence[Sequence[int]], width: int) -> Picture:
    if "truth" in row:
        layers = instance_layers(row)
        return Picture(row["name"], layers.pop("image"), layers)
    label = row["label"]
    image = fitted(row["image"], label.shape)
    layers = {"ground truth": colored(label, colors)}
    for method, prediction in row["predictions"].items():
        layers[display_name(method)] = colored(prediction, colors)
    for method, prediction in row["predictions"].items():
        layers[f"errors of {display_name(method)}"] = errors(prediction, label, image, width=width)
    return Picture(row["name"], np.asarray(image), layers)
