"""Foreign weights at every command that takes some: training, evaluation, teacher, prediction, export."""

from __future__ import annotations

import itertools
import json
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from bpkd.cli.main import run
from bpkd.config import read_config
from bpkd.engine.predict import predictor
from bpkd.modeling import build_student

REPO = Path(__file__).parents[2]
NAMES = ["background", "road", "car"]
NUMBER = itertools.count()  # a data set's name is registered once


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    yield
    for name in ("fvcore", "detectron2", "bpkd"):  # those of this run write to what is closed by now
        logging.getLogger(name).handlers.clear()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Config of a tiny network on a folder of three images for training and two for evaluation."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for folder in ("images", "masks"):
            (tmp_path / split / folder).mkdir(parents=True)
        for i in range(count):
            ids = np.zeros((32, 48), np.uint8)
            ids[16:], ids[4:12, 8 : 20 + i] = 1, 2
            pixels = np.array([(60, 60, 60), (150, 150, 150), (200, 40, 30)], np.uint8)[ids]
            Image.fromarray(pixels + rng.integers(0, 9, pixels.shape, dtype=np.uint8)).save(
                tmp_path / split / "images" / f"{i}.png"
            )
            Image.fromarray(ids).save(tmp_path / split / "masks" / f"{i}.png")
    name = f"weights{next(NUMBER)}"
    path = tmp_path / "cfg.yaml"
    path.write_text(f"""_BASE_: {REPO}/configs/camvid/small_student.yaml
DATASETS:
  TRAIN: ["{name}_train"]
  TEST: ["{name}_val"]
  FOLDER: {{NAME: {name}, ROOT: {tmp_path}, CLASSES: [{", ".join(NAMES)}]}}
MODEL: {{DEVICE: cpu, CHANNELS_LAST: False, SEM_SEG_HEAD: {{NUM_CLASSES: 3}}}}
INPUT: {{RESIZE_BOX: [0, 0], TEST_BOX: [0, 0], CROP_SIZE: [32, 48]}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 1, CHECKPOINT_PERIOD: 1}}
DATALOADER: {{NUM_WORKERS: 0}}
OUTPUT_DIR: {tmp_path / "out"}
""")
    return path


def weights(config: Path, path: Path, *opts: str, **meta: Any) -> Path:
    """Writes a network's weights, as the suffix says, with what it states about itself."""
    torch.manual_seed(0)
    state = build_student(read_config(str(config), list(opts))).state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path, metadata={"bpkd": json.dumps(meta)})
    elif path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in state.items()}, **meta}, 2))
    else:
        torch.save({"model": state, "bpkd": meta}, path)
    return path


def error(argv: list[str], capfd: pytest.CaptureFixture[str], command: str) -> str:
    assert run(command, argv) == 2
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return captured.err.strip().splitlines()[-1]


def miou(config: Path, path: Path) -> float:
    assert run("eval", ["--config-file", str(config), "MODEL.WEIGHTS", str(path)]) == 0
    record = json.loads((config.parent / "out" / "inference_student" / "run.json").read_text())
    return float(record["metrics"]["mIoU"])


def test_one_networks_score_does_not_depend_on_its_file(config: Path, tmp_path: Path) -> None:
    scores = [miou(config, weights(config, tmp_path / f"w.{kind}")) for kind in ("pth", "safetensors", "pkl")]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_classes_in_another_order_are_refused_or_meant(
    kind: str, config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = weights(config, tmp_path / f"w.{kind}", classes=["road", "background", "car"])
    argv = ["--config-file", str(config), "MODEL.WEIGHTS", str(path)]
    line = error(argv, capfd, "eval")
    assert (
        "other classes than the data set (file / data set): 0: 'road' / 'background', 1: 'background' / 'road'" in line
    )
    assert "MODEL.FILE_STATEMENTS warn" in line
    assert run("eval", [*argv, "MODEL.FILE_STATEMENTS", "warn"]) == 0
    assert "other classes than the data set" in capfd.readouterr().out
    with pytest.raises(ValueError, match="--weights .*other classes than the data set"):
        predictor(str(path), str(config))


def test_a_training_starts_from_foreign_weights_with_a_note(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = weights(config, tmp_path / "w.safetensors", classes=["a", "b", "c"])
    assert run("train", ["--config-file", str(config), "MODEL.WEIGHTS", str(path)]) == 0
    assert "other classes than the data set (file / data set): 0: 'a' / 'background'" in capfd.readouterr().out


def test_a_training_does_not_begin_with_a_backbone_of_other_statistics(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hub").mkdir()
    path = tmp_path / "hub" / "model.safetensors"
    save_file(torchvision.models.resnet18().state_dict(), path, metadata={"format": "pt"})
    stated = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    path.with_name("config.json").write_text(json.dumps(stated))
    keys = ["MODEL.RESNET_V1C.WIDTH_MULTIPLIER", "1.0", "MODEL.RESNET_V1C.DEEP_STEM", "False"]
    argv = ["--config-file", str(config), *keys, "MODEL.BACKBONE.WEIGHTS", str(path)]
    line = error(argv, capfd, "train")
    assert "MODEL.BACKBONE.WEIGHTS" in line
    assert "expect RGB, mean [127.5, 127.5, 127.5]" in line
    assert "config.json beside it" in line
    assert not list((tmp_path / "out").glob("model_*.pth"))


def test_a_teacher_of_other_statistics_is_refused_before_training(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stated = {"pixel_mean": [0.0, 0.0, 0.0], "pixel_std": [255.0, 255.0, 255.0], "input_format": "RGB"}
    teacher = weights(config, tmp_path / "t.pth", classes=NAMES, **stated)
    argv = ["--config-file", str(config), "MODEL.META_ARCHITECTURE", "SemanticDistiller", "DISTILL.METHOD", "KD",
            "TEACHER.CONFIG_FILE", str(config), "TEACHER.WEIGHTS", str(teacher)]  # fmt: skip
    line = error(argv, capfd, "train")
    assert "TEACHER.WEIGHTS" in line
    assert "expect RGB, mean [0.0, 0.0, 0.0]" in line
    assert "in the teacher's CONFIG_FILE or OPTS" in line
    obeyed = ["MODEL.PIXEL_MEAN", "[0.0, 0.0, 0.0]", "MODEL.PIXEL_STD", "[255.0, 255.0, 255.0]"]
    assert run("train", [*argv, "TEACHER.OPTS", json.dumps(obeyed)]) == 0


def test_prediction_and_export_read_them_too(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch_file, other = weights(config, tmp_path / "w.pth"), weights(config, tmp_path / "w.safetensors")
    image = tmp_path / "val" / "images" / "0.png"
    first, second = (predictor(str(path), str(config))(image) for path in (torch_file, other))
    assert np.array_equal(first, second)
    argv = [str(tmp_path / "o.ts"), "--config-file", str(config), "--size", "32", "48"]
    assert run("export", [*argv, "--weights", str(other)]) == 0
    pointer = tmp_path / "p.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert "git-lfs pointer" in error([*argv, "--weights", str(pointer)], capfd, "export")
    stated = weights(config, tmp_path / "bgr.pth", pixel_mean=[103.53, 116.28, 123.675], pixel_std=[1.0] * 3,
                     input_format="BGR")  # fmt: skip
    assert "expect BGR" in error([*argv, "--weights", str(stated)], capfd, "export")
    with pytest.raises(ValueError, match=r"--weights .*expect BGR.*MODEL\.PIXEL_MEAN"):
        predictor(str(stated), str(config))


@pytest.mark.parametrize("door", ["eval", "train", "export"])
def test_a_folder_is_answered_with_the_file_in_it(
    door: str, config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hub").mkdir()
    weights(config, tmp_path / "hub" / "model.safetensors")
    if door == "export":
        argv = [str(tmp_path / "o.ts"), "--config-file", str(config), "--weights", str(tmp_path / "hub")]
    else:
        argv = ["--config-file", str(config), "MODEL.WEIGHTS", str(tmp_path / "hub")]
    assert "Give the file in it: model.safetensors" in error(argv, capfd, door)


def test_a_comparison_does_not_train_a_teacher_in_place_of_a_folder(
    config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hub").mkdir()
    pair = tmp_path / "pair.yaml"
    pair.write_text(f"""_BASE_: {config}
MODEL: {{META_ARCHITECTURE: SemanticDistiller}}
DISTILL: {{METHOD: KD}}
TEACHER: {{CONFIG_FILE: {config}, WEIGHTS: {tmp_path / "hub"}}}
""")
    argv = ["--config-file", str(pair), "--methods", "KD", "--output", str(tmp_path / "runs")]
    assert "TEACHER.WEIGHTS: expected a file, got the folder" in error(argv, capfd, "compare")
