"""Resumable sets of runs, with child processes that stand in for trainings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bpkd.engine.compare import comparison_jobs
from bpkd.engine.matrix import Job, JobFailedError, run_jobs

WRITE = "import json,sys,pathlib; p=pathlib.Path(sys.argv[1]); p.mkdir(exist_ok=True); " + (
    "(p/'run.json').write_text(json.dumps({'metrics': {'mIoU': 1.0}, 'iterations': 1, 'seconds': 1.0}))"
)


class FakeJob(Job):
    """A job whose process writes its record at once, or fails where ``config_file`` says so."""

    started: list[str] = []

    def start(self, threads: int) -> subprocess.Popen[bytes]:
        self.started.append(self.name)
        self.output.mkdir(parents=True, exist_ok=True)
        code = "print('boom'); raise SystemExit(3)" if self.config_file == "bad" else WRITE
        with open(self.output / "console.log", "ab") as log:
            return subprocess.Popen([sys.executable, "-c", code, str(self.output)], stdout=log)


@pytest.fixture(autouse=True)
def forget_starts() -> None:
    FakeJob.started = []


def test_order_and_resume(tmp_path: Path) -> None:
    teacher = FakeJob("teacher", "", tmp_path / "t")
    jobs = [teacher, *(FakeJob(n, "", tmp_path / n, after=("teacher",)) for n in "ab")]
    run_jobs(jobs, say=lambda line: None, poll_seconds=0.2)
    assert FakeJob.started[0] == "teacher"
    assert sorted(FakeJob.started[1:]) == ["a", "b"]
    (tmp_path / "b" / "run.json").unlink()
    said: list[str] = []
    run_jobs(jobs, say=said.append, poll_seconds=0.2)
    assert FakeJob.started[3:] == ["b"]
    assert "already complete: teacher, a" in said[0]


def test_failure_shows_the_end_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"(?s)status 3.*boom"):
        run_jobs([FakeJob("x", "bad", tmp_path / "x")], say=lambda line: None, poll_seconds=0.2)


def test_progress_reads_the_last_whole_row(tmp_path: Path) -> None:
    job = Job("x", "", tmp_path)
    rows = [json.dumps({"total_loss": 2.0, "iteration": 9}), json.dumps({"mIoU": 1}), '{"total_loss": 1.0, "iter']
    (tmp_path / "metrics.json").write_text("\n".join(rows))
    assert job.last_row()["iteration"] == 9


def test_methods_share_seed_and_schedule(tmp_path: Path) -> None:
    jobs = comparison_jobs("t.yaml", "s.yaml", tmp_path, methods=["none", "BPKD"], seeds=[3], opts=["A", "1"])
    teacher, alone, distilled = jobs
    assert alone.opts == ("SEED", "3", "A", "1")
    assert distilled.opts[:4] == alone.opts
    assert str(teacher.weights) in distilled.opts
    assert distilled.after == ("teacher",)
