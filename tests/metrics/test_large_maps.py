"""Label maps beyond Pillow's limit of 179 megapixels are read, and counted in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bpkd.metrics.maps import read_ids
from tests.conftest import REPO

MEASURE = """
import resource, sys
from bpkd.cli.main import run
status = run("metrics", sys.argv[1:])
print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_the_limit_is_lifted_for_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.png")
    assert read_ids(tmp_path / "a.png").sum() == 40
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.slow
def test_182_megapixels(tmp_path: Path) -> None:
    """An 8-bit map and a 1-bit one; 25 s and 2.4 GB on 2 cores."""
    height, width, left = 13000, 14000, 3000
    for side, shift in (("p", 10), ("g", 0)):
        (tmp_path / side).mkdir()
        ids = np.zeros((height, width), np.uint8)
        ids[4000:9000, left + shift : 8000] = 1
        Image.fromarray(ids if side == "p" else ids.astype(bool)).save(tmp_path / side / "a.png")
    words = [str(tmp_path / "p"), str(tmp_path / "g"), "--num-classes", "2", "--json", str(tmp_path / "f.json")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, cwd=REPO, check=True)
    status, peak = done.stdout.splitlines()[-1].split()
    assert status == "0"
    assert int(peak) < 3_500_000  # KiB; the map as 64-bit numbers alone would be 1.4 GB on each side
    inside, wrong = 5000 * 5000, 5000 * 10
    iou = ((inside - wrong) / inside, (height * width - inside) / (height * width - inside + wrong))
    assert json.loads((tmp_path / "f.json").read_text())["mIoU"] == pytest.approx(50 * sum(iou))
