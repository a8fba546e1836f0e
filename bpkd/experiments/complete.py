"""The complete runs of a comparison's folder as jobs, without the command that made them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from bpkd.analysis.report import TEACHER
from bpkd.listing import is_hidden

from .jobs import Job


def complete_jobs(folder: Path, configs: Path, *, opts: Sequence[str] = (), order: Path | None = None) -> list[Job]:
    """Returns a job for every complete run of a comparison, the teacher's first.

    Args:
        folder: output folder of the comparison.
        configs: folder for the runs' configs, which are taken from their records.
        opts: KEY VALUE pairs over each run's config.
        order: ``results.json`` of an older report, whose order of runs is kept.

    Raises:
        ValueError: the folder holds no complete run.
    """
    runs = sorted(path for path in folder.iterdir() if not is_hidden(path.name))
    jobs = [job for path in runs if (job := _job(path, configs, opts)) is not None]
    if not jobs:
        raise ValueError(f"{folder}: expected a comparison's folder with complete runs (*/run.json), got none.")
    known = [row.get("name") for row in json.loads(order.read_text())] if order and order.is_file() else []
    return sorted(jobs, key=lambda j: (j.name != TEACHER, known.index(j.name) if j.name in known else len(known)))


def _job(path: Path, configs: Path, opts: Sequence[str]) -> Job | None:
    if not path.is_dir():
        return None
    config = configs / f"{path.name}.yaml"
    trained = Job(path.name, str(config), path, tuple(opts))
    evaluated = path / "inference_teacher" / "run.json"
    if trained.record is not None:
        job, record = trained, trained.record
    elif path.name == TEACHER and evaluated.is_file():
        record = json.loads(evaluated.read_text())
        job = Job(TEACHER, str(config), path, tuple(opts), evaluates=record["weights"])
    else:
        return None
    config.write_text(yaml.safe_dump(yaml.safe_load(record["config"])))
    return job
