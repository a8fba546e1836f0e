"""The recipes of docs/how_to: each example is used from outside the package, by its config alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SHORT = "MODEL.DEVICE cpu DATALOADER.NUM_WORKERS 0 SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 SOLVER.CHECKPOINT_PERIOD 2"
SCENES = "DATASETS.PROCEDURAL.SIZE [48,64] DATASETS.PROCEDURAL.NUM_TRAIN 4 DATASETS.PROCEDURAL.NUM_VAL 2"


def train(example: str, output: Path, *opts: str, **environment: str) -> dict:
    """Trains two iterations of an example's config.yaml in a process of its own; returns the run's record."""
    command = [sys.executable, "-m", "bpkd.engine", "--config-file", str(EXAMPLES / example / "config.yaml")]
    paths = os.pathsep.join((str(EXAMPLES / example), str(ROOT)))
    run = subprocess.run(
        [*command, *SHORT.split(), "OUTPUT_DIR", str(output), *opts],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        cwd=output.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads((output / "run.json").read_text())


def test_network(tmp_path: Path) -> None:
    record = train("my_network", tmp_path / "out", *SCENES.split())
    assert 0 <= record["metrics"]["mIoU"] <= 100


def test_data_set(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        (folder := tmp_path / "data" / split).mkdir(parents=True)
        for i in range(count):
            mask = np.full((64, 96), i % 4, np.uint8)
            mask[:, 48:] = 1 + i % 3
            cv2.imwrite(str(folder / f"{i}.jpg"), np.repeat(60 * mask[..., None], 3, axis=2))
            cv2.imwrite(str(folder / f"{i}.png"), mask)
    record = train("my_data_set", tmp_path / "out", "INPUT.CROP_SIZE", "[64,64]", MY_DATA=str(tmp_path / "data"))
    assert record["metrics"]["IoU-road"] >= 0


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "how_to").glob("add_*.md")), ids=lambda page: page.stem)
def test_pages_show_the_files(page: Path) -> None:
    """Every code block that begins with "# examples/..." is part of that file, as it stands, with its imports."""
    shown = [block.split("```")[0] for block in page.read_text().split("\n# examples/")[1:]]
    assert shown
    for block in shown:
        name, _, code = block.partition("\n")
        file = (EXAMPLES / name.strip()).read_text()
        assert code.strip() in file, name
        imports = re.findall(r"^(?:import|from(?! __future__)) .*", file, re.MULTILINE)
        assert set(imports) <= set(code.splitlines()), name
