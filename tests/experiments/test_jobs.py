"""Resumable sets of runs, with child processes that stand in for trainings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bpkd.experiments.jobs import Job, JobFailedError, run_jobs
from bpkd.experiments.resources import divide, visible_gpus

WRITE = "import json,sys,pathlib; p=pathlib.Path(sys.argv[1]); p.mkdir(exist_ok=True); " + (
    "(p/'run.json').write_text(json.dumps({'metrics': {'mIoU': 1.0}, 'iterations': 1, 'seconds': 1.0}))"
)


class FakeJob(Job):
    """A job whose process writes its record at once, or fails where ``config_file`` says so."""

    started: list[str] = []

    def command(self, processes: int) -> list[str]:
        self.started.append(self.name)
        code = "print('boom'); raise SystemExit(3)" if self.config_file == "bad" else self.code()
        return [sys.executable, "-c", code, str(self.output), *self.opts]

    def code(self) -> str:
        return WRITE


@pytest.fixture(autouse=True)
def forget_starts() -> None:
    FakeJob.started = []


def test_order_and_resume(tmp_path: Path) -> None:
    teacher = FakeJob("teacher", "", tmp_path / "t")
    jobs = [teacher, *(FakeJob(n, "", tmp_path / n, after=("teacher",)) for n in "ab")]
    run_jobs(jobs, progress=lambda line: None, poll_seconds=0.2)
    assert FakeJob.started[0] == "teacher"
    assert sorted(FakeJob.started[1:]) == ["a", "b"]
    (tmp_path / "b" / "run.json").unlink()
    said: list[str] = []
    run_jobs(jobs, progress=said.append, poll_seconds=0.2)
    assert FakeJob.started[3:] == ["b"]
    assert "already complete: teacher, a" in said[0]


def test_failure_shows_the_end_of_the_log(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"(?s)status 3.*boom"):
        run_jobs([FakeJob("x", "bad", tmp_path / "x")], progress=lambda line: None, poll_seconds=0.2)


def test_progress_reads_the_last_whole_row(tmp_path: Path) -> None:
    job = Job("x", "", tmp_path)
    rows = [json.dumps({"total_loss": 2.0, "iteration": 9}), json.dumps({"mIoU": 1}), '{"total_loss": 1.0, "iter']
    (tmp_path / "metrics.json").write_text("\n".join(rows))
    assert job.last_row()["iteration"] == 9


def test_a_job_with_late_changes_asks_for_them_when_it_starts(tmp_path: Path) -> None:
    class Tells(FakeJob):
        def code(self) -> str:
            return WRITE + "; (p/'told').write_text(' '.join(sys.argv[2:]))"

    first = FakeJob("first", "", tmp_path / "first")

    def late() -> tuple[str, ...]:
        assert first.record is not None
        return ("ITERATIONS", str(first.record["iterations"] + 1))

    job = Tells("second", "", tmp_path / "second", ("SEED", "0"), after=("first",), late_opts=late)
    run_jobs([job, first], progress=lambda line: None, poll_seconds=0.2)
    assert (job.output / "told").read_text() == "SEED 0 ITERATIONS 2"


def test_each_run_has_gpus_of_its_own(tmp_path: Path) -> None:
    class Shows(FakeJob):
        def code(self) -> str:
            return (
                WRITE
                + "; import os, time; time.sleep(0.5); (p/'gpus').write_text("
                + ("os.environ['CUDA_VISIBLE_DEVICES'] + ' ' + os.environ['OMP_NUM_THREADS'])")
            )

    jobs = [Shows(n, "", tmp_path / n) for n in "abc"]
    machine = divide(gpus=["0", "1", "5", "7"], per_run=2, cores=8)
    run_jobs(jobs, progress=lambda line: None, machine=machine, poll_seconds=0.1)
    seen = [(tmp_path / n / "gpus").read_text() for n in "abc"]
    assert sorted(seen[:2]) == ["0,1 2", "5,7 2"]  # 8 cores for 2 runs of 2 processes
    assert seen[2] in seen[:2]  # the slot that came free


def test_gpus_are_divided_between_runs() -> None:
    assert divide(gpus=list("0123"), per_run=1, cores=8).slots == ("0", "1", "2", "3")
    assert divide(gpus=list("01234"), per_run=2, cores=8).slots == ("0,1", "2,3")
    assert divide(gpus=list("0123"), per_run=1, workers=2, cores=8).slots == ("0", "1")
    with pytest.raises(ValueError, match=r"--num-gpus 3: expected at most the 2 GPUs that are visible \(4, 6\)"):
        divide(gpus=["4", "6"], per_run=3)


def test_cores_are_divided_between_runs() -> None:
    assert divide(gpus=[], cores=8).slots == ("",) * 8
    two = divide(gpus=[], per_run=2, cores=8)
    assert (two.runs, two.threads(alone=False), two.threads(alone=True)) == (4, 1, 4)
    assert divide(gpus=[], workers=3, cores=8).threads(alone=False) == 2
    assert divide(gpus=[], per_run=4, cores=2).runs == 1
    with pytest.raises(ValueError, match="--num-gpus of at least 1"):
        divide(gpus=[], per_run=0)


@pytest.mark.parametrize(("named", "gpus"), [("3,5", ["3", "5"]), ("", ["0", "1"])])
def test_visible_gpus_keep_their_names(monkeypatch: pytest.MonkeyPatch, named: str, gpus: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_gpus() == gpus


def test_several_processes_of_runs_side_by_side_get_ports_of_their_own(tmp_path: Path) -> None:
    job = Job("x", "x.yaml", tmp_path / "x", ("A", "1"))
    assert f"--num-gpus 2 OUTPUT_DIR {job.output} A 1" in " ".join(job.command(2))
    assert "--num-gpus" not in job.command(1)
    assert "--resume" in job.command(1)
    teacher = Job("teacher", "x.yaml", tmp_path / "x", evaluates="w.pth")
    assert "--eval-only --evaluate teacher OUTPUT_DIR" in " ".join(teacher.command(1))
    assert teacher.weights == Path("w.pth")
