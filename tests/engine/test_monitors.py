"""Norms and shares of the terms: in the files, on the console, as warnings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from bpkd.config import check_values
from bpkd.engine.monitors import GradientMonitor, Patience, ShareMonitor
from tests.helpers.engine_runs import TINY, train
from tests.helpers.tiny_networks import tiny_cfg


class FakeTrainer:
    """The attributes of a trainer that a hook reads."""

    def __init__(self, storage: EventStorage) -> None:
        self.storage, self.iter = storage, 0


def shares(rows: list[dict[str, float]], period: int = 1, **options: Any) -> tuple[ShareMonitor, EventStorage]:
    """Feeds one row of losses per log period."""
    monitor = ShareMonitor(**{"limit": 0.9, "patience": 2, **options})
    with EventStorage(0) as storage:
        monitor.trainer = FakeTrainer(storage)
        for i in range(len(rows) * period):
            storage.iter = monitor.trainer.iter = i
            if i % period == 0:
                storage.put_scalars(total_loss=1.0, **rows[i // period])
            monitor.after_step()
    return monitor, storage


def test_shares_are_sizes_over_their_sum_without_the_critics() -> None:
    row = {"loss_ce": 1.0, "loss_aux": 0.5, "loss_kd_adv": -0.5, "loss_kd_critic": 40.0}
    _, storage = shares([row], critic_terms={"loss_kd_critic"})
    got = {k: v for k, (v, _) in storage.latest().items() if k.startswith("loss_share_")}
    assert got == {"loss_share_ce": 0.5, "loss_share_aux": 0.25, "loss_share_kd_adv": 0.25}


def test_shares_are_taken_where_losses_are_logged() -> None:
    _, storage = shares([{"loss_ce": 1.0, "loss_kd_pixel": 1.0}] * 3, period=5)
    assert [i for _, i in storage.history("loss_share_ce").values()] == [0, 5, 10]
    assert "loss_share_ce" not in shares([{"loss_ce": 0.0}])[1].latest()


HIGH, LOW = {"loss_ce": 1.0, "loss_kd_pixel": 99.0}, {"loss_ce": 1.0, "loss_kd_pixel": 1.0}


@pytest.mark.parametrize(
    ("rows", "limit", "warnings"),
    [
        ([HIGH] * 3, 0.9, 1),
        ([HIGH] * 9, 0.9, 1),  # once
        ([HIGH] * 2, 0.9, 0),
        ([HIGH, HIGH, LOW, HIGH, HIGH], 0.9, 0),  # without a break
        ([HIGH] * 5, 0.995, 0),
        ([HIGH] * 5, 0.0, 0),
        ([{"loss_ce": 99.0, "loss_kd_pixel": 1.0}] * 5, 0.9, 0),  # the task may
    ],
)
def test_a_term_that_holds_nearly_all_is_named_once(
    rows: list[dict[str, float]], limit: float, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "bpkd"):
        shares(rows, limit=limit)
    assert len(caplog.records) == warnings
    if warnings:
        assert "loss_kd_pixel: it has held more than 90 % of the loss for 2 iterations (now 99.0 %)" in caplog.text


def test_patience_counts_iterations() -> None:
    patience = Patience(limit=1.0, patience=20)
    assert [patience.exceeded("a", 2.0, i) for i in (0, 10, 20, 30)] == [0, 0, 20, 0]
    assert patience.exceeded("b", 1.0, 30) == 0


def test_norms_are_those_of_the_gradients() -> None:
    logits = torch.tensor([[3.0, 4.0]], requires_grad=True)
    other = torch.ones(1, requires_grad=True)
    losses = {"loss_ce": logits.sum(), "loss_aux": logits.mean(), "loss_kd_pixel": 0.5 * (logits**2).sum(),
              "loss_kd_feature": other.sum()}  # fmt: skip

    class Model:
        gradient_probe: Any = None
        task_terms = ("loss_ce",)

    monitor = GradientMonitor(Model(), limit=3.0, patience=1)
    with EventStorage(0) as storage:
        monitor.trainer = FakeTrainer(storage)
        monitor.before_step()
        monitor.model.gradient_probe(losses, logits)
        monitor.after_step()
    got = {k: v for k, (v, _) in storage.latest().items()}
    norms = {"gradient_norm_ce": 2**0.5, "gradient_norm_kd_pixel": 5.0, "gradient_ratio_kd_pixel": 5 / 2**0.5}
    assert got == pytest.approx(norms)


def test_share_limit_is_a_share() -> None:
    with pytest.raises(ValueError, match="LOSS_SHARE_LIMIT: expected a number from 0 to 1, got 90.0"):
        check_values(tiny_cfg("SOLVER.LOSS_SHARE_LIMIT", 90.0))


def test_a_run_logs_them_and_keeps_its_line_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "student.yaml").write_text(TINY % 9)
    train(tmp_path / "student.yaml", tmp_path / "teacher", "SOLVER.MAX_ITER", "1")
    wrap = ("MODEL.META_ARCHITECTURE", "SemanticDistiller", "DISTILL.METHOD", "KD+IFVD", "DISTILL.WEIGHTS", "[2, 1]",
            "TEACHER.CONFIG_FILE", str(tmp_path / "student.yaml"),
            "TEACHER.WEIGHTS", str(tmp_path / "teacher" / "model_final.pth"))  # fmt: skip
    steps = ("SOLVER.MAX_ITER", "5", "SOLVER.LOG_PERIOD", "2", "SOLVER.GRADIENT_RATIO_PATIENCE", "1",
             "SOLVER.LOSS_SHARE_LIMIT", "1e-9")  # fmt: skip
    caplog.clear()
    with caplog.at_level("INFO"):
        train(tmp_path / "student.yaml", tmp_path / "run", *wrap, *steps)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    row = next(r for r in rows if "loss_share_ce" in r)
    terms = {"ce", "aux", "kd_kd", "kd_ifvd_pixel", "kd_ifvd_ifv", "kd_ifvd_adv"}
    named = {k.removeprefix("loss_share_"): v for k, v in row.items() if k.startswith("loss_share_")}
    assert set(named) == terms
    assert sum(named.values()) == pytest.approx(1.0)
    norms = {k for r in rows for k in r if k.startswith("gradient_norm_")}
    assert norms == {f"gradient_norm_{t}" for t in ("ce", "kd_kd", "kd_ifvd_pixel", "kd_ifvd_adv")}
    lines = [r.message for r in caplog.records if re.search(r"iter: \d+  total_loss", r.message)]
    assert lines
    assert all("loss_kd_kd:" in line and "loss_share" not in line for line in lines)
    assert all(re.search(r"  data_share: \d+\.\d%$", line) for line in lines)
    assert len([r for r in caplog.records if "loss_kd_kd: it has held more than 0 %" in r.message]) == 1
