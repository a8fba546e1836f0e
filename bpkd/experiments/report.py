"""The report folder of a comparison: tables, curves, bars, pictures, and one page that holds them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from bpkd.analysis import plots
from bpkd.analysis.bars import bars
from bpkd.analysis.classes import class_figures, class_rows, edge_and_body, trimap_curves
from bpkd.analysis.instances import instance_panels
from bpkd.analysis.records import write_records
from bpkd.analysis.report import csv_text, markdown, run_rows, table
from bpkd.analysis.significance import HEADER, paired_tests
from bpkd.analysis.statement import report_text
from bpkd.analysis.task import figures_of
from bpkd.engine.configure import load_config
from bpkd.experiments.compare import TEACHER
from bpkd.experiments.html import comparison_page
from bpkd.experiments.jobs import Job
from bpkd.experiments.pictures import collect_pictures
from bpkd.files import write_text
from bpkd.tasks import INSTANCE, SEMANTIC

Classes = list[tuple[str, tuple[int, int, int]]]
Pictures = Sequence[Mapping[str, Any]]


def collect(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Returns the records of complete jobs, with the method's name in the comparison and the run's folder.

    The teacher's and the equal-time runs' ``method`` is that of the job; ``run`` is relative to the comparison's
    folder.
    """
    return [
        {**record, "method": job.method, "name": job.name, "run": job.output.name}
        for job in jobs
        if (record := job.record) is not None
    ]


def write_report(
    jobs: Sequence[Job],
    folder: Path,
    *,
    trimap_width: int,
    images: Sequence[int],
    progress: Callable[[str], None],
    margin: float = 0.5,
) -> str:
    """Writes the report: ``results.json``, tables as Markdown and CSV, figures as PNG, all of it in ``report.html``.

    Args:
        jobs: complete runs, the teacher's among them.
        folder: folder of the report.
        trimap_width: half-width of the table's trimap column, of the bars' and of the pictures' error band.
        images: positions of the test images to draw.
        progress: callback that receives a line per step.
        margin: the smallest gain that would matter, in percentage points.

    Returns:
        The Markdown of the report's first part: comparison, tests, provenance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = collect(jobs)
    write_records(folder / "results.json", records)
    body = write_tables(records, folder, trimap_width=trimap_width, margin=margin)
    progress("drawing curves and pictures ...")
    draw_figures(records, folder, trimap_width=trimap_width)
    first = first_of_each_method(jobs)
    plots.curves({m: j.output for m, j in first.items() if not j.evaluates}, folder / "curves.png")
    pictures, classes = collect_pictures(first, images), _classes(first)
    PANELS[figures_of(records).task](pictures, folder, classes, trimap_width)
    size = comparison_page(
        records,
        pictures,
        folder,
        classes=classes,
        trimap_width=trimap_width,
        margin=margin,
        runs={job.output.name: job.output for job in jobs},
    )
    progress(f"report.html: {size / 1e6:.1f} MB")
    return body


def write_tables(records: Sequence[dict[str, Any]], folder: Path, *, trimap_width: int, margin: float) -> str:
    """Writes ``table`` and ``classes_...`` (see ``Figures.per_class``) as Markdown and CSV, and ``tests.csv``.

    ``table.md`` ends with the list of runs.

    Args:
        records: complete runs, as ``collect`` returns them.
        folder: folder of the report.
        trimap_width: half-width of the trimap figures.
        margin: the smallest gain that would matter, in percentage points.

    Returns:
        The Markdown of comparison, tests and provenance.
    """
    body = report_text(records, trimap_width=trimap_width, margin=margin)
    write_text(folder / "table.csv", table(records, trimap_width=trimap_width)[1])
    parts = [body]
    for name, (title, scores) in class_figures(records, trimap_width).items():
        header, rows = class_rows(scores)
        write_text(folder / f"{name}.csv", csv_text(header, rows))
        parts.append(f"{title}\n\n{markdown(header, rows)}")
        write_text(folder / f"{name}.md", parts[-1] + "\n")
    tests = paired_tests(records, figures_of(records, trimap_width).tested, margin=margin)
    write_text(folder / "tests.csv", csv_text(HEADER, [t.row() for t in tests]))
    write_text(folder / "table.md", "\n\n".join([*parts, f"Runs\n\n{markdown(*run_rows(records))}"]) + "\n")
    return body


def draw_figures(records: Sequence[dict[str, Any]], folder: Path, *, trimap_width: int) -> None:
    """Draws the figures of records: bars per class and, for semantic segmentation, trimap curves, edge against body."""
    unit = f"{figures_of(records).class_score} in %"
    for name, (title, scores) in class_figures(records, trimap_width).items():
        bars(scores, folder / f"{name}.png", title=title, unit=unit)
    curves = trimap_curves(records)
    if any(curves.values()):
        plots.trimap_curves(curves, folder / "trimap.png")
    parts = edge_and_body(records, trimap_width)
    if parts:
        title = f"within {trimap_width} px of an edge, and elsewhere"
        bars(parts, folder / "edge_body.png", title=title, unit="mIoU in %")


def _semantic_panels(pictures: Pictures, folder: Path, classes: Classes, width: int) -> None:
    names, colors = zip(*classes, strict=True)
    options: dict[str, Any] = {"colors": colors, "class_names": names, "width": width}
    plots.panels(pictures, list(pictures[0]["predictions"]), folder / "panels.png", **options)


def _instance_panels(pictures: Pictures, folder: Path, classes: Classes, width: int) -> None:
    instance_panels(pictures, folder / "instances.png")


PANELS = {SEMANTIC: _semantic_panels, INSTANCE: _instance_panels}


def first_of_each_method(jobs: Sequence[Job]) -> dict[str, Job]:
    """Returns one complete job per method, the first seed's; the teacher last."""
    found: dict[str, Job] = {}
    for job in jobs:
        if job.record is not None:
            found.setdefault(job.method, job)
    if TEACHER in found:
        found[TEACHER] = found.pop(TEACHER)
    return found


def _classes(jobs: Mapping[str, Job]) -> Classes:
    """Returns names and RGB of the test set's classes; none of instances, which are coloured one by one."""
    job = next(iter(jobs.values()))
    meta = MetadataCatalog.get(load_config(job.config_file, list(job.opts)).DATASETS.TEST[0])
    return list(zip(meta.get("stuff_classes", ()), meta.get("stuff_colors", ()), strict=True))
