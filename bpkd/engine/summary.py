"""The report folder of a comparison: table, curves, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from bpkd.analysis import plots, report
from bpkd.analysis.records import write_records
from bpkd.analysis.report import report_text
from bpkd.engine.compare import TEACHER
from bpkd.engine.launch import load_config
from bpkd.engine.matrix import Job
from bpkd.engine.pictures import predict


def collect(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Returns the records of complete jobs; the teacher's run is marked as such."""
    records = []
    for job in jobs:
        record = job.record
        if record is None:
            continue
        if job.name == TEACHER:
            record["method"] = TEACHER
        records.append({**record, "name": job.name})
    return records


def write_report(
    jobs: Sequence[Job], folder: Path, *, trimap_width: int, images: Sequence[int], say: Callable[[str], None]
) -> str:
    """Writes ``results.json``, ``table.md``, ``table.csv``, ``curves.png``, ``trimap.png`` and ``panels.png``.

    Args:
        jobs: complete runs, the teacher's among them.
        folder: of the report.
        trimap_width: half-width of the table's trimap column and of the pictures' error band.
        images: test images to draw.
        say: receives a line per step.

    Returns:
        The Markdown of the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = collect(jobs)
    write_records(folder / "results.json", records)
    (folder / "table.csv").write_text(report.table(records, trimap_width=trimap_width)[1])
    first = first_of_each_method(jobs)
    say("drawing curves and pictures ...")
    plots.curves({m: j.output for m, j in first.items()}, folder / "curves.png")
    plots.trimap_curves({m: trimap_curve(records, m) for m in first}, folder / "trimap.png")
    draw_panels(first, folder / "panels.png", images=images, width=trimap_width)
    body = report_text(records, trimap_width=trimap_width)
    (folder / "table.md").write_text(body + "\n")
    return body


def first_of_each_method(jobs: Sequence[Job]) -> dict[str, Job]:
    """Returns one complete job per method, the first seed's; the teacher last."""
    found: dict[str, Job] = {}
    for job in jobs:
        method = job.name.split("-seed")[0]
        if job.record is not None:
            found.setdefault(method, job)
    if TEACHER in found:
        found[TEACHER] = found.pop(TEACHER)
    return found


def trimap_curve(records: Sequence[dict[str, Any]], method: str) -> dict[int, float]:
    """Returns {half-width: mIoU}, the mean over a method's runs."""
    rows = [r["metrics"] for r in records if r["method"] == method]
    widths = [k for k in rows[0] if k.startswith("trimap_w")]
    return {int(k.removeprefix("trimap_w")): sum(r[k] for r in rows) / len(rows) for k in widths}


def draw_panels(jobs: dict[str, Job], path: Path, *, images: Sequence[int], width: int) -> None:
    """Draws the predictions of one job per method on some test images."""
    pictures: list[dict[str, Any]] = []
    for method, job in jobs.items():
        for i, row in enumerate(predict(job, images)):
            if i == len(pictures):
                pictures.append({"image": row["image"], "label": row["label"], "predictions": {}})
            pictures[i]["predictions"][method] = row["prediction"]
    job = next(iter(jobs.values()))
    cfg = load_config(job.config_file, list(job.opts))
    meta = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    plots.panels(pictures, list(jobs), path, colors=meta.stuff_colors, class_names=meta.stuff_classes, width=width)
