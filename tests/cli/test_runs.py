"""How `bpkd train` ends when something goes wrong, in processes as a user starts them; and a report that is remade."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bpkd.data.procedural import CLASSES
from bpkd.experiments.complete import complete_jobs
from tests.conftest import REPO
from tests.helpers.engine_runs import TINY
from tests.helpers.processes import HANGS


def start(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "tools" / "train_net.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=HANGS)


def test_a_mistake_in_two_processes_is_one_line(tmp_path: Path) -> None:
    done = start("--config-file", str(tmp_path / "none.yaml"), "--num-gpus", "2")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [
        f"error: --config-file: expected a YAML file, got '{tmp_path}/none.yaml'; configs/ and projects/ hold some."
    ]
    assert "Traceback" not in done.stdout + done.stderr
    assert "is deprecated" not in done.stderr


def test_an_error_in_the_loop_is_one_line_and_the_log_holds_its_frames(tmp_path: Path) -> None:
    (tmp_path / "net.yaml").write_text(TINY % len(CLASSES))
    opts = ["SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "OUTPUT_DIR", str(tmp_path / "out")]
    done = start("--config-file", str(tmp_path / "net.yaml"), *opts)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Lower SOLVER.BASE_LR" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout
    assert "Traceback (most recent call last)" in (tmp_path / "out" / "log.txt").read_text()


def record(folder: Path, **facts: object) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"config": "SEED: 3\n", **facts}))


def test_the_runs_of_a_comparison_are_found_again(tmp_path: Path) -> None:
    record(tmp_path / "out" / "BPKD-seed0")
    record(tmp_path / "out" / "none-seed0")
    record(tmp_path / "out" / "teacher" / "inference_teacher", weights="t.pth")
    (tmp_path / "out" / "CWD-seed0").mkdir()  # not complete
    (tmp_path / "out" / "report").mkdir()
    order = tmp_path / "out" / "report" / "results.json"
    order.write_text(json.dumps([{"name": "teacher"}, {"name": "none-seed0"}, {"name": "BPKD-seed0"}]))
    (tmp_path / "configs").mkdir()
    jobs = complete_jobs(tmp_path / "out", tmp_path / "configs", opts=["DATASETS.ROOT", "d"], order=order)
    assert [job.name for job in jobs] == ["teacher", "none-seed0", "BPKD-seed0"]
    assert [job.method for job in jobs] == ["teacher", "none", "BPKD"]
    assert jobs[0].evaluates == "t.pth"
    assert jobs[1].opts == ("DATASETS.ROOT", "d")
    assert Path(jobs[1].config_file).read_text() == "SEED: 3\n"
    assert all(job.record is not None for job in jobs)


def test_a_folder_without_complete_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a comparison's folder with complete runs"):
        complete_jobs(tmp_path, tmp_path)
