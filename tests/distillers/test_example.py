"""examples/my_distiller works as it stands, from a folder outside of the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

QUICK = (
    "SOLVER.MAX_ITER",
    "2",
    "SOLVER.IMS_PER_BATCH",
    "2",
    "SOLVER.LOG_PERIOD",
    "1",
    "DATASETS.PROCEDURAL.NUM_VAL",
    "2",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(REPO / "examples" / "my_distiller", tmp_path_factory.mktemp("outside") / "my_distiller")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": f".{os.pathsep}{REPO}", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)


def train(folder: Path, config: str, *opts: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    done = run(folder, "-m", "bpkd.engine", "--config-file", config, *flags, *QUICK, *opts)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_its_own_test_passes(folder: Path) -> None:
    done = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_hints.py", "-k", "not two_processes")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout


def test_it_trains_resumes_and_is_evaluated_from_its_config(folder: Path) -> None:
    train(folder, "teacher.yaml")
    train(folder, "hints.yaml")
    rows = [json.loads(line) for line in (folder / "output/hints/metrics.json").read_text().splitlines()]
    hints = [row["loss_kd_hint"] for row in rows if "loss_kd_hint" in row]
    assert len(hints) == 2
    assert min(hints) > 0
    written = "output/hints/config.yaml"
    assert "IMPORTS:\n- my_hints" in (folder / written).read_text()
    train(folder, written, "SOLVER.MAX_ITER", "3", flags=("--resume",))
    assert (folder / "output/hints/run.json").is_file()


@pytest.mark.slow
def test_several_processes_and_workers_know_it(folder: Path) -> None:
    if not (folder / "output/teacher/model_final.pth").is_file():
        train(folder, "teacher.yaml")
    meeting = f"file://{folder}/meeting"
    opts = ("DATALOADER.NUM_WORKERS", "1", "SOLVER.IMS_PER_BATCH", "4", "OUTPUT_DIR", "output/two")
    train(folder, "hints.yaml", *opts, flags=("--num-gpus", "2", "--dist-url", meeting))
    assert (folder / "output/two/model_final.pth").is_file()
