"""Runs on data as people have them: absent classes, ignored images, hostile names; their records, logs and reuse."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bpkd.cli.main import run
from bpkd.evaluation import SemanticEvaluator
from bpkd.evaluation.identity import DataDigest, label_bytes
from bpkd.experiments.jobs import Job
from bpkd.experiments.reuse import ConfigDifferenceError, check_runs
from tests.helpers.engine_runs import TINY, train

CLASSES = ["sky $1$", "a|b", "a/b 🚗", "a/b 🚌"]
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def folder(root: Path, *, first: int = 0, turn: int = 0) -> Path:
    """Writes images with masks of the classes 0 and 1; one validation image is ignored as a whole."""
    for split, count in (("train", 4), ("val", 3)):
        for i in range(first, first + count):
            random = np.random.default_rng(i)
            mask = np.zeros((32, 48), np.uint8)
            mask[8 + i : 20, 10:30] = 1
            if split == "val" and i == first + 2:
                mask[:] = 255
            for part, values in (("images", random.integers(0, 255, (32, 48, 3))), ("masks", np.roll(mask, turn, 1))):
                path = root / split / part / f"s{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(path)
    return root


def config(path: Path, root: Path, classes: list[str] = CLASSES) -> Path:
    text = TINY.replace("procedural_", "mine_").replace("VERSION: 2", "") % len(classes)
    text = text.replace("[48, 48]", "[32, 32]").replace("MAX_ITER: 4", "MAX_ITER: 2")
    text = text.replace(
        "DATASETS:\n",
        f"DATASETS:\n  ROOT: {root}\n  FOLDER: {{NAME: mine, CLASSES: {json.dumps(classes, ensure_ascii=False)}}}\n",
    )
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mine")
    config(root / "c.yaml", folder(root / "data"))
    train(root / "c.yaml", root / "runs" / "none-seed0", "SEED", "0", "DATASETS.CHECK", "off")
    return root


def test_of_several_test_sets_the_record_is_of_the_first(trained: Path, tmp_path: Path) -> None:
    opts = ("DATASETS.CHECK", "off", "DATASETS.TEST", '["mine_val", "mine_train"]')
    train(trained / "c.yaml", tmp_path / "run", *opts)
    record = strict((tmp_path / "run" / "run.json").read_text())
    assert record["dataset"] == record["data"]["name"] == "mine_val"
    assert record["metrics"]["mIoU"] > 0


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=pytest.fail)


def test_the_record_states_convention_and_data(trained: Path) -> None:
    out = trained / "runs" / "none-seed0"
    record = strict((out / "run.json").read_text())
    assert record["absent"]["rule"] == "zero"
    assert record["absent"]["in_no_label"] == [2, 3]
    assert record["absent"]["images_without_label"] == 1
    assert record["data"]["images"] == 3
    assert record["data"]["classes"] == CLASSES
    assert set(record["metrics"]) >= {f"IoU-{name}" for name in CLASSES}
    full = strict((out / "inference" / "mine_val" / "metrics.json").read_text())
    assert full["absent"] == {k: v for k, v in record["absent"].items() if k != "images_without_label"}
    assert full["data"] == record["data"]


def test_its_rows_are_json_and_its_tags_stay_apart(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = trained / "runs" / "none-seed0"
    rows = [strict(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert any(f"sem_seg/IoU-{CLASSES[0]}" in row for row in rows)
    events = EventAccumulator(str(out))
    events.Reload()
    found = [t for t in events.Tags()["scalars"] if t.startswith("sem_seg/IoU-")]
    assert len(found) == len(CLASSES)


def test_the_digests_know_labels_and_not_folders() -> None:
    label = torch.tensor([[0, 1], [1, 255]])
    one, copy, other, turned = (DataDigest() for _ in range(4))
    one.add("/a/s0.png", label_bytes(label))
    one.add("/a/s1.png", label_bytes(label))
    copy.add("/elsewhere/s1.png", label_bytes(label.to(torch.uint8)))
    copy.add_state((1, *(one.state()[i] - copy.state()[i] for i in (1, 2))))
    other.add("/a/s0.png", label_bytes(label))
    other.add("/a/s1.png", label_bytes(label.T.flip(0)))
    turned.add("/a/s1.png", label_bytes(label))
    turned.add("/a/s0.png", label_bytes(label))
    assert one.state() == copy.state() == turned.state()
    assert other.state()[:2] == one.state()[:2]
    assert other.state()[2] != one.state()[2]


def job(trained: Path, root: Path) -> Job:
    opts = ("SEED", "0", "DATASETS.CHECK", "off", "DATASETS.ROOT", str(root))
    return Job("none-seed0", str(trained / "c.yaml"), trained / "runs" / "none-seed0", opts)


def test_a_run_on_the_same_data_elsewhere_is_reused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "data", tmp_path / "copy")
    check_runs([job(trained, tmp_path / "copy")], resume=True)


def test_a_run_on_other_data_is_not_reused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigDifferenceError, match="under the name mine_val.* names of the image files"):
        check_runs([job(trained, folder(tmp_path / "other", first=3))], resume=True)


def test_one_class_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path / "c.yaml", folder(tmp_path / "data"), ["object"])
    assert run("train", ["--config-file", str(path), "OUTPUT_DIR", str(tmp_path / "out")], prog="bpkd train") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "mine_val: expected 2 classes or more, got one class (object)" in line


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("bpkd.evaluation")
    level, _ = logger.level, logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def evaluated(label: torch.Tensor, scores: torch.Tensor, **options: Any) -> Any:
    evaluator = SemanticEvaluator(class_names=CLASSES, widths=(1,), protocol={"dataset": "mine_val"}, **options)
    evaluator.process([{"sem_seg": label, "file_name": "s0.png"}], [{"sem_seg": scores}])
    return evaluator.evaluate()


LABEL = torch.arange(48).reshape(6, 8).div(24, rounding_mode="floor")


def scores_of(ids: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(ids, 4).permute(2, 0, 1).float()


def test_a_val_set_that_is_ignored_stops_with_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"mine_val: expected labelled pixels, got 1 images .* s0\.png among them"):
        evaluated(torch.full_like(LABEL, 255), scores_of(LABEL))


def test_the_log_names_both_conventions(log: list[str]) -> None:
    predicted = LABEL.clone()
    predicted[0, 0] = 2
    found = evaluated(LABEL, scores_of(predicted))
    text = "\n".join(log)
    assert "mine_val: Convention for classes without a label: TEST.ABSENT_CLASS zero:" in text
    assert "2 of 4 classes occur in no label: a/b 🚗 predicted (IoU 0); a/b 🚌 not predicted either" in text
    other = found["absent"]["other"]["mIoU"]
    assert other == pytest.approx(1.5 * found["sem_seg"]["mIoU"])
    assert f"(TEST.ABSENT_CLASS skip): mIoU {other:.2f} (not {found['sem_seg']['mIoU']:.2f})" in text


def test_scores_that_are_nan_or_of_other_classes_are_refused() -> None:
    broken = scores_of(LABEL)
    broken[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"s0\.png: expected scores, got nan"):
        evaluated(LABEL, broken)
    with pytest.raises(ValueError, match=r"s0\.png: expected scores \[4, H, W\], one for each class, got \[3, 6, 8\]"):
        evaluated(LABEL, scores_of(LABEL)[:3])


def test_a_file_that_cannot_be_written_ends_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").mkdir()
    with pytest.raises(OSError, match="cannot be written"):
        evaluated(LABEL, scores_of(LABEL), output_dir=str(tmp_path))
