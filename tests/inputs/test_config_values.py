"""Values of settings as people give them: taken as meant, or refused in one line before any work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bpkd.cli.main import main
from bpkd.config import read_config

BASE = Path(__file__).parents[2] / "configs" / "camvid" / "small_student.yaml"
SCENES = (
    "DATASETS.TRAIN", "('procedural_train',)", "DATASETS.TEST", "('procedural_val',)", "DATASETS.PROCEDURAL.NUM_TRAIN",
    "2", "DATASETS.PROCEDURAL.NUM_VAL", "1", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "9",
)  # fmt: skip

# KEY VALUE -> what the line says beside the key.
REFUSED = {
    ("INPUT.FLIP_PROB", "50%"): "expected a number from 0 to 1, got '50%'",
    ("INPUT.FLIP_PROB", "0,5"): "expected a number from 0 to 1, got '0,5'",
    ("INPUT.FLIP_PROB", "True"): "expected a number from 0 to 1, got 'True'",
    ("INPUT.CROP_SIZE", "512"): r"expected two whole numbers of at least 1, got 512 .*Write \[512, 512\]",
    ("INPUT.CROP_SIZE", "512x512"): "expected two whole numbers of at least 1, got '512x512'",
    ("INPUT.CROP_SIZE", "(512,)"): r"expected two whole numbers of at least 1, got \[512\]",
    ("INPUT.CROP_SIZE", "[51.5, 64]"): "expected two whole numbers of at least 1",
    ("INPUT.RESIZE_BOX", "[2048, 0]"): r"expected two positive numbers, or \[0, 0\]",
    ("INPUT.SCALE_RANGE", "1.0"): r"expected two numbers above 0, got 1.0 .*Write \[1.0, 1.0\]",
    ("INPUT.SCALE_RANGE", "[0, 2]"): "expected two numbers above 0",
    ("MODEL.PIXEL_STD", "[0.229, 0.224]"): "expected three numbers above 0",
    ("MODEL.PIXEL_MEAN", "['a', 'b', 'c']"): "expected three numbers, got",
    ("MODEL.RESNET_V1C.DEPTH", "20"): "expected one of 18, 34, 50, 101, 152, got 20",
    ("MODEL.SEM_SEG_HEAD.DROPOUT", "1"): "expected a number of at least 0 and below 1, got 1",
    ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "0"): r"expected no class of 0..8 \(NUM_CLASSES\), got 0",
    ("MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "254"): "expected 255, which the data sets give ignored pixels, got 254",
    ("SOLVER.MOMENTUM", "1"): "expected a number of at least 0 and below 1, got 1",
    ("SOLVER.WEIGHT_DECAY", "-1e-4"): "expected a number of at least 0, got -0.0001",
    ("SOLVER.BASE_LR", "1e-6"): "SOLVER.MIN_LR: expected at most SOLVER.BASE_LR 1e-06, got 0.0001",
    ("SOLVER.BASE_LR", "1e999"): "expected a number above 0, got inf",
    ("SOLVER.MAX_ITER", "40k"): "expected a whole number of at least 1, got '40k'",
    ("SOLVER.KEEP_CHECKPOINTS", "-1"): "expected a whole number of at least 0, got -1",
    ("SOLVER.LOG_PERIOD", "0"): "expected a whole number of at least 1, got 0",
    ("SOLVER.AMP.DTYPE", "float16"): "expected one of auto, off, bf16, fp16, got 'float16'",
    ("TEST.TRIMAP_WIDTHS", "[1, 3, 'x']"): "expected a list, each a whole number of at least 1",
    ("TEST.SCALES", "[0.5, -1]"): "expected a list that is not empty, each a number above 0",
    ("TEST.FLIP", "1"): "expected True or False, got '1'",
    ("SEED", "-1"): "expected a whole number from 0",
    ("SEED", "1.5"): "expected a whole number from 0",
    ("DATALOADER.NUM_WORKERS", "auto"): "expected a whole number of at least -1, got 'auto'",
    ("DATALOADER.NUM_WORKERS", "-2"): "expected a whole number of at least -1, got -2",
    ("DATASETS.FOLDER.ID_MAP", "{0: 0}"): "expected a list, each two whole numbers from 0 to 255",
    ("DATASETS.FOLDER.ID_MAP", "[[7, 0], [8, 1], [7, 1]]"): "expected one trained id per mask value, got 0 and 1 for 7",
    ("SOLVER.MAX_ITER.X", "1"): "expected SOLVER.MAX_ITER, which has no keys below it",
    ("SOLVER", "{'MAX_ITER': 3}"): "SOLVER: expected one of its keys, .*MAX_ITER.*, got the node",
    ("OUTPUT_DIR", ""): "expected a path, got ''",
    ("DISTILL.CWD.WEIGHT", "-3"): "expected a number of at least 0, got -3.0",
    ("DISTILL.WEIGHTS", "[1, -1]"): "expected a list, each a number above 0",
    ("TEACHER.OTHERS", "[{'AMP': 'half'}]"): r"OTHERS\[0\].AMP: expected one of auto, off, bf16, fp16, got 'half'",
}  # fmt: skip


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with."""
    assert main(words) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    return said[0]


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_refused_in_one_line(key: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["check-data", "--config-file", str(BASE), "--draw", "0", *SCENES, key, value], capsys)
    assert key in line
    assert re.search(REFUSED[key, value], line), line


MEANT: dict[tuple[str, str], Any] = {
    ("SOLVER.MAX_ITER", "4e4"): 40000,
    ("SOLVER.MAX_ITER", "40_000"): 40000,
    ("SOLVER.MAX_ITER", "20.0"): 20,
    ("SOLVER.BASE_LR", "1"): 1.0,
    ("SOLVER.BASE_LR", ".02"): 0.02,
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "5e-1"): 0.5,
    ("MODEL.CHANNELS_LAST", "true"): True,
    ("TEST.FLIP", "no"): False,
    ("INPUT.CROP_SIZE", "64,96"): [64, 96],
    ("INPUT.SCALE_RANGE", "(0.5, 2)"): [0.5, 2],
    ("TEST.SCALES", "(1,)"): [1],
    ("OUTPUT_DIR", "2026"): "2026",
    ("DATASETS.ROOT", "1e3"): "1e3",
    ("MODEL.WEIGHTS", "None"): "",
    ("DATASETS.FOLDER.CLASSES", "['None', 'no', '1']"): ["None", "no", "1"],
    ("SEED", "9223372036854775807"): 2**63 - 1,
    ("TEST.EVAL_PERIOD", "0"): 0,
    ("MODEL.AUX_HEAD.LOSS_WEIGHT", "0"): 0.0,
}


@pytest.mark.parametrize(("key", "value"), MEANT)
def test_taken_as_meant(key: str, value: str) -> None:
    found: Any = read_config(str(BASE), [key, value])
    for part in key.split("."):
        found = found[part]
    assert found == MEANT[key, value]
    assert type(found) is type(MEANT[key, value])


def test_the_last_of_two_values_counts_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["train", "--config-file", str(BASE), "SEED", "1", "SOLVER.MAX_ITER", "9", "SEED", "-1"], capsys)
    assert "SEED: expected a whole number from 0" in line
    assert main(["train", "--config-file", str(BASE), "SEED", "1", "SOLVER.MAX_ITER", "0", "SEED", "2"]) == 2
    assert "warning: KEY VALUE: SEED is given 2 times (1, 2): the last, 2, counts." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.GAMMA", "0.5"], "SOLVER.GAMMA has no effect: it is read where SOLVER.LR_SCHEDULER_NAME is "),
        (["INPUT.CROP.ENABLED", "True"], "INPUT.CROP.ENABLED has no effect: it is read where MODEL.META_ARCHITECTURE"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "3"], "NUM_CLASSES has no effect: bpkd does not read this key of Detectron2"),
        (["SOLVER.NESTEROV", "True"], "SOLVER.NESTEROV has no effect: bpkd does not read this key of Detectron2"),
        (["SOLVER.WARMUP_ITERS", "500", "SOLVER.MAX_ITER", "500"], "ends within the warm-up of 500"),
    ],
)
def test_what_has_no_effect_is_said(opts: list[str], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        read_config(str(BASE), opts)


def test_every_door_refuses_before_it_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(f"_BASE_: {BASE}\nINPUT:\n  FLIP_PROB: 2\n")
    (tmp_path / "search.yaml").write_text("config: c.yaml\nopts: []\ntrials: {CWD: [{WEIGHT: 1.0}]}\n")
    (tmp_path / "w.pth").write_bytes(b"")
    config = ["--config-file", "c.yaml"]
    for words in (
        ["train", *config], ["eval", *config], ["check-data", *config], ["suggest-grids", *config],
        ["compare", *config, "--methods", "none", "CWD", "--output", "runs"], ["cache-teacher", "folder", *config],
        ["export", "net.onnx", *config, "--weights", "w.pth"], ["analyze", *config],
        ["search", "search.yaml", "--output", "runs"],
        ["visualize", "--images", str(BASE.parent), *config, "--weights", "w.pth"],
    ):  # fmt: skip
        line = refused(words, capsys)
        assert "line 3: INPUT.FLIP_PROB: expected a number from 0 to 1, got 2." in line, words
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.yaml", "search.yaml", "w.pth"]


def test_a_search_with_a_method_given_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = "trials:\n  CWD: [{WEIGHT: 1.0}]\n  CWD: [{WEIGHT: 2.0}]\n"
    (tmp_path / "search.yaml").write_text(f"config: {BASE}\nopts: []\n{trials}")
    line = refused(["search", str(tmp_path / "search.yaml"), "--output", str(tmp_path / "runs")], capsys)
    assert "search.yaml: line 5: trials.CWD is given twice, in line 4 and in line 5" in line
