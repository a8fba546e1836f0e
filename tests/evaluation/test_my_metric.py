"""examples/my_metric from outside the package: in the evaluator, on two processes, and in a run's records."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.data import MetadataCatalog

from bpkd.analysis.records import read_records
from bpkd.analysis.report import table_rows
from bpkd.config import get_bpkd_cfg
from bpkd.engine import DistillationTrainer, load_config
from bpkd.engine.launch import leave_group
from bpkd.evaluation import SemanticEvaluator, check_metrics
from bpkd.metrics import METRICS, Metric
from tests.helpers.evaluation import NAMES, WIDTHS, make_evaluator, pairs
from tests.helpers.processes import spawn

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "my_metric"
NAME = "FrequencyWeightedIoU"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example in another folder, imported from there."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(EXAMPLE, folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_metric", raising=False)
    importlib.import_module("my_metric")
    return folder


def evaluate(rows: list[Any], *metrics: Any, folder: Path | None = None) -> Any:
    evaluator = SemanticEvaluator(
        class_names=NAMES, widths=WIDTHS, metrics=metrics, output_dir=str(folder) if folder else None
    )
    evaluator.process([item for item, _ in rows], [output for _, output in rows])
    return evaluator.evaluate()


def test_the_evaluator_has_its_figure_beside_its_own(example: Path, tmp_path: Path) -> None:
    results = evaluate(pairs(), NAME, folder=tmp_path)
    plain = make_evaluator()
    plain.process(*zip(*pairs(), strict=True))
    want = plain.evaluate()
    figure = results["sem_seg"].pop("fwIoU")
    assert json.dumps(results) == json.dumps(want)  # nothing else has changed
    labels = torch.cat([item["sem_seg"].flatten() for item, _ in pairs()])
    counts = torch.bincount(labels[labels != 255], minlength=4).double()
    ious = [want["sem_seg"][f"IoU-{n}"] for n in NAMES[:3]]
    assert figure == pytest.approx(sum(float(c) * iou for c, iou in zip(counts, ious, strict=False)) / counts.sum())
    assert json.loads((tmp_path / "metrics.json").read_text())["fwIoU"] == figure


def _worker(rank: int, root: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    sys.path.insert(0, str(folder))
    importlib.import_module("my_metric")
    dist.init_process_group("gloo", init_method=f"file://{root}/meeting", rank=rank, world_size=2)
    got = evaluate(pairs()[rank::2], NAME)
    if rank == 0:
        (root / "got.json").write_text(json.dumps(got))
    leave_group()


def test_two_processes_equal_one(example: Path, tmp_path: Path) -> None:
    spawn(_worker, (tmp_path, example), 2)
    assert json.loads((tmp_path / "got.json").read_text()) == json.loads(json.dumps(evaluate(pairs(), NAME)))


def test_a_figure_does_not_replace_another() -> None:
    class Same(Metric):
        def count(self, *batch: Any) -> None:
            pass

        def compute(self) -> dict[str, Any]:
            return {"mIoU": -1.0, "more": [1.0, 2.0, 3.0, 4.0]}

    got, want = evaluate(pairs(), Same)["sem_seg"], evaluate(pairs())["sem_seg"]
    assert got["mIoU"] == want["mIoU"]
    assert got["Same.mIoU"] == -1
    assert [got[f"more-{n}"] for n in NAMES] == [1, 2, 3, 4]


def test_wrong_metrics_are_refused_at_the_start(example: Path) -> None:
    cfg = get_bpkd_cfg()
    cfg.TEST.METRICS = ["FrequencyIoU"]
    with pytest.raises(
        ValueError, match=rf"TEST.METRICS: expected registered metrics \(.*{NAME}.*\), got FrequencyIoU"
    ):
        check_metrics(cfg)
    cfg.TEST.METRICS = [NAME, NAME]
    with pytest.raises(ValueError, match="TEST.METRICS: expected each metric once"):
        check_metrics(cfg)
    cfg.TEST.METRICS, cfg.DATASETS.TEST = [NAME], ("tiny_objects_metric",)
    MetadataCatalog.get("tiny_objects_metric").evaluator_type = "coco"
    with pytest.raises(ValueError, match="TEST.METRICS: expected none for tiny_objects_metric"):
        check_metrics(cfg)


def test_a_run_records_the_figure(example: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    opts = ["OUTPUT_DIR", str(out), "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.LOG_PERIOD", "1"]
    out.mkdir()
    trainer = DistillationTrainer(load_config(str(example / "config.yaml"), opts))
    trainer.resume_or_load(resume=False)
    trainer.train()
    (record,) = read_records([out / "run.json"])
    figure = record["metrics"]["fwIoU"]
    assert 0 < figure < 100
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert figure in [row.get("sem_seg/fwIoU", row.get("fwIoU")) for row in rows]
    header, (row,) = table_rows([record], trimap_width=3)
    assert row[header.index("fwIoU")] == f"{figure:.2f}"
    assert header.index("Boundary IoU") < header.index("fwIoU") < header.index("params M")


def test_the_examples_own_test_passes(example: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(example)])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_metric.py"]
    done = subprocess.run(command, cwd=example, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def metric_class(figures: Any) -> type[Metric]:
    """Returns a metric that computes these figures."""

    class Fixed(Metric):
        def count(self, prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
            pass

        def compute(self) -> dict[str, Any]:
            return figures

    return Fixed


def evaluated(figures: Any, folder: Path) -> dict[str, float]:
    own = SemanticEvaluator(class_names=NAMES, metrics=[metric_class(figures)], output_dir=str(folder))
    for item, output in pairs():
        own.process([item], [output])
    result = own.evaluate()
    assert result is not None
    return result["sem_seg"]


def test_tensors_and_arrays_are_figures_too(tmp_path: Path) -> None:
    per_class = torch.arange(len(NAMES), dtype=torch.float32)
    figures = {"t": torch.tensor(2.5), "n": np.float32(0.5), "endless": float("inf"), "per": per_class, "mIoU": 7}
    found = evaluated(figures, tmp_path)
    assert (found["t"], found["n"], found[f"per-{NAMES[2]}"], found["Fixed.mIoU"]) == (2.5, 0.5, 2.0, 7)
    assert found["mIoU"] != 7
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert (written["t"], written["endless"], written["per"]) == (2.5, None, per_class.tolist())


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"a": [1.0]}, rf"Fixed.compute: a: expected .*one number per class \({len(NAMES)}\), got 1"),
        ({"a": "good"}, "Fixed.compute: a: expected a number .*got 'good'"),
        ({"a": {"b": 1.0}}, "Fixed.compute: a: expected a number .*own flatten"),
        ({"a": torch.ones(len(NAMES), 2)}, "Fixed.compute: a-.*: expected a number"),
        (1.0, "Fixed.compute: expected a dict of figures by name, got 1.0"),
    ],
)
def test_other_figures_are_refused_by_name(figures: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        evaluated(figures, tmp_path)


def test_a_metric_that_cannot_be_made_is_found_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoOptions(Metric):
        def __init__(self, num_classes: int) -> None:
            super().__init__(num_classes)

    class NoBase(Metric):
        def __init__(self, num_classes: int, **options: Any) -> None:
            pass

    for kind in (NoOptions, NoBase):
        monkeypatch.setitem(METRICS, kind.__name__, kind)
        cfg = get_bpkd_cfg()
        cfg.TEST.METRICS = [kind.__name__]
        with pytest.raises(ValueError, match=rf"TEST.METRICS: {kind.__name__}\(num_classes.*failed: \w+Error"):
            check_metrics(cfg)
