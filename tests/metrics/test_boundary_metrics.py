"""tools/boundary_metrics.py: the figures of SegmentationMetrics from two folders, or a plain error."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bpkd.metrics import SegmentationMetrics
from tests.conftest import REPO
from tests.helpers.label_maps import blocks

TOOL = REPO / "tools" / "boundary_metrics.py"
main = runpy.run_path(str(TOOL))["main"]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    for i in range(3):
        for name, ids in zip(("pred", "gt"), blocks(i), strict=True):
            path = tmp_path / name / "ulm" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ids.astype(np.uint8)).save(path)
    return [str(tmp_path / "pred"), str(tmp_path / "gt")]


def strict(text: str) -> dict:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_is_the_metrics_result(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*folders, "--num-classes", "5", "--widths", "1", "3", "--per-image", "--json"]) == 0
    got = strict(capsys.readouterr().out)
    metrics = SegmentationMetrics(5, widths=(1, 3))
    for i in range(3):
        metrics.update(*blocks(i))
    want = json.loads(json.dumps(metrics.compute()), parse_constant=lambda _: None)
    images = got.pop("images")
    assert got == want
    assert got["IoU"][4] is None
    assert sorted(images) == ["ulm/0", "ulm/1", "ulm/2"]
    one = SegmentationMetrics(5, widths=(1, 3))
    one.update(*blocks(1))
    assert images["ulm/1"]["mIoU"] == one.compute()["mIoU"]


def test_table_has_classes_and_images(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    names = ["sky", "road", "car", "tree", "never"]
    assert main([*folders, "--num-classes", "5", "--per-image", "--classes", *names]) == 0
    shown = capsys.readouterr().out
    assert "| never | - |" in shown
    rows = [line.split(" | ") for line in shown.splitlines() if line.startswith("| ulm/")]
    assert [float(r[1]) for r in rows] == sorted(float(r[1]) for r in rows)
    assert "| boundary F, 3 px |" in shown


def test_it_runs_without_detectron2(folders: list[str]) -> None:
    code = "import runpy, sys; sys.modules['detectron2'] = None; sys.argv = sys.argv[1:]; " \
           "runpy.run_path(sys.argv[0], run_name='__main__')"  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, str(TOOL), *folders, "--num-classes", "4", "--json"],
        capture_output=True, text=True, cwd=REPO,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert strict(done.stdout)["protocol"]["num_images"] == 3


def test_plain_errors(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def message(*args: str) -> str:
        assert main([*args]) == 2
        return capsys.readouterr().err

    pred, gt = (Path(f) for f in folders)
    assert "error: ulm/0: prediction: expected ids 0..1, got 2, 3" in message(*folders, "--num-classes", "2")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(pred / "ulm" / "1.png")
    assert "error: ulm/1: expected prediction and label of one shape" in message(*folders, "--num-classes", "4")
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(pred / "ulm" / "1.png")
    assert "1.png: expected one channel of class ids, got mode RGB" in message(*folders, "--num-classes", "4")
    (pred / "ulm" / "1.png").write_text("text")
    assert "1.png: cannot be read as a label map" in message(*folders, "--num-classes", "4")
    (pred / "ulm" / "1.png").unlink()
    (gt / "ulm" / "2.png").rename(gt / "2.png")
    text = message(*folders, "--num-classes", "4")
    assert "2 of 3 labels have no prediction: 2, ulm/1; 1 of 2 predictions have no label: ulm/2. Files" in text
    assert "expected a folder, which does not exist" in message(str(pred / "none"), str(gt), "--num-classes", "4")
    (pred / "ulm" / "0.bmp").write_text("")
    assert "0.bmp and 0.png are both ulm/0" in message(*folders, "--num-classes", "4")


def test_suffixes_pair_cityscapes_names(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for folder, end in zip(folders, ("_pred.png", "_gtFine_labelTrainIds.png"), strict=True):
        for path in Path(folder).rglob("*.png"):
            path.rename(path.with_name(path.stem + end))
    (Path(folders[1]) / "ulm" / "0_gtFine_color.png").write_text("another file of the data set")
    suffixes = ["--pred-suffix", "_pred.png", "--gt-suffix", "_gtFine_labelTrainIds.png"]
    assert main([*folders, "--num-classes", "4", "--json", *suffixes]) == 0
    assert strict(capsys.readouterr().out)["protocol"]["num_images"] == 3


def test_labels_that_are_all_ignored_are_an_error(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for path in Path(folders[1]).rglob("*.png"):
        Image.fromarray(np.full_like(np.asarray(Image.open(path)), 255)).save(path)
    assert main([*folders, "--num-classes", "5"]) == 2
    assert "no pixel counts: every label in" in capsys.readouterr().err
