"""The engine, driven with real configs on tiny procedural scenes: what a user's run must survive."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bpkd.convert import read_checkpoint
from bpkd.data.mapper import TrainMapper
from bpkd.engine import DistillationTrainer, cli, load_config
from bpkd.engine.hooks import RunClock
from bpkd.engine.optim import parameter_groups, poly_schedule
from bpkd.engine.step import NonFiniteLossError
from tests.helpers.engine_runs import largest_difference, losses, stop_after, train, weights
from tests.helpers.processes import HANGS, command, free_port, run_parallel, two_processes

GOLDEN = Path(__file__).parents[1] / "golden" / "networks"


def test_poly_schedule_equals_the_papers_numbers() -> None:
    recipe = json.loads((GOLDEN / "recipe.json").read_text())
    for case in recipe["poly_lr"]:
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=case["base_lr"])
        schedule = poly_schedule(optimizer, max_iter=case["max_iters"], power=case["power"], min_lr=case["min_lr"])
        for t, expected in case["lr_at_iter"].items():
            assert case["base_lr"] * schedule.lr_lambdas[0](int(t)) == pytest.approx(expected, rel=1e-9)


def test_parameter_groups_cover_everything_once() -> None:
    model = torch.nn.Module()
    model.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    model.decode_head = torch.nn.Conv2d(4, 2, 1)
    groups = parameter_groups(model, lr=0.1, weight_decay=1e-2, weight_decay_norm=0.0, head_lr_multiplier=10.0)
    table = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in groups}
    assert table == {(0.1, 1e-2): 2, (0.1, 0.0): 2, (1.0, 1e-2): 2}


def test_checkpoint_is_a_plain_student(tiny: Path, tmp_path: Path) -> None:
    trainer = train(tiny / "pair.yaml", tmp_path)
    saved = weights(tmp_path)
    assert saved.keys() == weights(tiny / "teacher").keys()  # same network alone: no wrapper, no teacher
    row = losses(tmp_path)[-1]
    assert {"loss_ce", "loss_aux", "loss_kd_edge", "loss_kd_body"} <= row.keys()
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["method"] == "BPKD"
    assert record["metrics"]["mIoU"] >= 0
    assert trainer.student.training
    assert not list(tmp_path.glob("*.part*"))


def test_the_share_of_a_step_that_waits_for_data_is_logged(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapper that takes long makes the steps wait for it; the log and the record say so."""
    mapper, seconds = TrainMapper.__call__, {"fast": 0.0, "slow": 0.1}
    found = {}
    for name in seconds:
        clock = itertools.count()  # on which every look takes a hundredth of a second, and a mapper more
        looks = SimpleNamespace(perf_counter=lambda clock=clock: 0.01 * next(clock))
        monkeypatch.setattr("bpkd.engine.step.time", looks)
        monkeypatch.setattr("bpkd.engine.hooks.time", looks)

        def sleepy(self: TrainMapper, *args: Any, pause: float = seconds[name], clock: Any = clock) -> dict[str, Any]:
            for _ in range(round(100 * pause)):
                next(clock)
            return mapper(self, *args)

        monkeypatch.setattr(TrainMapper, "__call__", sleepy)
        trainer = train(tiny / "student.yaml", tmp_path / name)
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.json").read_text().splitlines()]
        logged = [r["data_share"] for r in rows if "data_share" in r]
        record = json.loads((tmp_path / name / "run.json").read_text())
        assert len(logged) == 4
        assert all(0 < share < 1 for share in [*logged, record["data_share"]])
        assert record["data_share"] == sum(trainer.clock.waits) / sum(trainer.clock.steps)
        timed = [r["data_time"] / r["data_share"] for r in rows if "data_share" in r]  # of each step
        assert all(0 < of_step <= of_clock for of_step, of_clock in zip(timed, trainer.clock.steps, strict=True))
        found[name] = trainer.clock
    for name, pause in seconds.items():
        assert list(found[name].waits) == pytest.approx([0.01 + 4 * pause] * 4)  # four images in each of four steps
    assert found["slow"].data_share() > found["fast"].data_share()


def test_clock_does_not_invent_the_waits_of_old_checkpoints() -> None:
    clock = RunClock(SimpleNamespace(waited=0.5))
    clock.load_state_dict({"seconds": 3.0, "steps": [1.0, 2.0]})
    assert clock.data_share() is None
    clock.before_step()
    clock.after_step()
    assert clock.data_share() == pytest.approx(0.5 / clock.steps[-1])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_resume_equals_no_interruption(tiny: Path, tmp_path: Path, workers: str) -> None:
    opts = ("DATALOADER.NUM_WORKERS", workers)
    train(tiny / "pair.yaml", tmp_path / "whole", *opts)
    (tmp_path / "parts").mkdir()
    cfg = load_config(str(tiny / "pair.yaml"), ["OUTPUT_DIR", str(tmp_path / "parts"), *opts])
    first = DistillationTrainer(cfg)
    first.resume_or_load(resume=False)
    first.after_step = stop_after(first, 2)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.train()
    train(tiny / "pair.yaml", tmp_path / "parts", *opts, resume=True)
    assert largest_difference(weights(tmp_path / "whole"), weights(tmp_path / "parts")) == 0.0


def test_accumulated_batches_give_the_gradient_of_the_joint_batch(tiny: Path, tmp_path: Path) -> None:
    same = ("MODEL.SEM_SEG_HEAD.DROPOUT", "0.0", "SOLVER.MAX_ITER", "2")
    frozen = ("MODEL.RESNET_V1C.NORM", "FrozenBN", "MODEL.SEM_SEG_HEAD.NORM", "FrozenBN")
    train(tiny / "student.yaml", tmp_path / "a", *same, *frozen)
    train(
        tiny / "student.yaml", tmp_path / "b", *same, *frozen, "SOLVER.IMS_PER_BATCH", "2", "SOLVER.ACCUMULATE", "2"
    )  # fmt: skip
    assert largest_difference(weights(tmp_path / "a"), weights(tmp_path / "b")) < 1e-6


def test_processes_and_machines_equal_one_process(tiny: Path, tmp_path: Path) -> None:
    opts = ("MODEL.SEM_SEG_HEAD.DROPOUT", "0.0", "SOLVER.MAX_ITER", "3", "DATASETS.CHECK", "off")
    url = f"tcp://127.0.0.1:{free_port()}"
    train(tiny / "pair.yaml", tmp_path / "one", *opts)
    two_processes(tiny / "pair.yaml", tmp_path / "two", *opts)
    machines = [
        command(tiny / "pair.yaml", tmp_path / f"machine{rank}", *opts, flags=(
            "--num-gpus", "1", "--num-machines", "2", "--machine-rank", str(rank), "--dist-url", url))
        for rank in (0, 1)
    ]  # fmt: skip
    run_parallel(machines)
    for other in ("two", "machine0"):
        # float32 sums in another order: the losses agree to 1e-4, the weights to 1e-4 of their scale
        for a, b in zip(losses(tmp_path / "one"), losses(tmp_path / other), strict=True):
            assert a == pytest.approx(b, rel=1e-4)
        assert largest_difference(weights(tmp_path / "one"), weights(tmp_path / other)) < 1e-4


def test_non_finite_loss_names_term_iteration_and_files(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"loss_kd_body.*iteration 0.*procedural://"):
        train(tiny / "pair.yaml", tmp_path, "DISTILL.BPKD.BODY_WEIGHT", "1e300")
    assert not (tmp_path / "last_checkpoint").exists()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_mixed_precision_trains(tiny: Path, tmp_path: Path, dtype: str) -> None:
    opts = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype, "TEACHER.AMP", dtype)
    train(tiny / "pair.yaml", tmp_path, *opts, "SOLVER.MAX_ITER", "2")
    assert all(v.isfinite().all() for v in weights(tmp_path).values())


def test_student_and_teacher_are_evaluated_by_one_command(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights_opts = ("MODEL.WEIGHTS", str(tiny / "teacher" / "model_final.pth"))
    arguments = ["--config-file", str(tiny / "pair.yaml"), "--eval-only", "OUTPUT_DIR", str(tmp_path)]
    assert cli([*arguments, *weights_opts]) == 0
    assert cli([*arguments[:3], "--evaluate", "teacher", *arguments[3:]]) == 0
    assert not (tmp_path / "config.yaml").exists()  # an evaluation leaves a run's own config alone
    results = [
        json.loads((tmp_path / f"inference_{which}" / "procedural_val" / "metrics.json").read_text())
        for which in ("student", "teacher")
    ]
    assert results[0] == results[1]  # the same weights in both roles
    trained = json.loads((tiny / "teacher" / "run.json").read_text())["metrics"]
    assert results[0]["mIoU"] == pytest.approx(trained["mIoU"])
    capsys.readouterr()
    assert cli([*arguments[:4], str(tmp_path / "empty")]) == 2
    assert "error: MODEL.WEIGHTS: expected weights, or a checkpoint" in capsys.readouterr().err


def test_a_run_is_never_overwritten(tiny: Path, tmp_path: Path) -> None:
    train(tiny / "student.yaml", tmp_path, "SOLVER.MAX_ITER", "1")
    with pytest.raises(RuntimeError, match="already holds a run.*--resume"):
        train(tiny / "student.yaml", tmp_path, "SOLVER.MAX_ITER", "1")
    with pytest.raises(RuntimeError, match="method 'none'.*'BPKD'"):
        train(tiny / "pair.yaml", tmp_path, "SOLVER.MAX_ITER", "1", resume=True)


def test_a_longer_run_is_not_recorded_as_a_shorter_one(tiny: Path, tmp_path: Path) -> None:
    train(tiny / "student.yaml", tmp_path, "SOLVER.MAX_ITER", "2")
    record = (tmp_path / "run.json").read_text()
    with pytest.raises(RuntimeError, match=r"SOLVER.MAX_ITER: expected at least the 2 iterations .* got 1"):
        train(tiny / "student.yaml", tmp_path, "SOLVER.MAX_ITER", "1", resume=True)
    assert (tmp_path / "run.json").read_text() == record


def test_unknown_key_lists_the_known_ones(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"DISTILL.METOD.*Known keys.*METHOD"):
        load_config(str(tiny / "student.yaml"), ["DISTILL.METOD", "CWD"])
    with pytest.raises(ValueError, match=r"DISTILL.METHOD is 'CWD'.*trains the student alone"):
        load_config(str(tiny / "student.yaml"), ["DISTILL.METHOD", "CWD"])


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["TEST.MODE", "slid"], "TEST.MODE: expected one of whole, slide, got 'slid'"),
        (["INPUT.CROP_SIZE", "[48]"], r"INPUT.CROP_SIZE: expected two whole numbers of at least 1, got \[48\]"),
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "11"], "NUM_CLASSES is 11, but procedural_train has 9 classes"),
        (["DATASETS.TRAIN", "('typo',)"], r"DATASETS: expected one of .*camvid_train.*got 'typo'"),
        (["TEST.SLIDE_STRIDE", "[600, 600]"], "would get no score"),
    ],
)
def test_wrong_values_are_found_before_training(tiny: Path, opts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(str(tiny / "student.yaml"), opts)


def test_a_missing_base_is_said(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("_BASE_: nowhere.yaml\n")
    with pytest.raises(FileNotFoundError, match="_BASE_ is relative to the file it stands in"):
        load_config(str(tmp_path / "own.yaml"))


def test_a_damaged_checkpoint_says_the_way_out(tiny: Path, tmp_path: Path) -> None:
    train(tiny / "student.yaml", tmp_path, "SOLVER.MAX_ITER", "1")
    path = tmp_path / "model_final.pth"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RuntimeError, match="model_final.pth cannot be read.*damaged.*last_checkpoint"):
        train(tiny / "student.yaml", tmp_path, "SOLVER.MAX_ITER", "2", resume=True)
    for content in (b"", b"just text\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            read_checkpoint(str(path))


def test_signal_leaves_a_resumable_run(tiny: Path, tmp_path: Path) -> None:
    opts = ("SOLVER.MAX_ITER", "5000", "SOLVER.CHECKPOINT_PERIOD", "100000")
    process = subprocess.Popen(
        command(tiny / "student.yaml", tmp_path, *opts),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    end = time.monotonic() + HANGS
    metrics = tmp_path / "metrics.json"  # opened before the run listens to signals, written to after
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < end
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=HANGS)
    assert process.returncode == 130, out[-3000:]
    name = (tmp_path / "last_checkpoint").read_text()
    iteration = int(re.findall(r"\d+", name)[0])
    state = torch.load(tmp_path / name, weights_only=True)
    assert state["trainer"]["iteration"] == iteration
    assert state["iteration"] == iteration


def test_gradient_monitor_warns_of_a_dominating_term(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opts = ("DISTILL.BPKD.PRESET", "literal", "DISTILL.BPKD.EDGE_WEIGHT", "5000.0", "SOLVER.BASE_LR", "1e-6")
    opts += ("SOLVER.MIN_LR", "1e-7", "SOLVER.MAX_ITER", "11", "SOLVER.GRADIENT_RATIO_PATIENCE", "10")
    with caplog.at_level("WARNING", logger="bpkd"):
        train(tiny / "pair.yaml", tmp_path, *opts)
    assert any("loss_kd_edge" in r.message and "times the task loss" in r.message for r in caplog.records)
