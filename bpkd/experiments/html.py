"""The HTML page of a comparison: tables, figures and pictures of the report folder in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bpkd.analysis.classes import class_figures, class_rows
from bpkd.analysis.glossary import glossary
from bpkd.analysis.headline import compared, headline
from bpkd.analysis.instances import instance_layers
from bpkd.analysis.page import Figure, Link, Section, Table, write_page
from bpkd.analysis.plots import WRONG_BODY, WRONG_EDGE, Image, colored, errors, fitted
from bpkd.analysis.report import ALONE, best_cells, display_name, findings, provenance, run_rows, table_rows
from bpkd.analysis.significance import HEADER, OURS, explanation, paired_tests
from bpkd.analysis.slider import Picture
from bpkd.analysis.task import figures_of
from bpkd.distillers import DISTILLERS
from bpkd.tasks import INSTANCE, SEMANTIC

# Rows beyond which a table is folded.
MANY_RUNS = 12
MANY_CLASSES = 30
# File -> (title, what the figure shows).
FIGURES = {
    "trimap": (
        "mIoU inside the trimap band",
        "Line chart of mIoU inside the trimap over the band's half-width, a line per method",
    ),
    "edge_body": ("Edge and body", "Bar chart of mIoU near edges and elsewhere, a bar per method"),
    "classes_trimap": ("Classes, near edges", "Bar chart of the trimap IoU of each class, a bar per method"),
    "classes_iou": ("Classes", "Bar chart of the IoU of each class, a bar per method"),
    "classes_boundary": ("Classes, Boundary AP", "Bar chart of the Boundary AP of each class, a bar per method"),
    "classes_ap": ("Classes, mask AP", "Bar chart of the mask AP of each class, a bar per method"),
    "curves": ("Training", "Line charts of the losses over the iterations, and of the score where it was measured"),
    "panels": (
        "Predictions, edge bands and errors",
        "Test images in rows: image, ground truth and each method's prediction, below it the wrong pixels",
    ),
    "instances": ("Instances", "Test images in rows: image, ground truth and each method's instance masks"),
}


def comparison_page(
    records: Sequence[Mapping[str, Any]],
    pictures: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    classes: Sequence[tuple[str, Sequence[int]]],
    trimap_width: int,
    margin: float,
    runs: Mapping[str, Path] | None = None,
) -> int:
    """Writes ``report.html`` from a comparison's records, pictures and the figures that its folder holds.

    Args:
        records: complete runs.
        pictures: per picture ``name``, ``image`` [3, h, w], ``label`` [H, W] and ``predictions`` {method: [H, W]}, or
            of instances what ``instance_layers`` takes.
        folder: folder of the report.
        classes: names and RGB, in the order of the ids; empty where each instance has a colour of its own.
        trimap_width: half-width of the trimap figures and of the red error band.
        margin: the smallest gain that would matter, in percentage points.
        runs: folder of each run by its name in the records' ``run``, for links.

    Returns:
        The file's size in bytes.
    """
    colors = [color for _, color in classes]
    layers = LAYERS[figures_of(records).task]
    drawn = [_picture(p["name"], layers(p, colors, trimap_width)) for p in pictures]
    figures = [Figure(t, path, text) for n, (t, text) in FIGURES.items() if (path := folder / f"{n}.png").is_file()]
    return write_page(
        folder / "report.html",
        title=f"Comparison on {records[0]['dataset']}",
        lead=[line for line in (headline(records, margin=margin), compared(records)) if line],
        pictures=drawn,
        start=_start(drawn),
        legend=_legend(classes, pictures, trimap_width),
        sections=[
            _results(records, trimap_width),
            Section("Glossary", terms=glossary(records, trimap_width=trimap_width, outside=outside_methods())),
            Section("Runs", tables=[_runs(records, folder, runs or {})]),
            _statistics(records, trimap_width, margin),
            Section("Classes", tables=_classes(records, trimap_width)),
            Section("Figures", figures=figures),
            Section("Where the numbers come from", [provenance(records)]),
        ],
    )


def outside_methods() -> dict[str, str]:
    """Returns explanations of the distillers from outside of bpkd: the first lines of their classes' docstrings."""
    found = {}
    for name, distiller in DISTILLERS.items():
        module = distiller.__module__
        if module.partition(".")[0] != "bpkd":
            first = (distiller.__dict__.get("__doc__") or "").strip().partition("\n")[0].rstrip()
            found[name] = first or f"Method registered by {module}."
    return found


def _results(records: Sequence[Mapping[str, Any]], width: int) -> Section:
    best = best_cells(records, trimap_width=width)
    hint = "Click a header to sort."
    if best:
        hint += " Bold: the best student of a column (highest score, lowest cost), whether or not a test supports it."
    header, rows = table_rows(records, trimap_width=width)
    several = any(int(row[header.index("seeds")]) > 1 for row in rows)
    title = "Mean ± standard deviation over seeds" if several else "One seed"
    return Section("Results", tables=[Table(title, header, rows, best)], hint=hint)


def _statistics(records: Sequence[Mapping[str, Any]], width: int, margin: float) -> Section:
    shown = figures_of(records, width)
    tests = paired_tests(records, shown.tested, margin=margin)
    lines = [line for figure in shown.tested for line in findings(records, figure, name=shown.title(figure))]
    if any(t.seeds > 1 for t in tests):
        lines.append(explanation(margin))
    rows = [t.row(shown.title(t.metric)) for t in tests]
    return Section("Statistics", lines, tables=[Table("Paired tests", HEADER, rows)] if rows else [])


def _classes(records: Sequence[Mapping[str, Any]], width: int) -> list[Table]:
    found = [(title, *class_rows(scores)) for title, scores in class_figures(records, width).values()]
    return [Table(title, header, rows, folded=len(rows) > MANY_CLASSES) for title, header, rows in found]


def _runs(records: Sequence[Mapping[str, Any]], folder: Path, runs: Mapping[str, Path]) -> Table:
    """Returns the table of runs, with links to the folders, configs and records that exist."""
    header, rows = run_rows(records)
    cells: list[Sequence[object]] = []
    for name, *rest in rows:
        found = [_link(path, folder, text) for path, text in _files(runs.get(name), name)]
        cells.append([*(found or [name, "", ""]), *rest])
    if not runs:
        return Table("Folders and machines", header, rows, folded=len(rows) > MANY_RUNS)
    header = [header[0], "config", "record", *header[1:]]
    return Table("Folders, configs and records", header, cells, folded=len(rows) > MANY_RUNS)


def _files(run: Path | None, name: str) -> list[tuple[Path, str]]:
    if run is None:
        return []
    record = next((p for p in (run / "run.json", run / "inference_teacher" / "run.json") if p.is_file()), run)
    return [(run, name), (run / "config.yaml", "config.yaml"), (record, "run.json")]


def _link(path: Path, folder: Path, text: str) -> Link | str:
    """Returns a link relative to the report, or "" where the file does not exist."""
    if not path.exists():
        return ""
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return Link(text, f"{relative}/" if path.is_dir() else relative)


def _start(pictures: Sequence[Picture]) -> tuple[str, str] | None:
    """Returns the two layers that the slider shows first, student alone and BPKD, or None where one is missing."""
    pair = (display_name(ALONE), OURS)
    return pair if pictures and all(name in pictures[0].layers for name in pair) else None


def _legend(
    classes: Sequence[tuple[str, Sequence[int]]], pictures: Sequence[Mapping[str, Any]], width: int
) -> list[tuple[str, Sequence[int]]]:
    """Returns the colours of the classes that occur in the pictures, and of the errors."""
    if not classes or not pictures:
        return []
    maps = [m for p in pictures for m in (p["label"], *p["predictions"].values())]
    seen = {int(c) for m in maps for c in np.unique(m)}
    found = [pair for i, pair in enumerate(classes) if i in seen]
    return [*found, (f"error within {width} px of an edge", WRONG_EDGE), ("error elsewhere", WRONG_BODY)]


def _picture(name: str, layers: dict[str, Image]) -> Picture:
    return Picture(name, layers.pop("image"), layers)


def _semantic_layers(row: Mapping[str, Any], colors: Sequence[Sequence[int]], width: int) -> dict[str, Image]:
    label = row["label"]
    image = np.asarray(fitted(row["image"], label.shape))
    layers = {"image": image, "ground truth": colored(label, colors)}
    for method, prediction in row["predictions"].items():
        layers[display_name(method)] = colored(prediction, colors)
    for method, prediction in row["predictions"].items():
        layers[f"errors of {display_name(method)}"] = errors(prediction, label, image, width=width)
    return layers


def _instance_layers(row: Mapping[str, Any], colors: Sequence[Sequence[int]], width: int) -> dict[str, Image]:
    return instance_layers(row)


LAYERS = {SEMANTIC: _semantic_layers, INSTANCE: _instance_layers}
