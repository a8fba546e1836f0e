"""Trains: `make test-slow`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bpkd.experiments.compare import comparison_jobs
from bpkd.experiments.jobs import run_jobs

ROOT = Path(__file__).parents[2]
PAIR = ROOT / "projects" / "BPKD" / "configs" / "quickstart" / "pspnet__bpkd.yaml"


@pytest.mark.slow
def test_a_better_teacher_and_a_student_that_learns(tmp_path: Path) -> None:
    """A shortened quick start (150 iterations): every run learns, and the wide network is ahead of the narrow one."""
    opts = ["SOLVER.MAX_ITER", "150", "MODEL.DEVICE", "cpu"]
    opts += ["TEACHER.CONFIG_FILE", str(ROOT / "configs" / "quickstart" / "teacher.yaml")]
    jobs = comparison_jobs(str(PAIR), tmp_path, methods=["none", "BPKD"], seeds=[0], opts=opts)
    run_jobs(jobs, progress=lambda line: None)
    scores = {job.name: json.loads((job.output / "run.json").read_text())["metrics"]["mIoU"] for job in jobs}
    assert scores["none-seed0"] > 25  # an untrained network is below 5
    assert scores["BPKD-seed0"] > 25
    assert scores["teacher"] > scores["none-seed0"] + 3
