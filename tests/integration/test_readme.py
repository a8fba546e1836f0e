"""What README promises exists and runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion

from bpkd.config import read_config
from bpkd.export import to_onnx
from bpkd.modeling import build_student

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LINES = README.splitlines()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def own_data(folder: Path) -> Path:
    """Writes README's mine.yaml and six images with masks as it describes them."""
    (text,) = blocks("yaml")
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (folder / "data" / split / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.full((160, 144), i % 3, np.uint8)
            mask[:, 70:] = (i + 1) % 3
            mask[:4] = 255
            cv2.imwrite(str(folder / "data" / split / "masks" / f"{i}.png"), mask)
            cv2.imwrite(str(folder / "data" / split / "images" / f"{i}.jpg"), np.repeat(mask[..., None] % 3 * 90, 3, 2))
    text = text.replace("configs/", f"{ROOT}/configs/").replace("/data/mine", f"{folder}/data")
    (folder / "mine.yaml").write_text(text)
    return folder / "mine.yaml"


def test_it_is_short_and_comes_to_own_data_soon() -> None:
    assert len(LINES) <= 120
    assert LINES.index("## Your own data") < 60


def test_losses_and_metrics_alone_run() -> None:
    _, code = blocks("python")
    names: dict = {}
    exec(code, names)
    assert names["student"].grad.isfinite().all()
    assert names["student"].grad.abs().sum() > 0
    assert names["result"]["mIoU"] == 100


def test_the_exported_student_runs_without_bpkd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if TorchVersion(torch.__version__) < "2.7.0a0":
        pytest.skip("ONNX files need torch 2.7")
    for module in ("onnxruntime", "onnxscript"):
        pytest.importorskip(module)
    code, _ = blocks("python")
    assert "import bpkd" not in code
    torch.manual_seed(0)
    cfg = read_config(str(ROOT / "configs/quickstart/student.yaml"), ["MODEL.DEVICE", "cpu"])
    model = build_student(cfg).eval()
    model.drop_auxiliary()
    height, width = (int(n) for n in re.search(r"--size (\d+) (\d+)", README).groups())
    monkeypatch.chdir(tmp_path)
    to_onnx(model, "student.onnx", (height, width))
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (width, height))
    cv2.imwrite("street.png", image)
    exec(code, {})
    labels = cv2.imread("labels.png", cv2.IMREAD_UNCHANGED)
    item = {"image": torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy()), "height": height, "width": width}
    with torch.no_grad():
        (wanted,) = model([{**item, "image_format": "RGB"}])
    assert labels.shape == (height, width)
    assert len(np.unique(labels)) > 1
    assert (labels == wanted["sem_seg"].argmax(0).numpy()).mean() > 0.99


def test_own_data_yaml_builds(tmp_path: Path) -> None:
    cfg = read_config(str(own_data(tmp_path)), ["MODEL.DEVICE", "cpu"])
    assert build_student(cfg).num_classes == len(cfg.DATASETS.FOLDER.CLASSES) == 3


@pytest.mark.slow
def test_own_data_commands_run(tmp_path: Path) -> None:
    own_data(tmp_path)
    (text,) = (b for b in blocks("bash") if "mine.yaml" in b)
    short = ("MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0")
    for line in text.replace("\\\n", " ").splitlines():
        program, verb, *arguments = shlex.split(line)
        assert (program, verb) == ("bpkd", "train")
        run = subprocess.run(
            [sys.executable, "-m", "bpkd.engine", *arguments, *short],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr[-2000:]
    record = json.loads((tmp_path / "output/mine/student/run.json").read_text())
    assert record["method"] == "BPKD"


def test_figures_are_those_of_the_records() -> None:
    """Every mean in the results table is the mean of its records."""
    table = [re.split(r" *\| *", line.strip("| ")) for line in LINES if re.match(r"\| (small|built-in|CamVid)", line)]
    methods = {"student alone": "none", "teacher": "teacher"}
    for row, name in zip(table[1:], ("quickstart", "camvid_compare"), strict=True):
        records = json.loads((ROOT / f"projects/BPKD/results/{name}.json").read_text())
        for method, cell in zip(table[0][1:], row[1:], strict=True):
            wanted = methods.get(method, method)
            mine = [r["metrics"] for r in records if r["method"] == wanted]
            means = [np.mean([m[key] for m in mine]) for key in ("mIoU", "trimap_w3")]
            assert cell == "{:.2f} ({:.2f})".format(*means), (name, method)
